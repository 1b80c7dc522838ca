"""The main job: check all, then ingest, then predict; one body of code for the command line, Prefect and Python."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilekit.box import Box
from tilekit.engine import Progress, Report, no_progress
from tilekit.errors import InputError
from tilekit.jobs.checks import check_pixel_size, choose_channels, open_mask
from tilekit.jobs.ingest import image_pyramid, run_ingest
from tilekit.jobs.output import as_source, check_disk, check_output, clear_output, set_status, writing
from tilekit.jobs.predict import (
    CLASSES,
    PROBABILITIES,
    STAGE,
    Input,
    Layout,
    PredictConfig,
    class_pyramids,
    prediction_folder,
    run_predict,
)
from tilekit.jobs.statistics import means, needs_statistics, run_statistics, stored_statistics
from tilekit.ledger import FOLDER, read_arguments
from tilekit.plan import ImageFacts, Plan, make_plan
from tilekit.predictor import MAX_CLASSES, Predictor
from tilekit.run import Runner, available_cores, available_memory
from tilekit.sources import Source, open_image
from tilekit.store import is_store, store_version
from tilekit.tiling import Pair


@dataclass(frozen=True, slots=True)
class Options:
    """What may be asked of a segmentation, besides image, network and output."""

    channels: tuple[int | str, ...] | None = None
    """Which of the image's channels by number or name, in the network's order."""
    level: int = 0
    """Level of the image's pyramid."""
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
    """Part of the image (y, x) to predict; the rest is void."""
    mask: str | None = None
    """Image of the same size, nonzero where to predict."""
    probabilities: str | None = None
    """uint8 or float16: store them too."""
    tile: int | None = None
    """Side of a tile's core, rounded down to the stride."""
    block: int | None = None
    """Side of what one task writes."""
    memory: int | None = None
    """Bytes for all workers together; None: four fifths of what is free."""
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
    mask: Source | None
    workers: int
    in_place: bool
    """True where the image is the output itself, and labels are added to it."""
    version: str
    """Of the output's NGFF."""


def prepare(image: Any, predictor: Predictor, out: str | Path, options: Options, *, overwrite: bool = False) -> Job:
    """Check image, network and output against each other, and plan. Raises InputError; writes nothing."""
    out = Path(out)
    in_place = isinstance(image, (str, Path)) and is_store(Path(image)) and Path(image).resolve() == out.resolve()
    source = as_source(
        image,
        level=options.level,
        nodata=options.nodata,
        pixel_size=options.pixel_size,
        axes=options.axes,
        t=options.t,
        z=options.z,
        series=options.series,
    )
    recorded = None if overwrite else read_arguments(out, STAGE)
    if not in_place:
        check_output(out, overwrite=overwrite)
    elif recorded is None and (out / CLASSES).exists() and not overwrite:
        raise InputError(f"{out}: has {CLASSES} that tilekit did not begin; move them, or use --overwrite")
    if not predictor.exact:
        raise InputError(
            f"this network cannot be exact: {predictor.inexact_reason}; "
            "use one whose layers see a bounded neighbourhood"
        )
    if predictor.n_classes > MAX_CLASSES:
        raise InputError(f"the network has {predictor.n_classes} classes; a class map holds at most {MAX_CLASSES}")
    channels = choose_channels(source, predictor, options.channels)
    check_pixel_size(source, predictor)
    mask = open_mask(options.mask, source)
    if options.box is not None and not Box.whole(source.shape[-2:]).contains(options.box):
        raise InputError(
            f"{source.name}: the box {_show(options.box)} is not inside the image of "
            f"{source.shape[-2]} x {source.shape[-1]} pixels; give one that is"
        )
    begun = recorded is not None and recorded["model"] == predictor.digest and not options.tile
    core = (recorded["core"][0], recorded["core"][1]) if recorded and begun else None
    plan, workers = _plan(source, predictor, options, core, len(channels))
    version = store_version(out) if in_place else "0.5"
    return Job(source, predictor, out, plan, options, channels, mask, workers, in_place, version)


def _plan(
    source: Source, predictor: Predictor, options: Options, core: Pair | None, n_channels: int
) -> tuple[Plan, int]:
    """The plan and the number of workers that the memory allows."""
    axes = source.axes[:-2]
    planes = tuple(n for a, n in zip(axes, source.shape, strict=False) if a != "c")
    facts = ImageFacts(planes, n_channels, (source.shape[-2], source.shape[-1]), source.dtype.itemsize)
    stored = np.dtype(options.probabilities).itemsize if options.probabilities else 0
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
    for name in (CLASSES, PROBABILITIES):
        shutil.rmtree(job.out / name, ignore_errors=True)
    for folder in (job.out / FOLDER).glob(f"{STAGE}*"):
        shutil.rmtree(folder)


def ingest_stage(job: Job, runner: Runner, progress: Progress = no_progress) -> list[Report]:
    """Bring the image into the output; nothing to do where it is the output."""
    if job.in_place:
        return []
    pyramid = image_pyramid(job.image, job.out, block=job.options.block, version=job.version)
    return run_ingest(job.image, pyramid, runner, progress)


def predict_stage(job: Job, runner: Runner, progress: Progress = no_progress) -> list[Report]:
    """Label the image in the output."""
    level = job.options.level if job.in_place else 0
    source = job.image if job.in_place else open_image(job.out, level=level)
    image = Input(source, job.channels, _fill(job, source, runner, progress))
    config = PredictConfig(
        input=image,
        predictor=job.predictor,
        plan=job.plan,
        pyramids=class_pyramids(image, job.plan, job.predictor, _layout(job)),
        box=job.options.box,
        mask=job.mask,
        folder=prediction_folder(job.out),
    )
    return run_predict(config, runner, arguments=_arguments(job, source), progress=progress)


def _layout(job: Job) -> Layout:
    """Labels are sharded where the image is, or is not tilekit's."""
    ingested = read_arguments(job.out, "ingest")
    sharded = job.version != "0.4" and (ingested is None or ingested["shard"] != ingested["chunk"])
    return Layout(job.out, job.version, sharded, job.options.probabilities)


def _fill(job: Job, source: Source, runner: Runner, progress: Progress) -> tuple[float, ...]:
    """The means of the channels, which stand in for nodata; 0 where the image has no valid pixel."""
    statistics = stored_statistics(job.out)
    if statistics is None and needs_statistics(source):
        statistics = run_statistics(source, job.out, job.plan.block, runner, progress)
    return means(statistics, job.channels)


def _arguments(job: Job, source: Source) -> dict[str, Any]:
    """All that decides the bytes of the class map; the store may be moved between two runs."""
    options = job.options
    return {
        "image": {k: v for k, v in source.fingerprint.items() if k != "path"},
        "level": source.level,
        "model": job.predictor.digest,
        "precision": getattr(job.predictor, "precision", "float32"),
        "channels": list(job.channels),
        "core": list(job.plan.core),
        "block": job.plan.block,
        "box": None if options.box is None else _show(options.box),
        "mask": None if job.mask is None else job.mask.fingerprint,
        "probabilities": options.probabilities,
    }


def finish_stage(job: Job, reports: Sequence[Report], started: float) -> dict[str, Any]:
    """Say complete, and sum up."""
    set_status(
        job.out,
        job.version,
        "complete",
        model={"digest": job.predictor.digest, "class_names": list(job.predictor.class_names)},
        parameters=read_arguments(job.out, STAGE),
    )
    seconds = time.perf_counter() - started
    predicted = next(r for r in reports if r.stage == STAGE)
    shape = job.plan.image.shape
    megapixels = job.plan.grid.n_planes * shape[0] * shape[1] / 1e6
    done = 1 - predicted.done_before / max(predicted.blocks, 1)
    return {
        "blocks": predicted.blocks,
        "redone": sum(r.redone for r in reports),
        "seconds": round(seconds, 3),
        "megapixels_per_second": round(megapixels * done / seconds, 3),
        "output": str(job.out),
        "classes": predicted.summary.get("classes", {}),
        "tiles_halved": predicted.summary.get("halved", 0),
    }


def _show(box: Box) -> str:
    return ",".join(f"{a}:{b}" for a, b in zip(box.start, box.stop, strict=True))


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
