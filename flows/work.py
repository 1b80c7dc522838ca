"""Each command as a plain function: what the command line calls, and what the Prefect flows call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.params import (
    ImageParameters,
    IngestParameters,
    LabelParameters,
    SegmentParameters,
    WeighParameters,
)
from flows.parsing import parse_box, parse_bytes, parse_pair
from models import load
from tilekit.engine import Progress, no_progress
from tilekit.errors import InputError
from tilekit.jobs.ingest import ingest_image
from tilekit.jobs.label import label_image, label_stage, open_classes
from tilekit.jobs.label_plan import label_task_bytes, label_workers
from tilekit.jobs.output import as_source
from tilekit.jobs.segment import Job, Options, prepare, run_stages
from tilekit.jobs.weigh import WeighOptions, weigh_labels
from tilekit.place import as_path
from tilekit.predictor import Predictor
from tilekit.run import Runner, available_cores, open_runner
from tilekit.sources import Source

Step = Callable[..., Any]
Show = Callable[[list[str]], None]


def ingest_file(
    image: Any, out: str | Path, parameters: IngestParameters, progress: Progress = no_progress
) -> dict[str, Any]:
    """Chunk an image into OME-Zarr."""
    p = parameters
    source = as_source(image, **p.opening())
    check_nodata(source, p)
    workers = available_cores() if p.workers is None else p.workers
    with open_runner(workers if workers > 1 or p.workers else 0, p.scheduler, p.tls) as runner:
        return ingest_image(
            source,
            as_path(out),
            runner,
            block=p.block,
            chunk=p.chunk,
            ngff=p.ngff,
            shards=p.shards,
            overwrite=p.overwrite,
            progress=progress,
        )


def label_file(
    classes: str | Path, out: str | Path | None, parameters: LabelParameters, progress: Progress = no_progress
) -> dict[str, Any]:
    """Number the objects of a store's class map; or of `classes`, a class map anywhere, into `out`."""
    p = parameters
    source, store = open_classes(classes, out)
    workers = 0 if p.scheduler else label_workers(label_task_bytes(source, p.block, p.split), p.workers)
    with open_runner(workers, p.scheduler, p.tls) as runner:
        asked = {"connectivity", "min_size", "fill_holes", "split", "block", "polygons", "overwrite"}
        return label_image(source, store, runner, progress=progress, **p.model_dump(include=asked))


def weigh_file(
    labels: str | Path, out: str | Path, parameters: WeighParameters, progress: Progress = no_progress
) -> dict[str, Any]:
    """The weight map of a label map."""
    p = parameters
    options = WeighOptions(p.w0, p.sigma, p.ridge, parse_pair(p.class_weights), p.dtype)
    workers = available_cores() if p.workers is None else p.workers
    with open_runner(workers if workers > 1 or p.workers else 0, p.scheduler, p.tls) as runner:
        asked = {"kind", "void", "block", "overwrite"}
        return weigh_labels(labels, as_path(out), runner, options, progress=progress, **p.model_dump(include=asked))


def check_nodata(source: Source, parameters: ImageParameters) -> None:
    """Refuse a nodata value that no pixel of the image can have, which would change nothing without a word."""
    if parameters.nodata is not None and source.nodata is None:
        raise InputError(
            f"{source.name}: --nodata {parameters.nodata:g} is no value of {source.dtype} pixels; correct it, or leave "
            "it out"
        )


def count_gpus() -> int:
    """NVIDIA devices of this machine, told without torch."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def workers_asked(parameters: SegmentParameters) -> int | None:
    """Workers that the options ask for; None: as many as cores and memory allow."""
    p = parameters
    gpus = count_gpus() if p.workers is None and p.device in ("auto", "cuda") else 0
    return 0 if p.scheduler else gpus or p.workers


def plan_image(
    image: Any, predictor: Predictor, out: str | Path, parameters: SegmentParameters, workers: int | None
) -> Job:
    """Check image, network and output, and plan; writes nothing."""
    p = parameters
    options = Options(
        **{**p.opening(), "level": p.level},
        box=parse_box(p.box),
        mask=p.mask,
        probabilities=p.probabilities,
        confidence=p.confidence,
        average=p.average,
        blend=p.blend,
        tile=p.tile,
        block=p.block,
        memory=parse_bytes(p.memory),
        workers=workers,
        is_remote=p.scheduler is not None,
    )
    job = prepare(image, predictor, out, options, overwrite=p.overwrite)
    check_nodata(job.image, p)
    return job


def plan_file(image: Any, model: str | Path, out: str | Path, parameters: SegmentParameters) -> Job:
    """The same, with a network from its file."""
    p = parameters
    return plan_image(image, load(model, p.device, p.precision), out, p, workers_asked(p))


def segment_file(
    image: Any,
    model: str | Path,
    out: str | Path,
    parameters: SegmentParameters,
    progress: Progress = no_progress,
    step: Step | None = None,
    show: Show | None = None,
) -> dict[str, Any]:
    """The main job; `show` is given the paths of the preview's pictures as soon as they are there."""
    p = parameters
    job = plan_file(image, model, out, p)
    with open_runner(job.workers, p.scheduler, p.tls) as runner:
        return segment_job(job, runner, p, progress, step, show)


def segment_job(
    job: Job,
    runner: Runner,
    parameters: SegmentParameters,
    progress: Progress = no_progress,
    step: Step | None = None,
    show: Show | None = None,
) -> dict[str, Any]:
    """Preview where it is asked for, then all stages; figures of the run, with the preview's pictures."""
    from flows.preview import preview_stage

    call = step or (lambda function, *arguments: function(*arguments))
    pictures: list[str] = []
    if boxes := parameters.preview_boxes:
        pictures = call(preview_stage, job, boxes, runner, progress)
        if show:
            show(pictures)
    if parameters.preview_only:
        return {"output": str(job.out), "preview": pictures}
    result = run_stages(job, runner, progress, overwrite=parameters.overwrite, step=step)
    if parameters.objects:
        result["objects"] = call(label_stage, job.out, runner, progress)["objects"]
    return {**result, "preview": pictures} if pictures else result
