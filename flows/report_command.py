"""The command `report`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.options import Json, Out
from flows.terminal import print_facts, progress_bars


def report(
    out: Out,
    truth: Annotated[str | None, typer.Option(help="Label map to score the classes against: TIFF, PNG, Zarr.")] = None,
    ids: Annotated[bool, typer.Option("--ids", help="The truth holds object ids; score the objects.")] = False,
    map_: Annotated[
        str | None, typer.Option("--map", metavar="0=0,255=1", help="What the truth's values mean.")
    ] = None,
    void: Annotated[str | None, typer.Option(metavar="N|none", help="Value of the truth that counts nowhere.")] = None,
    page: Annotated[
        str | None, typer.Option("--out", help="The page. Default: OUT-report.html beside the store.")
    ] = None,
    json: Json = False,
) -> None:
    """Write one HTML page about a store: pictures, areas, objects, scores, provenance, times; all inside the page."""
    from flows.evaluate_files import EvaluateParameters, evaluate_files
    from flows.looking.report import find_scores, write_report
    from flows.params import checked
    from tilekit.errors import InputError
    from tilekit.place import as_path, is_url

    store = as_path(out).absolute()
    place = as_path(page) if page else store.with_name(f"{store.stem}-report.html")
    if is_url(place):
        raise InputError(f"{place}: the page is written to a local disk; name one by --out")
    if truth is None:
        scores = find_scores(store)
    else:
        labels = "ids" if ids else "classes"
        parameters = checked(EvaluateParameters, labels=labels, map=map_, void=void)
        prediction = store / "labels" / ("objects" if ids else "classes")
        with progress_bars() as progress:
            scores = [evaluate_files([str(prediction), truth], parameters, progress)]
    print_facts(write_report(store, place, scores), json)
