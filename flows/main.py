"""The command line `tilekit`. Heavy libraries are imported by the command that needs them: --help answers at once."""

from __future__ import annotations

import json as jsonlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from tilekit import __version__
from tilekit.errors import InputError, RunError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, help=__doc__
)
app.info.help = "Segment images too big to open, exactly."

Image = Annotated[str, typer.Argument(metavar="IMAGE", help="TIFF, OME-Zarr, Zarr or .npy.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint of tilekit, .safetensors.")]
Out = Annotated[str, typer.Argument(metavar="OUT.zarr", help="Output.")]
Json = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]
Workers = Annotated[
    int | None, typer.Option(help="Worker processes; 0: in this process. Default: by cores and memory.")
]
Scheduler = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler to use instead.")]
TlsCa = Annotated[str | None, typer.Option(help="Certificate authority of a tls:// scheduler.")]
TlsCert = Annotated[str | None, typer.Option(help="Certificate to show to it.")]
TlsKey = Annotated[str | None, typer.Option(help="Key of that certificate.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over where the output exists.")]
Level = Annotated[int, typer.Option(help="Level of the image's pyramid.")]
PixelSize = Annotated[str | None, typer.Option(help="Micrometres per pixel, where the file does not say: 0.5 or y,x.")]
Nodata = Annotated[float | None, typer.Option(help="Value that means: nothing measured here.")]
Channels = Annotated[str | None, typer.Option(help="Image channels in the network's order: 0,2.")]
Tile = Annotated[int | None, typer.Option(help="Side of a tile's core, rounded down to the stride.")]
Block = Annotated[int | None, typer.Option(help="Side of what one task writes, a multiple of the stride.")]
Memory = Annotated[str | None, typer.Option(help="For all workers together: 4GB. Default: 4/5 of what is free.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[Any, typer.Option(help="float32 (exact) or bfloat16 (faster).")]
BoxText = Annotated[str | None, typer.Option("--box", metavar="Y0:Y1,X0:X1", help="Predict this part alone.")]
Mask = Annotated[str | None, typer.Option(help="Image of the same size, nonzero where to predict.")]
Probabilities = Annotated[str | None, typer.Option(help="Store probabilities too: uint8 or float16.")]


STOPPED = 130
"""Exit status after Ctrl-C."""
UsageError: Any = typer.BadParameter.__base__
"""What typer raises for a command line that it cannot parse."""


@app.callback(invoke_without_command=True)
def _version(
    ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def info(image: Image, json: Json = False, level: Level = 0) -> None:
    """Say what an image is: shape, axes, dtype, levels, pixel size, channels, nodata, tiling."""
    from tilekit import open_image

    source = open_image(image, level=level)
    facts = {
        "image": image,
        "shape": list(source.shape),
        "axes": source.axes,
        "dtype": str(source.dtype),
        "levels": [list(s) for s in source.levels],
        "pixel_size": source.pixel_size and list(source.pixel_size),
        "channels": source.channel_names and list(source.channel_names),
        "nodata": None
        if source.nodata is None
        else str(source.nodata)
        if source.nodata != source.nodata
        else source.nodata,
        "crs": None,
        "tiling": source.tiling,
    }
    _print(facts, json)


@app.command()
def ingest(
    image: Image,
    out: Out,
    chunk: Annotated[int, typer.Option(help="Side of a chunk.")] = 512,
    block: Block = None,
    ngff: Annotated[str, typer.Option(help="OME-NGFF version: 0.5 on Zarr 3, 0.4 on Zarr 2.")] = "0.5",
    shards: Annotated[bool, typer.Option("--shards/--no-shards", help="Put chunks together in shards.")] = True,
    level: Level = 0,
    pixel_size: PixelSize = None,
    nodata: Nodata = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    overwrite: Overwrite = False,
    prefect: Annotated[bool, typer.Option("--prefect", help="As a Prefect flow run.")] = False,
    json: Json = False,
) -> None:
    """Chunk an image into OME-Zarr, with its pyramid and statistics."""
    from flows.params import IngestParameters, checked

    parameters = checked(IngestParameters, **_given(locals(), IngestParameters))
    if prefect or os.environ.get("PREFECT_API_URL"):
        from flows.ingest import ingest as flow

        _leave_errors_to_main()
        _print(flow(image, out, parameters), json)
        return
    from flows.work import ingest_file

    with _progress() as progress:
        result = ingest_file(image, out, parameters, progress)
    _print(result, json)


@app.command()
def plan(
    image: Image,
    model: Model,
    channels: Channels = None,
    level: Level = 0,
    pixel_size: PixelSize = None,
    nodata: Nodata = None,
    box: BoxText = None,
    mask: Mask = None,
    probabilities: Probabilities = None,
    tile: Tile = None,
    block: Block = None,
    memory: Memory = None,
    workers: Workers = None,
    device: Device = "auto",
    precision: Precision = "float32",
    json: Json = False,
) -> None:
    """Say what segment would do: tiles, blocks, halo, redundancy, memory, disk, time."""
    from flows.params import SegmentParameters, checked
    from flows.work import plan_file

    parameters = checked(SegmentParameters, **_given(locals(), SegmentParameters))
    job = plan_file(image, model, "tilekit-plan.zarr", parameters)
    facts = {"image": image, "model": model, **job.plan.to_json(), "workers": job.workers}
    _print({**facts, "seconds": round(job.plan.seconds(job.workers), 1)}, json)


@app.command()
def segment(
    image: Image,
    model: Model,
    out: Out,
    channels: Channels = None,
    level: Level = 0,
    pixel_size: PixelSize = None,
    nodata: Nodata = None,
    box: BoxText = None,
    mask: Mask = None,
    probabilities: Probabilities = None,
    tile: Tile = None,
    block: Block = None,
    memory: Memory = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    device: Device = "auto",
    precision: Precision = "float32",
    overwrite: Overwrite = False,
    prefect: Annotated[bool, typer.Option("--prefect", help="As a Prefect flow run.")] = False,
    json: Json = False,
) -> None:
    """The main job: image and network to an OME-Zarr with the image's pyramid and its class map."""
    from flows.params import SegmentParameters, checked

    parameters = checked(SegmentParameters, **_given(locals(), SegmentParameters))
    if prefect or os.environ.get("PREFECT_API_URL"):
        from flows.segment import segment as flow

        _leave_errors_to_main()
        _print(flow(image, model, out, parameters), json)
        return
    from flows.work import segment_file

    with _progress() as progress:
        result = segment_file(image, model, out, parameters, progress)
    _print(result, json)


@app.command()
def status(out: Out, json: Json = False) -> None:
    """Say how far a run is, from any terminal."""
    from tilekit import status as read_status

    found = read_status(out)
    if json:
        _print(found, True)
        return
    typer.echo(f"{out}: {found['status']}")
    for stage in found["stages"]:
        share = 100 * stage["done"] / max(stage["blocks"], 1)
        typer.echo(f"  {stage['stage']:<24}{stage['done']} of {stage['blocks']} blocks ({share:.0f}%)")


@app.command()
def verify(
    out: Out,
    model: Model,
    boxes: Annotated[int, typer.Option(help="Random boxes to predict twice.")] = 12,
    side: Annotated[int, typer.Option(help="Their side in pixels.")] = 256,
    seed: Annotated[int, typer.Option(help="Other boxes for another seed.")] = 0,
    device: Device = "auto",
    precision: Precision = "float32",
    json: Json = False,
) -> None:
    """Prove an output: random boxes across seams, by the planned tiles and in one pass, against what is stored."""
    from models import load
    from tilekit import verify as run_verify

    found = run_verify(out, load(model, device, precision), boxes=boxes, side=side, seed=seed)
    _print(found, json)
    if found["differing_pixels"]:
        raise RunError(
            f"{out}: {found['differing_pixels']} pixels differ from one pass over the image; "
            "segment it again with --overwrite"
        )


@app.command()
def demo(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where the demo writes.")] = "tilekit-demo",
    size: Annotated[int, typer.Option(min=64, help="Side of the specimen in pixels.")] = 8192,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """All of it in a minute or two: make a specimen with known truth, segment, verify, score, and draw it."""
    from flows.demo import run_demo

    with _progress() as progress:
        result = run_demo(folder, size, workers, progress)
    _print(result, json)


def _given(values: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The options of a command that are parameters of this kind."""
    return {name: values[name] for name in kind.model_fields if name in values}


def _print(facts: dict[str, Any], json: bool) -> None:
    """Figures for a program or for a person."""
    if json:
        typer.echo(jsonlib.dumps(facts, default=str))
        return
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        typer.echo(f"{name.replace('_', ' '):<{width}}{_shown(name, value)}")


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "unknown"
    if name.endswith("_bytes"):
        return f"{value / 2**20:,.0f} MiB"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar per stage with rate and time left, on a terminal; nothing elsewhere."""
    from tilekit.engine import no_progress

    if not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("blocks"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, completed=done, rate="")
            task = bars.tasks[tasks[stage]]
            rate = f"{task.speed:.2f}/s" if task.speed else ""
            bars.update(tasks[stage], completed=done, rate=rate)

        yield show


def main() -> NoReturn:
    """Run the command line; bad input ends with status 2, a failed run with 1, each with one line on standard error."""
    try:
        code = app(standalone_mode=False) or 0
        if code == STOPPED:  # typer takes the KeyboardInterrupt itself
            raise KeyboardInterrupt
    except UsageError as error:
        where = f" {error.ctx.info_name}" if error.ctx and error.ctx.parent else ""
        code = _fail(2, f"{error.format_message()} See tilekit{where} --help.")
    except (InputError, PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        code = _fail(2, str(error))
    except (RunError, OSError, MemoryError) as error:
        code = _fail(1, str(error) or type(error).__name__)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail(STOPPED, "stopped; the same command continues where it was")
    sys.exit(code)


def _leave_errors_to_main() -> None:
    """Keep Prefect's errors, with their tracebacks, off the terminal; its server has them."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.levelno < logging.ERROR)


def _fail(code: int, message: str) -> int:
    typer.echo(f"tilekit: {' '.join(message.split())}", err=True)
    return code


if __name__ == "__main__":
    main()
