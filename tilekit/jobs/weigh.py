"""Weigh: the U-Net weight map of a label map of any size, block by block, with a viewer's pyramid.

    label    a class map's objects first, where the map is one (`jobs.label`)
    count    pixels of background and objects after the ridge, for the class weights; none where these are given
    write    ids of a block and its halo to weights, on every level that the block owns

The halo is what the tolerance of the border term asks for, so the map is that of the whole image, bit by bit, whatever
the block.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.engine import Progress, Receipt, Report, Stage, execute, no_progress
from tilekit.errors import InputError
from tilekit.jobs.finding import new_finding
from tilekit.jobs.ingest import STAGE as INGEST
from tilekit.jobs.ingest import reachable
from tilekit.jobs.label import OBJECTS, label_unless_done
from tilekit.jobs.numbering import STAGE as LABEL
from tilekit.jobs.output import (
    Pyramid,
    check_disk,
    check_output,
    clear_output,
    complete_pyramid,
    keep_nothing,
    lay_levels,
    now,
    set_status,
    stage_folder,
    write_metadata,
    writing,
)
from tilekit.jobs.pairs import open_labels
from tilekit.jobs.predict import CLASSES
from tilekit.jobs.predict import STAGE as PREDICT
from tilekit.ledger import Ledger, Summary, mark_started, written_digest
from tilekit.place import as_path
from tilekit.predictor import VOID
from tilekit.run import Runner
from tilekit.sources import Source, open_image
from tilekit.store import group_attributes
from tilekit.tiling import BlockGrid
from tilekit.weights import SIGMA, TOLERANCE, W0, as_ids, check_border, class_weights, reach, ridge, weigh

Array = NDArray[Any]
STAGE, COUNT, VERSION = "weigh", "weigh-count", "0.5"
KINDS = ("ids", "classes")
DTYPES = ("float32", "float16")


@dataclass(frozen=True, slots=True)
class WeighOptions:
    """What is asked of the weights."""

    w0: float = W0
    sigma: float = SIGMA
    ridge: bool = True
    """True where pixels beside another object become background first."""
    class_weights: tuple[float, float] | None = None
    """Of background and object; None to balance them over all valid pixels."""
    dtype: str = "float32"

    @property
    def halo(self) -> int:
        """Pixels around a block that its weights depend on."""
        return reach(self.sigma, self.w0) + self.ridge


@dataclass(frozen=True, slots=True)
class Weighing:
    """What a task needs."""

    ids: Source
    told: Source
    """The map that says what is void: the ids themselves, or the class map that they are of."""
    void: tuple[float, ...]
    """Its values that mean: nothing known here."""
    options: WeighOptions
    pyramid: Pyramid
    levels: tuple[float, float] = (0.0, 0.0)
    """Weights of background and object; unknown while they are counted."""

    @property
    def grid(self) -> BlockGrid:
        return self.pyramid.grid(self.pyramid.passes[0])


def read_ids(weighing: Weighing, plane: Sequence[int], core: Box, halo: int) -> tuple[Array, Array | None]:
    """Ids of a box and its halo (y, x), 0 where void or outside the image; where the box itself is void, if anywhere.

    Less the ridge, where that is asked for: true of all but the halo's outermost pixel.
    """
    around = core.grow((halo, halo), (halo, halo))
    inside = around.intersect(Box.whole(weighing.ids.shape[-2:]))
    place = [*((i, i + 1) for i in plane), *zip(inside.start, inside.stop, strict=True)]
    pixels = weighing.ids.read(place).reshape(inside.shape)
    void = None
    if weighing.void:
        told = pixels if weighing.told is weighing.ids else weighing.told.read(place).reshape(inside.shape)
        is_void = np.isin(told, weighing.void)
        if is_void.any():
            pixels, void = np.where(is_void, pixels.dtype.type(0), pixels), is_void[core.relative_to(inside).slices]
    if pixels.dtype.kind == "i" and (lowest := pixels.min()) < 0:
        raise InputError(f"{weighing.ids.name}: id {lowest} is below 0; map it to another, or say --void {lowest}")
    ids = np.zeros(around.shape, as_ids(pixels[:0]).dtype)
    ids[inside.relative_to(around).slices] = pixels
    return ridge(ids) if weighing.options.ridge else ids, void


def count_block(index: int, weighing: Weighing) -> Receipt:
    """Stage count: valid pixels of background and of objects."""
    redone = mark_started(stage_folder(weighing.pyramid.out, COUNT), index)
    block = weighing.grid.block(index)
    ids, void = read_ids(weighing, block.plane, block.box, halo=1)
    n_objects = int(np.count_nonzero(ids[1:-1, 1:-1]))
    n_void = 0 if void is None else int(np.count_nonzero(void))
    return Receipt([], {"pixels": [block.box.n_pixels - n_objects - n_void, n_objects]}, redone)


def add_pixels(total: Summary, part: Summary) -> Summary:
    """Pixels of background and objects of some blocks and of others."""
    return {"pixels": [a + b for a, b in zip(total.get("pixels", [0, 0]), part.get("pixels", [0, 0]), strict=True)]}


def weigh_block(index: int, weighing: Weighing) -> Receipt:
    """Stage write: the weights of a block, on every level that it owns."""
    pyramid, options, halo = weighing.pyramid, weighing.options, weighing.options.halo
    redone = mark_started(stage_folder(pyramid.out, STAGE), index)
    block = weighing.grid.block(index)
    ids, void = read_ids(weighing, block.plane, block.box, halo)
    core = Box.whole(block.box.shape).shift((halo, halo))
    weights: Array = weigh(ids, core, weighing.levels, w0=options.w0, sigma=options.sigma)
    if void is not None:
        weights[void] = 0
    weights = weights.astype(pyramid.dtype, copy=False).reshape((1,) * len(pyramid.leading) + weights.shape)
    return Receipt(pyramid.write_block(pyramid.passes[0], block.plane, block.box, weights), {}, redone)


def weight_pyramid(source: Source, out: Path, block: int, dtype: str) -> Pyramid:
    """The arrays of the weight map: an image with the label map's axes and place; 0 is the fill value."""
    grid = BlockGrid(tuple(source.shape[:-2]), (source.shape[-2], source.shape[-1]), block)
    sharded = source.georeference is None
    levels, passes = lay_levels(grid.shape, grid.side, grid.n_planes, chunk=None, sharded=sharded)
    return Pyramid(
        out=out,
        name="",
        leading=grid.planes,
        axes=source.axes,
        channel_axis=None,
        dtype=np.dtype(dtype).str,
        levels=levels,
        passes=passes,
        version=VERSION,
        is_labels=False,
        georeference=source.georeference,
    )


def run_weigh(weighing: Weighing, arguments: dict[str, Any], runner: Runner, progress: Progress) -> list[Report]:
    """Count where that is asked for, write the weights, their pyramid and metadata; the caller holds the lock."""
    pyramid, options, n_blocks = weighing.pyramid, weighing.options, len(weighing.grid)
    out, levels, reports = pyramid.out, options.class_weights, []
    if levels is None:
        count = Stage(COUNT, out, count_block, weighing, n_blocks, arguments, add_pixels, sources=(weighing.told,))
        reports.append(execute(count, runner, progress))
        background, inside = class_weights(reports[0].summary["pixels"])
        levels = (background, inside)
    limit = float(np.finfo(options.dtype).max)
    if (highest := max(levels) + options.w0) > limit:
        raise InputError(f"{out}: weights up to {highest:g} do not fit {options.dtype} ({limit:g}); use float32")

    def prepare() -> None:
        set_status(out, VERSION, "running", class_weights=list(levels), halo=options.halo)
        write_metadata(pyramid, weighing.told, {})
        pyramid.create()

    config = replace(weighing, levels=levels)
    write = Stage(STAGE, out, weigh_block, config, n_blocks, arguments, keep_nothing, prepare, sources=(weighing.told,))
    reports.append(execute(write, runner, progress))
    return reports + complete_pyramid(pyramid, STAGE, runner, progress)


def weigh_labels(
    labels: str | Path | Source,
    out: Path,
    runner: Runner,
    options: WeighOptions,
    *,
    kind: str = "ids",
    void: int | None = None,
    block: int = 4096,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Weigh as a job of its own, from the checks to the word complete; `void` None is what the file says."""
    source = open_labels(labels, kind, void)
    check_labels(labels, source, out, kind, void)
    check_asked(options, block)
    check_output(out, overwrite=overwrite, stage=STAGE)
    pyramid = weight_pyramid(source, out, block, options.dtype)
    check_disk(out, math.prod(source.shape) * np.dtype(options.dtype).itemsize * 4 // 3)
    facts = _facts(source)
    asked = {"labels": facts, "kind": kind, "void": source.nodata, "block": block, "tolerance": TOLERANCE}
    arguments = {**asked, **asdict(options)}
    started = time.perf_counter()
    with writing(out):
        if overwrite:
            clear_output(out)
        Ledger(out, STAGE, len(pyramid.grid(pyramid.passes[0])), keep_nothing).begin(arguments)
        set_status(out, VERSION, "running", source=source.fingerprint, date=now(), parameters=arguments)
        told, reports = reachable(source, out, runner), []
        ids = told
        if kind == "classes":
            finding = new_finding(told, out, block, 8, fingerprint=facts)
            reports = label_unless_done(finding, None, VERSION, runner, progress)
            ids = open_image(out / OBJECTS, as_labels=True)
        void_values = tuple(v for v in (source.nodata, VOID if kind == "classes" else None) if v)
        weighing = Weighing(ids, told, void_values, options, pyramid)
        reports += run_weigh(weighing, arguments, runner, progress)
        set_status(out, VERSION, "complete")
    return {
        "class_weights": group_attributes(out)["tilekit"]["class_weights"],
        "halo": options.halo,
        "tolerance": TOLERANCE,
        "blocks": len(weighing.grid),
        "redone": sum(r.redone for r in reports),
        "seconds": round(time.perf_counter() - started, 3),
        "output": str(out),
    }


def _facts(source: Source) -> dict[str, Any]:
    """Facts that change when the labels do; of labels that tilekit wrote, every block."""
    facts = {k: v for k, v in source.fingerprint.items() if k != "path"}
    place = as_path(where) if isinstance(where := source.reference.source, str) else Path()
    writer = {OBJECTS: LABEL, CLASSES: PREDICT}.get("/".join(place.parts[-2:]))
    written = written_digest(place.parent.parent, writer) if writer else written_digest(place, INGEST)
    return {**facts, "written": written} if written else facts


def check_labels(labels: Any, source: Source, out: Path, kind: str, void: int | None) -> None:
    """Refuse what is no label map, or lies in the output."""
    if kind not in KINDS:
        raise InputError(f"kind {kind}: labels are {' or '.join(KINDS)}; choose one of these")
    what = "object ids" if kind == "ids" else "classes"
    if source.dtype.kind not in "ui":
        raise InputError(f"{source.name}: {what} of type {source.dtype}, must be integers; convert it")
    if "c" in source.axes:
        raise InputError(f"{source.name}: has axes {source.axes}, a label map has no channels; choose one")
    if void == 0:
        raise InputError(f"{source.name}: --void 0 is the background; leave it out, or name another value")
    if void is not None and source.nodata is None:
        raise InputError(f"{source.name}: --void {void} is no value of {source.dtype} pixels; correct it")
    store = as_path(labels) if isinstance(labels, str | Path) else None
    if store and kind == "ids" and (store / CLASSES).is_dir() and not (store / OBJECTS).is_dir():
        raise InputError(f"{store}: has {CLASSES} and no {OBJECTS}; label it first, or weigh it with --kind classes")
    place = source.reference.source
    if isinstance(place, str) and as_path(place).is_relative_to(out.expanduser().absolute()):
        raise InputError(f"{out}: holds the labels, and the weight map would take their image's place; choose another")


def check_asked(options: WeighOptions, block: int) -> None:
    """Refuse a border term, weights or blocks that cannot be."""
    check_border(options.w0, options.sigma)
    if options.dtype not in DTYPES:
        raise InputError(f"weights of type {options.dtype}: are written as {' or '.join(DTYPES)}; choose one of these")
    if options.class_weights and not all(0 <= weight < math.inf for weight in options.class_weights):
        raise InputError(f"class weights {options.class_weights}: must be 0 or more, of background and object")
    if options.halo > block:
        raise InputError(
            f"sigma {options.sigma:g} looks {options.halo} pixels far, more than a block of {block}; use a smaller "
            f"one, or --block {max(4096, 2 ** (options.halo - 1).bit_length())}"
        )
