"""The command line `tilekit`. Heavy libraries are imported by the command that needs them: --help answers at once."""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

import typer

from flows.evaluate_command import evaluate
from flows.export_command import export
from flows.networks_command import models, probe
from flows.options import (
    Axes,
    Device,
    Image,
    Json,
    Level,
    Model,
    Nodata,
    Out,
    PixelSize,
    Precision,
    Series,
    Slice,
    Time,
    Workers,
)
from flows.report_command import report
from flows.runs import ingest, label, plan, segment
from flows.serve_command import serve
from flows.terminal import print_facts, progress_bars
from flows.train_command import train
from flows.view_command import view
from flows.weigh_command import weigh
from tilekit import __version__
from tilekit.errors import InputError, RunError, one_line

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
def info(
    image: Image,
    level: Level = None,
    pixel_size: PixelSize = None,
    nodata: Nodata = None,
    axes: Axes = None,
    t: Time = None,
    z: Slice = None,
    series: Series = None,
    json: Json = False,
) -> None:
    """Say what an image is: shape, pixel size, channels, nodata, CRS, tiling, and who can read it."""
    from flows.info import facts_for_people, image_facts
    from flows.params import parse_pixel_size
    from tilekit import open_image

    source = open_image(
        image,
        level=level or 0,
        pixel_size=parse_pixel_size(pixel_size),
        nodata=nodata,
        axes=axes,
        t=t,
        z=z,
        series=series,
    )
    facts = image_facts(image, source)
    print_facts(facts if json else facts_for_people(facts), json)


app.command()(ingest)
app.command()(plan)
app.command()(segment)
app.command()(label)
app.command()(train)
app.command()(weigh)
app.command()(evaluate)
app.command()(view)
app.command()(report)
app.command()(export)
app.command()(serve)
app.command()(models)
app.command()(probe)


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
    print_facts(found if json else {**found, "verdict": "differs" if found["differing_pixels"] else "exact"}, json)
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
        code = _fail(1, _what(error))
    except (KeyboardInterrupt, typer.Abort):
        code = _fail(STOPPED, "stopped; the same command continues where it was")
    sys.exit(code)


def _what(error: Exception) -> str:
    """What went wrong; of a disk or a server, what to do."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; mend the cause and run the same command again (train: with --resume)"
    return str(error) or type(error).__name__


def _fail(code: int, message: str) -> int:
    typer.echo(f"tilekit: {one_line(' '.join(message.split()))}", err=True)
    return code


if __name__ == "__main__":
    main()
