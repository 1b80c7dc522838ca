"""The main job: check all, then ingest, then predict; one body of code for the command line, Prefect and Python."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from tilekit.average import Averaged
from tilekit.blend import Blended
from tilekit.box import Box
from tilekit.boxes import Boxes
from tilekit.copies import remove_tree
from tilekit.engine import Progress, Report, no_progress
from tilekit.errors import InputError
from tilekit.jobs.area import Area, open_area
from tilekit.jobs.auto_mask import store_auto_mask
from tilekit.jobs.checks import check_pixel_size, choose_channels, choose_grid
from tilekit.jobs.ingest import image_pyramid, run_ingest
from tilekit.jobs.input import Input, show
from tilekit.jobs.output import check_disk, check_output, clear_output, is_sharded, set_status, writing
from tilekit.jobs.predict import (
    CLASSES,
    CONFIDENCE,
    PROBABILITIES,
    STAGE,
    Layout,
    PredictConfig,
    class_pyramids,
    prediction_folder,
    run_predict,
)
from tilekit.jobs.statistics import means, needs_statistics, run_statistics, stored_statistics, warn_of_units
from tilekit.ledger import FOLDER, read_arguments
from tilekit.place import as_path
from tilekit.plan import ImageFacts, Plan, make_plan
from tilekit.predictor import MAX_CLASSES, Predictor
from tilekit.resample import Grid
from tilekit.run import Runner, available_cores, available_memory
from tilekit.sources import Source, open_image
from tilekit.store import is_store, store_version
from tilekit.tiling import Pair


@dataclass(frozen=True, slots=True)
class Options:
    """What may be asked of a segmentation, besides image, network and output."""

    channels: tuple[int | str, ...] | None = None
    """Which of the image's channels by number or name, in the network's order."""
    level: int | None = None
    """Level of the image's pyramid, taken as it is; None: the image, at the network's pixel size where it has one."""
    pixel_size: tuple[float, float] | None = None
    """Micrometres per pixel of level 0 (y, x), where the file does not say or is wrong."""
    nodata: float | None = None
    axes: str | None = None
    """Names of the axes, where the file does not say or is wrong."""
    t: int | None = None
    """The one time to segment; None: all."""
    z: int | None = None
    """The one slice to segment; None: all."""
    series: int | None = None
    """Which image of a file that holds several."""
    box: Box | None = None
    """Part of the image (y, x) to predict; the rest is void, or stays what an earlier run of the output made of it."""
    mask: str | None = None
    """Where to predict: an image of the same size or coarser, nonzero there; GeoJSON; "auto": tissue or valid area."""
    probabilities: str | None = None
    """uint8 or float16: store them too."""
    confidence: str | None = None
    """uint8 or float16: store the highest probability and the entropy, and list the blocks of lowest confidence."""
    tile: int | None = None
    """Side of a tile's core, rounded down to the stride."""
    block: int | None = None
    """Side of what one task writes."""
    memory: int | None = None
    """Bytes for all workers together; None: four fifths of what is free."""
    average: str | None = None
    """flips: the mean over the 8 rotations and flips (tilekit.average)."""
    blend: bool = False
    """Blend windows of a network that cannot be exact (tilekit.blend); an exact one needs none."""
    workers: int | None = 0
    """Worker processes; 0: serially in this one, None: as many as cores and memory allow."""
    is_remote: bool = False
    """True where a scheduler elsewhere has the workers, whose memory is not that of this machine."""


@dataclass(frozen=True, slots=True)
class Job:
    """A segmentation whose input has been checked and whose plan is made; nothing is written yet."""

    image: Source
    """The image as the user gave it."""
    predictor: Predictor
    out: Path
    plan: Plan
    options: Options
    channels: tuple[int, ...]
    """Which of the image's channels, in the network's order."""
    equal: tuple[int, ...]
    """Channels that must equal the one that the network takes."""
    area: Area | None
    """What the mask tells; None where there is none, or it is yet to be found (auto)."""
    workers: int
    in_place: bool
    """True where the image is the output itself, and labels are added to it."""
    version: str
    """Of the output's NGFF."""

    def to_json(self) -> dict[str, Any]:
        """What the plan says, and what of the image is asked for; `mask` is not counted in blocks and seconds."""
        facts = {**self.plan.to_json(), "channels": list(self.channels)}
        if self.options.box is not None:
            facts |= {"box": show(self.options.box), "box_blocks": self._asked_blocks()}
        if self.options.mask is not None:
            facts["mask"] = self.options.mask
        if isinstance(self.predictor, Blended):
            facts["blend"] = self.predictor.window
        return facts

    def _asked_blocks(self) -> int:
        box = self.options.box
        return len(self.plan.grid) if box is None else self.plan.grid.n_planes * box.coarser(self.plan.block).n_pixels

    def seconds(self) -> float:
        """A rough estimate of the network's time alone, on cores of its own."""
        return self.plan.seconds(self.workers) * self._asked_blocks() / len(self.plan.grid)


def prepare(image: Any, predictor: Predictor, out: str | Path, options: Options, *, overwrite: bool = False) -> Job:
    """Check image, network and output against each other, and plan. Raises InputError; writes nothing."""
    out = as_path(out)
    in_place = isinstance(image, (str, Path)) and is_store(as_path(image)) and as_path(image).resolve() == out.resolve()
    source = _open(image, options)
    if options.average:
        predictor = Averaged.of([predictor], flips=True)
    if not in_place:
        check_output(out, overwrite=overwrite)
    recorded = None if overwrite else read_arguments(out, STAGE)
    if in_place and recorded is None and (out / CLASSES).exists() and not overwrite:
        raise InputError(f"{out}: has {CLASSES} that tilekit did not begin; move them, or use --overwrite")
    if not predictor.exact and not options.blend:
        raise InputError(
            f"this network cannot be exact: {predictor.inexact_reason}; "
            "use one whose layers see a bounded neighbourhood, or blend windows of this one with --blend"
        )
    if not predictor.exact:
        predictor = Blended.of(predictor)
    if predictor.n_classes > MAX_CLASSES:
        raise InputError(f"the network has {predictor.n_classes} classes; a class map holds at most {MAX_CLASSES}")
    channels, equal = choose_channels(source, predictor, options.channels)
    level, grid = _choose_grid(source, predictor, options, in_place)
    area = open_area(options.mask, source)
    if options.box is not None and not Box.whole(source.shape[-2:]).contains(options.box):
        raise InputError(
            f"{source.name}: the box {show(options.box)} is not inside the image of "
            f"{source.shape[-2]} x {source.shape[-1]} pixels; give one that is"
        )
    begun = recorded is not None and recorded.get("model") == predictor.digest and not options.tile
    core = _core(out, recorded) if recorded and begun else None
    planes = tuple(n for a, n in zip(source.axes[:-2], source.shape, strict=False) if a != "c")
    shape = (source.shape[-2], source.shape[-1])
    facts = ImageFacts(planes, len(channels), shape, source.dtype.itemsize, level, grid)
    plan, workers = _plan(facts, predictor, options, core)
    version = store_version(out) if in_place else "0.5"
    return Job(source, predictor, out, plan, options, channels, equal, area, workers, in_place, version)


def _core(out: Path, recorded: dict[str, Any]) -> tuple[int, int]:
    """Sides of the core that a run began with."""
    core = recorded.get("core")
    if not isinstance(core, list) or len(core) != 2 or not all(type(n) is int and n > 0 for n in core):
        raise InputError(f"{out}: its record says core {core}, must be two sides; start over with --overwrite")
    return core[0], core[1]


def _open(image: Any, options: Options) -> Source:
    """The image as the options ask for it; of a source, what they leave out stays as it is."""
    given = {k: getattr(options, k) for k in ("pixel_size", "nodata", "axes", "t", "z", "series")}
    if not hasattr(image, "fingerprint"):
        return open_image(image, level=options.level or 0, **given)
    changes = {k: v for k, v in given.items() if v is not None}
    source: Source = replace(image.reference, **changes).open() if changes else image
    return source


def _choose_grid(source: Source, predictor: Predictor, options: Options, in_place: bool) -> tuple[int, Grid]:
    """The level of the output that the network reads, and the network's pixels."""
    if options.level is not None:
        check_pixel_size(source, predictor)
        return (source.level if in_place else 0), Grid.of(source.shape)
    if in_place:
        opened = [replace(source.reference, level=k).open() for k in range(len(source.levels))]
        planar = takewhile(lambda level: level.shape[:-2] == source.shape[:-2], opened)
        levels = [(level.shape[-2:], level.scale) for level in planar]
    else:
        planned = image_pyramid(source, Path(), block=options.block, version="0.5").levels
        levels = [(level.shape, (2.0**k, 2.0**k)) for k, level in enumerate(planned)]
    return choose_grid(source, predictor, levels)


def _plan(facts: ImageFacts, predictor: Predictor, options: Options, core: Pair | None) -> tuple[Plan, int]:
    """The plan and the number of workers that the memory allows."""
    stored = np.dtype(options.probabilities).itemsize if options.probabilities else 0
    if options.confidence:  # two figures to at least two classes
        stored += np.dtype(options.confidence).itemsize
    memory = options.memory or (None if options.is_remote else available_memory() * 4 // 5)

    def plan_for(workers: int) -> Plan:
        return make_plan(
            facts,
            predictor,
            tile=options.tile,
            core=core,
            block=options.block,
            memory=None if memory is None else memory // max(workers, 1),
            probability_bytes=stored,
        )

    if options.workers is not None:
        return plan_for(options.workers), options.workers
    for workers in range(available_cores(), 1, -1):
        try:
            plan = plan_for(workers)
        except InputError:
            continue
        if plan.n_blocks > 1:
            return plan, min(workers, plan.n_blocks)
        return plan, 0
    return plan_for(0), 0


def clear(job: Job) -> None:
    """Remove what an earlier run wrote: the labels alone where the image is the output itself."""
    if not job.in_place:
        clear_output(job.out)
        return
    for name in (CLASSES, PROBABILITIES, CONFIDENCE):
        remove_tree(job.out / name)
    for folder in (job.out / FOLDER).glob(f"{STAGE}*"):
        remove_tree(folder)


def ingest_stage(job: Job, runner: Runner, progress: Progress = no_progress) -> list[Report]:
    """Bring the image into the output; nothing to do where it is the output."""
    if job.in_place:
        return []
    pyramid = image_pyramid(job.image, job.out, block=job.options.block, version=job.version)
    return run_ingest(job.image, pyramid, runner, progress)


def predict_stage(job: Job, runner: Runner, progress: Progress = no_progress) -> list[Report]:
    """Label the image in the output."""
    source = job.image if job.in_place else open_image(job.out)
    level = job.plan.image.level
    read = source if level == source.level else replace(source.reference, level=level).open()
    image = Input(source, read, job.plan.image.seen, job.channels, _fill(job, source, runner, progress), job.equal)
    warn_of_units(job.predictor, job.out, job.channels)
    area = store_auto_mask(image, job.out, job.version) if job.options.mask == "auto" else job.area
    boxes = Boxes.read(job.out, STAGE).asking(job.options.box)
    config = PredictConfig(
        input=image,
        predictor=job.predictor,
        plan=job.plan,
        pyramids=class_pyramids(image, job.plan, job.predictor, _layout(job)),
        boxes=boxes.union,
        area=area,
        folder=prediction_folder(job.out),
    )
    return run_predict(config, runner, arguments=_arguments(job, image, area), boxes=boxes, progress=progress)


def _layout(job: Job) -> Layout:
    sharded = is_sharded(job.out, job.version, job.image)
    return Layout(job.out, job.version, sharded, job.options.probabilities, job.options.confidence)


def _fill(job: Job, source: Source, runner: Runner, progress: Progress) -> tuple[float, ...]:
    """The means of the channels, which stand in for nodata; 0 where the image has no valid pixel."""
    statistics = stored_statistics(job.out)
    if statistics is None and needs_statistics(source):
        statistics = run_statistics(source, job.out, job.plan.block, runner, progress)
    return means(statistics, job.channels)


def _arguments(job: Job, image: Input, area: Area | None) -> dict[str, Any]:
    """All that decides the bytes of the class map but the boxes; the store may be moved between two runs."""
    return {
        "image": {k: v for k, v in image.source.fingerprint.items() if k != "path"},
        "labels_level": image.source.level,
        "level": image.level.level,
        "resampling": asdict(image.grid),
        "model": job.predictor.digest,
        "precision": getattr(job.predictor, "precision", "float32"),
        "channels": list(image.channels),
        "equal_channels": list(image.equal),
        "core": list(job.plan.core),
        "block": job.plan.block,
        "mask": None if area is None else dict(area.fingerprint),
        "probabilities": job.options.probabilities,
        **({"confidence": job.options.confidence} if job.options.confidence else {}),
        **({"average": job.options.average} if job.options.average else {}),
        **({"blend": job.predictor.window} if isinstance(job.predictor, Blended) else {}),
    }


def finish_stage(job: Job, reports: Sequence[Report], started: float) -> dict[str, Any]:
    """Say complete, and sum up."""
    set_status(
        job.out,
        job.version,
        "complete",
        model={"digest": job.predictor.digest, "class_names": list(job.predictor.class_names)},
        parameters={**(read_arguments(job.out, STAGE) or {}), "boxes": Boxes.read(job.out, STAGE).to_json()},
    )
    seconds = time.perf_counter() - started
    predicted = next(r for r in reports if r.stage == STAGE)
    shape = job.plan.image.shape
    megapixels = job.plan.grid.n_planes * shape[0] * shape[1] / 1e6
    lowest = [
        {"block": index, "box": show(job.plan.grid.block(index).box), "mean": mean}
        for mean, index in predicted.summary.get("lowest", [])
    ]
    done = 1 - predicted.done_before / max(predicted.blocks, 1)
    return {
        "blocks": predicted.blocks,
        "written": predicted.blocks - predicted.done_before,
        "redone": sum(r.redone for r in reports),
        "seconds": round(seconds, 3),
        "megapixels_per_second": round(megapixels * done / seconds, 3),
        "output": str(job.out),
        "classes": predicted.summary.get("classes", {}),
        "tiles_halved": predicted.summary.get("halved", 0),
        **({"lowest_confidence": lowest} if lowest else {}),
    }


def run_stages(
    job: Job,
    runner: Runner,
    progress: Progress = no_progress,
    *,
    overwrite: bool = False,
    step: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Ingest, predict, finish. `step(function, *arguments)` calls each stage; Prefect's flow makes it a task run."""
    call = step or (lambda function, *arguments: function(*arguments))
    started = time.perf_counter()
    image_bytes = 0 if job.in_place else math.prod(job.image.shape) * job.image.dtype.itemsize * 4 // 3
    check_disk(job.out, image_bytes + job.plan.output_bytes // 8)  # class maps compress well
    with writing(job.out):
        if overwrite:
            clear(job)
        reports = [*call(ingest_stage, job, runner, progress), *call(predict_stage, job, runner, progress)]
        return dict(call(finish_stage, job, reports, started))
