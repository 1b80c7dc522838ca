"""Label: number the objects of a class map over the whole image, block by block, and measure them.

Ids are dense from 1 in row-major order of each object's first pixel, so they depend on neither blocks nor workers.
What lies between the stages is in `.tilekit/label/`, and is removed at the end. Nothing is ever written in place.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tilekit import ngff
from tilekit.components import CONNECTIVITIES
from tilekit.engine import Progress, Receipt, Report, Stage, execute, no_progress
from tilekit.errors import InputError
from tilekit.jobs.finding import WORK, Finding, new_finding
from tilekit.jobs.ingest import reachable
from tilekit.jobs.measure import TABLE, Measuring, columns, fold_parts, read_parts
from tilekit.jobs.numbering import STAGE, WriteConfig, write_objects
from tilekit.jobs.objects import find_in_block, fold_void
from tilekit.jobs.output import Pyramid, complete_pyramid, keep_nothing, set_status, stage_folder, writing
from tilekit.jobs.tree import JoinConfig, fold_rows, join_nodes, level_shape, n_levels, own_objects
from tilekit.ledger import FOLDER, Ledger, mark_started, read_arguments
from tilekit.run import Runner
from tilekit.sources import Source, open_image
from tilekit.store import group_attributes, is_store, store_version, update_group
from tilekit.tiling import plan_pyramid

Array = NDArray[Any]
OBJECTS = "labels/objects"


@dataclass(frozen=True, slots=True)
class TableConfig:
    """What the one task of the table needs."""

    out: Path
    measuring: Measuring
    objects_per_row: tuple[int, ...]
    pixel_size: tuple[float, float] | None


def write_table(_: int, config: TableConfig) -> Receipt:
    """Stage table: one row per object in the order of ids, a row group per row of blocks."""
    from tilekit.tables import TableWriter

    redone = mark_started(stage_folder(config.out, "label-table"), 0)
    first = 1
    with TableWriter(config.out, TABLE) as table:
        for row, n in enumerate(config.objects_per_row):
            parts = read_parts(config.out, row, config.measuring.dtype())
            table.write(columns(fold_parts(parts, first, n), config.measuring, config.pixel_size))
            first += n
    return Receipt([table.record], {}, redone)


def run_label(
    finding: Finding, measuring: Measuring | None, version: str, runner: Runner, progress: Progress = no_progress
) -> list[Report]:
    """All stages, from the class map to ids, pyramid, metadata and table; the caller holds the lock."""
    reports: list[Report] = []
    if finding.fill_below:
        reports += _find(finding.of_holes(), runner, progress)
    reports += _find(finding, runner, progress)
    count = Stage(
        "label-objects-count", finding.out, own_objects, finding, len(finding.grid), _arguments(finding), fold_rows
    )
    reports.append(execute(count, runner, progress))
    rows = reports[-1].summary.get("rows", {})
    per_row = tuple(rows.get(str(i), 0) for i in range(len(finding.grid) // finding.grid.per_axis[1]))
    pyramid = objects_pyramid(finding, sum(per_row), version)
    has_void = any(r.summary.get("void") for r in reports)
    config = WriteConfig(finding, pyramid, measuring, per_row, has_void)

    def prepare() -> None:
        _write_metadata(finding, pyramid, {"objects": sum(per_row), "unsplit": reports[-1].summary.get("unsplit", 0)})
        pyramid.create()

    write = Stage(
        STAGE, finding.out, write_objects, config, len(finding.grid), _arguments(finding), keep_nothing, prepare
    )
    reports.append(execute(write, runner, progress))
    reports += complete_pyramid(pyramid, STAGE, runner, progress)
    if measuring is not None:
        table = TableConfig(finding.out, measuring, per_row, finding.classes.pixel_size)
        reports.append(
            execute(
                Stage("label-table", finding.out, write_table, table, 1, _arguments(finding), keep_nothing),
                runner,
                progress,
            )
        )
    return reports


def _find(finding: Finding, runner: Runner, progress: Progress) -> list[Report]:
    """Stages find and join."""

    def stage(name: str, task: Any, config: Any, n: int, fold: Any = keep_nothing) -> Report:
        title = f"label-{finding.name}-{name}"
        return execute(Stage(title, finding.out, task, config, n, _arguments(finding), fold), runner, progress)

    reports = [stage("find", find_in_block, finding, len(finding.grid), fold_void)]
    for level in range(1, n_levels(finding.grid) + 1):
        ny, nx = level_shape(finding.grid, level)
        n = finding.grid.n_planes * ny * nx
        reports.append(stage(f"join-{level}", join_nodes, JoinConfig(finding, level), n))
    return reports


def objects_pyramid(finding: Finding, n_objects: int, version: str) -> Pyramid:
    """The arrays of `labels/objects`: uint32 until there are more objects than it can number."""
    levels, passes = plan_pyramid(finding.grid.shape, finding.grid.side, sharded=version != "0.4")
    return Pyramid(
        out=finding.out,
        name=OBJECTS,
        leading=finding.grid.planes,
        axes=finding.classes.axes,
        channel_axis=None,
        dtype="<u4" if n_objects < 2**32 else "<u8",
        levels=tuple(levels),
        passes=tuple(passes),
        version=version,
        is_labels=True,
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


def _write_metadata(finding: Finding, pyramid: Pyramid, counts: dict[str, int]) -> None:
    source, version = finding.classes, pyramid.version
    entry = ngff.multiscales(
        "objects",
        pyramid.axes,
        len(pyramid.levels),
        version,
        pixel_size=source.pixel_size,
        translation=source.translation,
        method="majority",
    )
    labels = finding.out / "labels"
    attributes = group_attributes(labels)
    listed = [name for name in attributes.get("ome", attributes).get("labels", []) if name != "objects"]
    update_group(finding.out, version, {})
    update_group(labels, version, ngff.as_attributes(version, labels=[*listed, "objects"]))
    label: dict[str, Any] = {"source": {"image": "../../"}}
    if version == "0.4":
        label["version"] = version
    content = {"multiscales": entry, "image-label": label}
    known = {"parameters": _arguments(finding), **counts}
    update_group(finding.out / OBJECTS, version, {**ngff.as_attributes(version, **content), "tilekit": known})


def finished(finding: Finding) -> bool:
    """True where the same labeling is complete and every shard of it sound; what a torn one leaves is removed."""
    recorded = read_arguments(finding.out, STAGE)
    if recorded is None or (finding.out / WORK).exists():
        return False
    ledger = Ledger(finding.out, STAGE, len(finding.grid), keep_nothing)
    ledger.begin(_arguments(finding))
    ledger.replay()
    if ledger.n_done == len(finding.grid):
        return True
    clear_labels(finding.out)
    return False


def clear_labels(out: Path) -> None:
    """Remove what an earlier labeling wrote."""
    for path in (out / OBJECTS, *(out / FOLDER).glob("label*")):
        shutil.rmtree(path, ignore_errors=True)
    (out / TABLE).unlink(missing_ok=True)


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
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Label as a job of its own: `labels/objects` and `tables/objects.parquet`, in a new store or one that is there."""
    check_label_arguments(classes, out, connectivity, block)
    if split and fill_holes:
        raise InputError("objects are split or their holes filled, not both; leave out --split or --fill-holes")
    started = time.perf_counter()
    version = store_version(out) if is_store(out) else "0.5"
    with writing(out):
        if overwrite:
            clear_labels(out)
        source = reachable(classes, out, runner)
        asked = {"min_size": min_size, "fill_below": fill_holes, "split_below": split}
        finding = new_finding(source, out, block, connectivity, fingerprint=classes.fingerprint, **asked)
        done = finished(finding)
        reports = []
        if not done:
            set_status(out, version, "running")
            reports = run_label(finding, Measuring(image_beside(out, classes)), version, runner, progress)
            shutil.rmtree(out / WORK)
        set_status(out, version, "complete")
    said = group_attributes(out / OBJECTS)["tilekit"]
    return {
        "objects": said["objects"],
        "unsplit": said["unsplit"],
        "blocks": len(finding.grid),
        "redone": sum(r.redone for r in reports),
        "seconds": round(time.perf_counter() - started, 3),
        "output": str(out),
    }


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
