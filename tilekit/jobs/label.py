"""Label: number the objects of a class map over the whole image, block by block, and measure them.

Ids are dense from 1 in row-major order of each object's first pixel, so they depend on neither blocks nor workers.
What lies between the stages is in `.tilekit/label/`, and is removed at the end. Nothing is ever written in place.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.components import CONNECTIVITIES
from tilekit.copies import remove_tree
from tilekit.engine import Progress, Receipt, Report, Stage, execute, no_progress
from tilekit.errors import InputError
from tilekit.jobs.finding import WORK, Finding, new_finding
from tilekit.jobs.ingest import reachable
from tilekit.jobs.label_plan import label_task_bytes
from tilekit.jobs.measure import BATCH, TABLE, Measuring, columns, fold_parts, read_parts
from tilekit.jobs.numbering import STAGE, WriteConfig, write_objects
from tilekit.jobs.objects import find_in_block, fold_void
from tilekit.jobs.outlines import check_can_outline, run_outlines
from tilekit.jobs.output import (
    Pyramid,
    complete_pyramid,
    is_sharded,
    keep_nothing,
    lay_levels,
    set_status,
    stage_folder,
    write_metadata,
    writing,
)
from tilekit.jobs.predict import CLASSES
from tilekit.jobs.predict import STAGE as PREDICT
from tilekit.jobs.tree import JoinConfig, fold_rows, join_nodes, level_shape, n_levels, own_objects
from tilekit.ledger import FOLDER, Ledger, is_whole, mark_started, read_arguments, stages, written_digest
from tilekit.place import as_path
from tilekit.run import Runner
from tilekit.sources import Source, open_image
from tilekit.split import check_can_split
from tilekit.stall import moved
from tilekit.store import group_attributes, is_store, store_version, update_group

Array = NDArray[Any]
OBJECTS = "labels/objects"


@dataclass(frozen=True, slots=True)
class TableConfig:
    """What the one task of the table needs."""

    out: Path
    measuring: Measuring
    objects_per_row: tuple[int, ...]
    """Objects that begin in each row of blocks, plane after plane."""
    planes: dict[str, int]
    """Sides of the leading axes, by name."""
    pixel_size: tuple[float, float] | None


def write_table(_: int, config: TableConfig) -> Receipt:
    """Stage table: one row per object in the order of ids, a row group per batch."""
    from tilekit.tables import TableWriter

    redone = mark_started(stage_folder(config.out, "label-table"), 0)
    sides, total = tuple(config.planes.values()), sum(config.objects_per_row)
    last_of_plane = np.cumsum(np.reshape(config.objects_per_row, (math.prod(sides), -1)).sum(1))
    with TableWriter(config.out, TABLE) as table:
        for batch in range(max(-(-total // BATCH), 1)):
            moved()
            n = min(total - batch * BATCH, BATCH)
            parts = read_parts(config.out, batch, config.measuring)
            found = columns(fold_parts(parts, batch * BATCH + 1, n), config.measuring, config.pixel_size)
            place = np.unravel_index(np.searchsorted(last_of_plane, found["id"]), sides) if sides else ()
            table.write(found | dict(zip(config.planes, place, strict=True)))
    return Receipt([table.record], {}, redone)


def run_label(
    finding: Finding, measuring: Measuring | None, version: str, runner: Runner, progress: Progress = no_progress
) -> list[Report]:
    """All stages, from the class map to ids, pyramid, metadata and table; the caller holds the lock."""
    reports: list[Report] = []
    if finding.fill_below:
        reports += _find(finding.of_holes(), runner, progress)
    reports += _find(finding, runner, progress)
    count = _stage(finding, "label-objects-count", own_objects, finding, fold=fold_rows)
    reports.append(execute(count, runner, progress))
    rows = reports[-1].summary.get("rows", {})
    per_row = tuple(rows.get(str(i), 0) for i in range(len(finding.grid) // finding.grid.per_axis[1]))
    pyramid = objects_pyramid(finding, sum(per_row), version)
    has_void = any(r.summary.get("void") for r in reports)
    config = WriteConfig(finding, pyramid, measuring, per_row, has_void)

    def prepare() -> None:
        said = {"objects": sum(per_row), "unsplit": reports[-1].summary.get("unsplit", 0)}
        label = {"version": version} if version == "0.4" else {}
        update_group(finding.out, version, {})
        write_metadata(pyramid, finding.classes, {"image-label": {**label, "source": {"image": "../../"}}})
        update_group(finding.out / OBJECTS, version, {"tilekit": {"parameters": _arguments(finding), **said}})
        pyramid.create()

    reports.append(execute(_stage(finding, STAGE, write_objects, config, prepare=prepare), runner, progress))
    reports += complete_pyramid(pyramid, STAGE, runner, progress)
    if measuring is not None:
        planes = dict(zip(finding.classes.axes[:-2], finding.grid.planes, strict=True))
        table = TableConfig(finding.out, measuring, per_row, planes, finding.classes.pixel_size)
        reports.append(execute(_stage(finding, "label-table", write_table, table, 1), runner, progress))
    return reports


def _stage(finding: Finding, name: str, task: Any, config: Any, n_blocks: int | None = None, **more: Any) -> Stage:
    """A step over the blocks of a finding, unless another number is given."""
    n = len(finding.grid) if n_blocks is None else n_blocks
    fold = more.pop("fold", keep_nothing)
    return Stage(name, finding.out, task, config, n, _arguments(finding), fold, sources=(finding.classes,), **more)


def _find(finding: Finding, runner: Runner, progress: Progress) -> list[Report]:
    """Stages find and join."""

    def stage(name: str, task: Any, config: Any, n: int, fold: Any = keep_nothing) -> Report:
        step = _stage(finding, f"label-{finding.name}-{name}", task, config, n, fold=fold)
        return execute(step, runner, progress)

    reports = [stage("find", find_in_block, finding, len(finding.grid), fold_void)]
    for level in range(1, n_levels(finding.grid) + 1):
        ny, nx = level_shape(finding.grid, level)
        n = finding.grid.n_planes * ny * nx
        reports.append(stage(f"join-{level}", join_nodes, JoinConfig(finding, level), n))
    return reports


def objects_pyramid(finding: Finding, n_objects: int, version: str) -> Pyramid:
    """The arrays of `labels/objects`: uint32 until there are more objects than it can number."""
    sharded, n_planes = is_sharded(finding.out, version, finding.classes), math.prod(finding.grid.planes)
    levels, passes = lay_levels(finding.grid.shape, finding.grid.side, n_planes, chunk=None, sharded=sharded)
    return Pyramid(
        out=finding.out,
        name=OBJECTS,
        leading=finding.grid.planes,
        axes=finding.classes.axes,
        channel_axis=None,
        dtype="<u4" if n_objects < 2**32 else "<u8",
        levels=levels,
        passes=passes,
        version=version,
        is_labels=True,
        georeference=finding.classes.georeference,
    )


def _arguments(finding: Finding) -> dict[str, Any]:
    """All that decides the bytes."""
    return {
        "classes": {k: v for k, v in finding.fingerprint.items() if k != "path"},
        "block": finding.grid.side,
        "connectivity": finding.connectivity,
        "fill_holes": finding.fill_below,
        "min_size": finding.min_size,
        "split": finding.split_below,
    }


def label_unless_done(
    finding: Finding, image: Source | None, version: str, runner: Runner, progress: Progress
) -> list[Report]:
    """Label, unless the same labeling is complete and every file of it sound; the caller holds the lock.

    Intensities are those of `image`. Refuses an output that was labeled with other arguments.
    """
    out = finding.out
    if read_arguments(out, STAGE) is not None and not (out / WORK).exists():
        Ledger(out, STAGE, len(finding.grid), keep_nothing).begin(_arguments(finding))
        passes = sorted(path.name for path in (out / FOLDER).glob(f"{STAGE}-[0-9]*"))
        if all(is_whole(out, stage, WORK) for stage in (STAGE, *passes, "label-table")):
            return []
        clear_labels(out)
    set_status(out, version, "running")
    reports = run_label(finding, Measuring(image), version, runner, progress)
    remove_tree(out / WORK)
    return reports


def clear_labels(out: Path) -> None:
    """Remove what an earlier labeling wrote."""
    for path in (out / OBJECTS, *(out / FOLDER).glob("label*")):
        remove_tree(path)
    for path in (out / TABLE).parent.glob("objects.*"):
        path.unlink()


def label_image(
    classes: Source,
    out: Path,
    runner: Runner,
    *,
    connectivity: int = 8,
    block: int = 4096,
    min_size: int = 0,
    fill_holes: int = 0,
    split: int = 0,
    polygons: str | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Label as a job of its own: `labels/objects` and `tables/objects.parquet`, in a new store or one that is there."""
    check_label_arguments(classes, out, connectivity, block)
    if split:
        check_can_split()
    if polygons:
        check_can_outline(polygons, classes)
    started = time.perf_counter()
    version = store_version(out) if is_store(out) else "0.5"
    asked = {"min_size": min_size, "fill_below": fill_holes, "split_below": split}
    with writing(out):
        if overwrite:
            clear_labels(out)
        source = reachable(classes, out, runner)
        finding = new_finding(source, out, block, connectivity, fingerprint=class_fingerprint(classes, out), **asked)
        reports = label_unless_done(finding, image_beside(out, classes), version, runner, progress)
        if polygons:
            set_status(out, version, "running")
            reports += run_outlines(out, finding.grid, polygons, runner, progress)
        set_status(out, version, "complete")
    said = group_attributes(out / OBJECTS)["tilekit"]
    return {
        "objects": said["objects"],
        "unsplit": said["unsplit"],
        "blocks": len(finding.grid),
        "task_bytes": label_task_bytes(classes, block, split),
        "redone": sum(r.redone for r in reports),
        "seconds": round(time.perf_counter() - started, 3),
        "output": str(out),
    }


def label_stage(out: Path, runner: Runner, progress: Progress = no_progress) -> dict[str, Any]:
    """Label a store whose class map has just been made: labels of an earlier class map are made anew."""
    classes, store = open_classes(out, None)
    recorded = (read_arguments(out, STAGE) or {}).get("classes")
    now = {k: v for k, v in class_fingerprint(classes, store).items() if k != "path"}
    overwrite = recorded is not None and recorded != json.loads(json.dumps(now))
    return label_image(classes, store, runner, overwrite=overwrite, progress=progress)


def open_classes(classes: str | Path, out: str | Path | None) -> tuple[Source, Path]:
    """The class map and the output: of a store that has one, or of a class map and an output of its own."""
    if out is not None and as_path(out) != as_path(classes):
        return open_image(classes, as_labels=True), as_path(out)
    store = as_path(classes)
    if not (store / CLASSES).is_dir():
        raise InputError(f"{store}: has no {CLASSES}; segment it first, or name a class map and an output")
    if any(s["done"] < s["blocks"] for s in stages(store) if s["stage"].startswith(PREDICT)):
        raise InputError(f"{store}: its class map is not complete; run the same segment command again first")
    return open_image(store / CLASSES, as_labels=True), store


def class_fingerprint(classes: Source, out: Path) -> dict[str, Any]:
    """Facts that change when the class map does; of one that tilekit wrote into this output, every block."""
    facts = dict(classes.fingerprint)
    where = getattr(classes.reference, "source", None)
    if isinstance(where, str | Path) and as_path(where).resolve() == (out / CLASSES).resolve():
        facts["written"] = written_digest(out, PREDICT)
    return facts


def check_label_arguments(classes: Source, out: Path, connectivity: int, block: int) -> None:
    if connectivity not in CONNECTIVITIES:
        raise InputError(f"connectivity {connectivity}: pixels have 4 or 8 neighbors; choose one of these")
    if block < 1:
        raise InputError(f"a block of {block} pixels holds nothing; use 4096")
    if classes.dtype.kind not in "ui":
        raise InputError(f"{classes.name}: classes of type {classes.dtype}, must be integers; convert it")
    if "c" in classes.axes:
        raise InputError(f"{classes.name}: has axes {classes.axes}, a class map has no channels; choose one")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not is_store(out) and not (out / FOLDER).is_dir()):
        raise InputError(f"{out}: exists and is no Zarr store; choose another output")


def image_beside(out: Path, classes: Source) -> Source | None:
    """The image of an output, where it has the class map's size."""
    try:
        image = open_image(out)
    except InputError:
        return None
    same = image.shape[-2:] == classes.shape[-2:] and image.axes.replace("c", "") == classes.axes
    return image if same else None
