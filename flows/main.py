"""The command line `tilekit`. Heavy libraries are imported by the command that needs them: --help answers at once."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from flows.options import (
    Block,
    BoxText,
    Channels,
    Device,
    Image,
    Json,
    Level,
    Mask,
    Memory,
    Model,
    Nodata,
    Out,
    Overwrite,
    PixelSize,
    Precision,
    Probabilities,
    Scheduler,
    Tile,
    TlsCa,
    TlsCert,
    TlsKey,
    Workers,
)
from flows.terminal import print_facts, progress_bars
from tilekit import __version__
from tilekit.errors import InputError, RunError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, help=__doc__
)
app.info.help = "Segment images too big to open, exactly."

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
    print_facts(facts, json)


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
        print_facts(flow(image, out, parameters), json)
        return
    from flows.work import ingest_file

    with progress_bars() as progress:
        result = ingest_file(image, out, parameters, progress)
    print_facts(result, json)


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
    print_facts({**facts, "seconds": round(job.plan.seconds(job.workers), 1)}, json)


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
        print_facts(flow(image, model, out, parameters), json)
        return
    from flows.work import segment_file

    with progress_bars() as progress:
        result = segment_file(image, model, out, parameters, progress)
    print_facts(result, json)


@app.command()
def status(out: Out, json: Json = False) -> None:
    """Say how far a run is, from any terminal."""
    from tilekit import status as read_status

    found = read_status(out)
    if json:
        print_facts(found, True)
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
    print_facts(found, json)
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

    with progress_bars() as progress:
        result = run_demo(folder, size, workers, progress)
    print_facts(result, json)


def _given(values: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The options of a command that are parameters of this kind."""
    return {name: values[name] for name in kind.model_fields if name in values}


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
