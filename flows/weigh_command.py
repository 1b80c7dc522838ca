"""The command `weigh`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.dispatch import dispatch, given
from flows.options import Json, Out, Overwrite, Prefect, Scheduler, TlsCa, TlsCert, TlsKey, Workers
from flows.terminal import print_facts


def weigh(
    labels: Annotated[str, typer.Argument(metavar="LABELS", help="Label map: TIFF, PNG, Zarr, or a labeled store.")],
    out: Out,
    w0: Annotated[float, typer.Option(help="Weight of the border term, at its largest.")] = 10.0,
    sigma: Annotated[float, typer.Option(help="Its reach: standard deviation in pixels.")] = 5.0,
    ridge: Annotated[
        bool, typer.Option("--ridge/--no-ridge", help="First make pixels beside another object background.")
    ] = True,
    kind: Annotated[str, typer.Option(help="ids, or classes (objects are labeled first).")] = "ids",
    void: Annotated[int | None, typer.Option(help="Value of the labels that weighs 0. Classes: 255 too.")] = None,
    class_weights: Annotated[
        str | None, typer.Option(metavar="BG,OBJ", help="Of background and object. Default: balanced in this map.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    block: Annotated[int, typer.Option(help="Side of what one task reads and writes; changes no weight.")] = 4096,
    workers: Workers = None,
    scheduler: Scheduler = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    overwrite: Overwrite = False,
    prefect: Prefect = False,
    json: Json = False,
) -> None:
    """The U-Net weight map of a label map: class weights, and more between objects that nearly touch."""
    from flows.params import WeighParameters, checked

    parameters = checked(WeighParameters, **given(locals(), WeighParameters))
    print_facts(dispatch("flows.weigh:weigh", "flows.work:weigh_file", labels, out, parameters, prefect=prefect), json)
