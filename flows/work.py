"""Each command as a plain function: what the command line calls, and what the Prefect flows call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.params import IngestParameters, SegmentParameters, parse_box, parse_bytes, parse_channels, parse_pixel_size
from models import load
from tilekit.engine import Progress, no_progress
from tilekit.jobs.ingest import ingest_image
from tilekit.jobs.output import as_source
from tilekit.jobs.segment import Job, Options, prepare, run_stages
from tilekit.run import available_cores, open_runner

Step = Callable[..., Any]


def ingest_file(
    image: Any, out: str | Path, parameters: IngestParameters, progress: Progress = no_progress
) -> dict[str, Any]:
    """Chunk an image into OME-Zarr."""
    p = parameters
    source = as_source(image, level=p.level, nodata=p.nodata, pixel_size=parse_pixel_size(p.pixel_size))
    workers = available_cores() if p.workers is None else p.workers
    with open_runner(workers if workers > 1 or p.workers else 0, p.scheduler, p.tls) as runner:
        return ingest_image(
            source,
            Path(out),
            runner,
            block=p.block,
            chunk=p.chunk,
            ngff=p.ngff,
            shards=p.shards,
            overwrite=p.overwrite,
            progress=progress,
        )


def count_gpus() -> int:
    """NVIDIA devices of this machine, told without torch."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def plan_file(image: Any, model: str | Path, out: str | Path, parameters: SegmentParameters) -> Job:
    """Check image, network and output, and plan; writes nothing."""
    p = parameters
    gpus = count_gpus() if p.workers is None and p.device in ("auto", "cuda") else 0
    options = Options(
        channels=parse_channels(p.channels),
        level=p.level,
        pixel_size=parse_pixel_size(p.pixel_size),
        nodata=p.nodata,
        box=parse_box(p.box),
        mask=p.mask,
        probabilities=p.probabilities,
        tile=p.tile,
        block=p.block,
        memory=parse_bytes(p.memory),
        workers=0 if p.scheduler else gpus or p.workers,
        is_remote=p.scheduler is not None,
    )
    return prepare(image, load(model, p.device, p.precision), out, options, overwrite=p.overwrite)


def segment_file(
    image: Any,
    model: str | Path,
    out: str | Path,
    parameters: SegmentParameters,
    progress: Progress = no_progress,
    step: Step | None = None,
) -> dict[str, Any]:
    """The main job."""
    p = parameters
    job = plan_file(image, model, out, p)
    with open_runner(job.workers, p.scheduler, p.tls) as runner:
        return run_stages(job, runner, progress, overwrite=p.overwrite, step=step)
