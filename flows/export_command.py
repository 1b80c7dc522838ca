"""The command `export`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.dispatch import given
from flows.options import Json, Overwrite, Slice, Time
from flows.terminal import print_facts, progress_bars


def export(
    out: Annotated[str, typer.Argument(metavar="OUT.zarr", help="A segmented or labeled store.")],
    dest: Annotated[
        str | None, typer.Argument(metavar="[DEST]", help="File to write. Default: beside the store, as a TIFF.")
    ] = None,
    what: Annotated[
        str | None,
        typer.Option(help="classes, objects, probabilities or image. Default: objects as polygons, else classes."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="cog, ome-tiff, geojson, geoparquet or qupath. Default: by DEST's name; with a CRS cog."),
    ] = None,
    t: Time = None,
    z: Slice = None,
    workers: Annotated[int, typer.Option(help="Processes that trace polygons; 0: this one.")] = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write class map, objects, probabilities or image as a TIFF, or the objects' outlines as polygons."""
    from flows.params import ExportParameters, checked
    from tilekit.jobs.export import export_store
    from tilekit.place import as_path
    from tilekit.run import open_runner

    parameters = checked(ExportParameters, **given(locals(), ExportParameters))
    with progress_bars() as progress, open_runner(parameters.workers) as runner:
        options = parameters.model_dump(exclude={"workers"})
        result = export_store(as_path(out), as_path(dest) if dest else None, runner, progress=progress, **options)
    print_facts(result, json)
