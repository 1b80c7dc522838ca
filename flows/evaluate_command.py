"""The command `evaluate`."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from flows.dispatch import given, is_flow, run_flow
from flows.options import Json, Overwrite, Prefect, Scheduler, TlsCa, TlsCert, TlsKey, Workers
from flows.terminal import print_facts, progress_bars

Maps = Annotated[
    list[str],
    typer.Argument(metavar="PREDICTION [OTHER] TRUTH", help="Label maps (TIFF, PNG, Zarr), or folders of them."),
]

MANY_CLASSES = 16
"""Of more, a terminal shows those that occur, and no matrix."""


def evaluate(
    maps: Maps,
    ids: Annotated[bool, typer.Option("--ids", help="The maps hold object ids.")] = False,
    classes: Annotated[bool, typer.Option("--classes", help="They hold classes.")] = False,
    boundaries: Annotated[bool, typer.Option("--boundaries", help="They tell inside from membrane (0).")] = False,
    map_: Annotated[
        str | None, typer.Option("--map", metavar="0=0,255=1,-1=void", help="What the truth's values mean.")
    ] = None,
    void: Annotated[
        str | None, typer.Option(metavar="N|none", help="Value of the truth that counts nowhere. Classes: 255.")
    ] = None,
    block: Annotated[int | None, typer.Option(help="Side of what is counted at once.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder for JSON, CSV, pictures and the disagreement layer.")] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    overwrite: Overwrite = False,
    prefect: Prefect = False,
    json: Json = False,
) -> None:
    """Score a prediction against the truth, or compare two. Default: ids in labels/objects, else classes."""
    from flows.evaluate_files import EvaluateParameters, evaluate_files
    from flows.params import checked
    from tilekit.errors import InputError

    asked = [name for name, on in (("ids", ids), ("classes", classes), ("boundaries", boundaries)) if on]
    if len(asked) > 1:
        raise InputError(f"{' and '.join('--' + name for name in asked)} exclude each other; give one")
    values = {**locals(), "labels": asked[0] if asked else None, "map": map_}
    parameters = checked(EvaluateParameters, **given(values, EvaluateParameters))
    if is_flow(prefect):
        if len(maps) not in (2, 3):
            raise InputError(f"{len(maps)} maps given; give PREDICTION TRUTH, or PREDICTION OTHER TRUTH")
        result = run_flow("flows.evaluate:evaluate", maps[0], maps[-1], maps[1] if len(maps) == 3 else None, parameters)
    else:
        with progress_bars() as progress:
            result = evaluate_files(maps, parameters, progress)
    first = result.get("first", result)
    if len(classes_in_truth := occurring(first)) > MANY_CLASSES:
        typer.echo(
            f"note: the truth has {len(classes_in_truth)} classes; where they are ids of objects, give --ids", err=True
        )
    if classes_in_truth == [0] and not first.get("is_mapped"):
        typer.echo(
            "note: of the truth's classes 0 alone counts. 255 is void: where it is a class, say so with "
            "--map 0=0,255=1 or --void none",
            err=True,
        )
    print_facts(result if json else for_people(result), json)


def occurring(scores: dict[str, Any]) -> list[int]:
    """Classes that the truth has where it counts; none of ids."""
    return [number for number, row in enumerate(scores.get("confusion", ())) if any(row)]


def for_people(result: dict[str, Any]) -> dict[str, Any]:
    """The pooled scores and how many images they are of; of two predictions, their differences."""
    if "first" not in result:
        return {"of_images": len(result["images"]), **_pooled(result)}
    facts: dict[str, Any] = {"of_images": len(result["first"]["images"])}
    first, second = _pooled(result["first"]), _pooled(result["second"])
    for name, value in first.items():
        difference = result["differences"].get(name)
        interval = "" if difference is None or difference["low"] is None else _interval(difference)
        facts[name] = f"{_rounded(value)} and {_rounded(second[name])}{interval}"
    if "disagreement" in result:
        layers = result["disagreement"]
        facts["disagreement"] = layers[0] if len(layers) == 1 else f"{len(layers)} layers below {result['output']}"
    return facts


def _interval(difference: dict[str, Any]) -> str:
    mean, low, high = (difference[k] for k in ("mean", "low", "high"))
    return f", difference {mean:+.4f} ({low:+.4f} to {high:+.4f})"


def _pooled(scores: dict[str, Any]) -> dict[str, Any]:
    left_out = {"images", "kind", "is_mapped", "mean_of_images", "worst", "thresholds", "blocks", "redone"}
    if len(scores.get("confusion", ())) > MANY_CLASSES:
        left_out.add("confusion")
    return {name: _rounded(value) for name, value in scores.items() if name not in left_out}


def _rounded(value: Any) -> Any:
    if isinstance(value, list) and len(value) > MANY_CLASSES:
        return {number: _rounded(v) for number, v in enumerate(value) if _occurs(v)}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return "none" if value is None else round(value, 4) if isinstance(value, float) else value


def _occurs(value: float | None) -> bool:
    """A score that has a value, or a count of some pixels."""
    return value not in (None, 0) if not isinstance(value, float) else not math.isnan(value)
