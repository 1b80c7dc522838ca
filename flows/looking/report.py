"""One HTML page about a store that stands by itself: no script, nothing from outside, every text escaped.

DOOR jinja2. Pixels are read from coarse levels and small boxes, counts from the ledger and the table of objects, so
that memory does not grow with the image.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flows.looking.objects import Objects, histogram_svg, survey_objects
from flows.looking.pictures import draw_store
from flows.looking.shown import Labels, channels_of, coarse_plane, open_store
from flows.score_pictures import confusion_svg
from tilekit import __version__
from tilekit.documents import parse_json
from tilekit.errors import InputError
from tilekit.jobs.record import class_counts, stage_times
from tilekit.ledger import write_atomic
from tilekit.predictor import VOID
from tilekit.score_files import JSON_NAME, as_json
from tilekit.sources import Source
from tilekit.store import group_attributes

AREAS = ((1e18, "km²"), (1e12, "m²"), (1e6, "mm²"), (1.0, "µm²"))
"""Units of area in square micrometers."""
LENGTHS = ((1e9, "km"), (1e6, "m"), (1e3, "mm"), (1.0, "µm"))
HEADLINES = {
    "miou": "mean IoU",
    "miou_foreground": "mean IoU without background",
    "pixel_accuracy": "pixel accuracy",
    "f1": "F1 of objects",
    "seg": "SEG",
    "mean_ap": "mean AP (0.5 to 0.95)",
    "panoptic_quality": "panoptic quality",
    "adapted_rand": "adapted Rand error",
    "vi_split": "variation of information, split",
    "vi_merge": "variation of information, merge",
    "pixel_error": "pixel error",
    "warping_error": "warping error",
    "rand_isbi2012": "Rand error (ISBI 2012)",
    "v_rand_thin": "V-Rand error, thinned",
}
RATED = ("ingest", "predict")
"""Stages of which a rate is told: they walk over the whole image, once."""
BY_CLASS = ("iou", "dice", "precision", "recall")
Scores = dict[str, Any]


def write_report(out: Path, page: Path, scores: list[Scores]) -> dict[str, Any]:
    """Write the page of a store; `scores` are results of evaluate. Where they are, what was drawn and counted."""
    image, labels = open_store(out)
    labels = [one for one in labels if one.colors or not one.names]
    if image is None and not labels:
        raise InputError(f"{out}: has neither an image nor labels with colors; nothing to report")
    channels = channels_of(image, out) if image else []
    pictures = draw_store(image, channels, labels)
    areas, objects = _areas(out, labels), survey_objects(out)
    shown: Source = image or labels[0].source
    facts = {
        "name": out.name,
        "now": _moment(datetime.now(UTC).timestamp()),
        "version": __version__,
        "about": _about(out, shown),
        "pictures": [(p, _caption(p.box.shape, shown)) for p in pictures],
        "channels": [c for c in channels if c.shown],
        "areas": areas,
        "objects": _objects(objects, shown, areas),
        "scores": [_scores(s, _names(labels)) for s in scores],
        "provenance": _provenance(out),
        "times": _times(out, shown),
    }
    environment = Environment(
        loader=PackageLoader("flows.looking", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        write_atomic(page, environment.get_template("report.html.j2").render(facts))
    except OSError as error:
        raise InputError(f"{page}: cannot be written ({error.strerror}); choose another place with --out") from None
    return {
        "page": str(page),
        "bytes": page.stat().st_size,
        "pictures": sum(len(p.panels) for p in pictures),
        "classes": {row["name"]: row["pixels"] for row in areas["rows"]},
        "objects": objects.count if objects else None,
        "scores": len(scores),
    }


def find_scores(out: Path) -> list[Scores]:
    """Scores beside a store, in the folder OUT-scores: those that `tilekit evaluate ... --out OUT-scores` wrote."""
    path = out.with_name(f"{out.stem}-scores") / JSON_NAME
    if not path.is_file():
        return []
    try:
        found = parse_json(path.read_bytes())
        _scores(found, {})
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: holds no scores of tilekit evaluate ({reason}); evaluate again") from None
    return [found]


def _about(out: Path, image: Source) -> list[tuple[str, str]]:
    """What the image is, a row each."""
    facts = [("size", " x ".join(f"{n:,}" for n in image.shape) + f" ({', '.join(image.axes)})")]
    facts.append(("pixels", f"{image.dtype}, {len(image.levels)} levels; {image.tiling}"))
    if image.pixel_size:
        facts.append(("pixel size", f"{_lengths(image.pixel_size)} (y, x)"))
        sides = [n * s for n, s in zip(image.shape[-2:], image.pixel_size, strict=True)]
        facts.append(("extent", f"{_lengths(sides)} (y, x)"))
    if image.georeference and image.georeference.crs:
        from flows.info import crs_name

        facts.append(("CRS", crs_name(image.georeference.crs)))
    status = group_attributes(out).get("tilekit", {}).get("status")
    return [*facts, ("run", str(status))] if status else facts


def _areas(out: Path, labels: list[Labels]) -> dict[str, Any]:
    """Pixels of each class: of the ledger where tilekit predicted, else estimated from the coarsest level."""
    classes = next((one for one in labels if one.names), None)
    if classes is None:
        return {"rows": [], "remark": ""}
    counts, remark = class_counts(out) if classes.name == "classes" else {}, ""
    if not counts:
        level = len(classes.source.levels) - 1
        values, seen = np.unique(coarse_plane(classes.source), return_counts=True)
        n = int(np.prod(classes.source.shape))
        counts = {int(v): round(int(c) / seen.sum() * n) for v, c in zip(values, seen, strict=True)}
        remark = f"Estimated from level {level}, as no ledger of a prediction lies with the store."
    elif sum(counts.values()) != (n := int(np.prod(classes.source.shape))):
        remark = f"Of the {sum(counts.values()):,} pixels predicted so far, of {n:,}."
    valid = sum(n for value, n in counts.items() if value != VOID)
    size = classes.source.pixel_size
    rows = [
        {
            "value": value,
            "name": classes.names.get(value, f"class {value}"),
            "color": classes.colors.get(value),
            "pixels": n,
            "share": n / valid if value != VOID and valid else None,
            "area": _unit(n * size[0] * size[1], AREAS) if size else "",
        }
        for value, n in counts.items()
    ]
    return {"rows": rows, "remark": remark}


def _objects(objects: Objects | None, image: Source, areas: dict[str, Any]) -> dict[str, Any] | None:
    if objects is None or not objects.count:
        return None
    names = {row["value"]: row["name"] for row in areas["rows"]}
    density = ""
    if image.pixel_size:
        whole = _n_pixels(image) * image.pixel_size[0] * image.pixel_size[1]
        density = next(
            f"{_digits(objects.count / (whole / n))} per {unit}" for n, unit in AREAS if whole >= n or n == 1
        )
    return {
        "count": objects.count,
        "by_class": [(names.get(value, f"class {value}"), n) for value, n in sorted(objects.by_class.items())],
        "at_edge": objects.at_edge,
        "mean_area": objects.area / objects.count,
        "density": density,
        "histograms": [Markup(histogram_svg(h)) for h in objects.histograms],  # whose texts are escaped
    }


def _scores(scores: Scores, names: dict[int, str]) -> dict[str, Any]:
    """Headlines, a row per class, and the confusion matrix; of a comparison those of the first prediction."""
    first = as_json(scores.get("first", scores))
    headlines = [(text, first[key]) for key, text in HEADLINES.items() if isinstance(first.get(key), int | float)]
    thresholds = first.get("thresholds")
    if thresholds and isinstance(first.get("f1"), list):
        headlines.insert(0, (f"F1 of objects at IoU {thresholds[0]}", first["f1"][0]))
    rows = [
        (names.get(k, f"class {k}"), [first[key][k] for key in BY_CLASS])
        for k in range(len(first.get("confusion", [])))
    ]
    matrix = Markup(confusion_svg(first["confusion"], first["unpredicted"])) if rows else ""  # numbers alone
    return {
        "kind": first["kind"],
        "is_comparison": "first" in scores,
        "headlines": headlines,
        "columns": BY_CLASS,
        "rows": rows,
        "confusion": matrix,
    }


def _names(labels: list[Labels]) -> dict[int, str]:
    return next((one.names for one in labels if one.names), {})


def _provenance(out: Path) -> list[tuple[str, str]]:
    """What the store says of its making, a row each; lists and tables as JSON."""
    facts = group_attributes(out).get("tilekit", {})
    keys = ("date", "version", "source", "view", "model", "parameters", "nodata", "image")
    values = [(key, facts[key]) for key in keys if facts.get(key) not in (None, {}, [])]
    return [(key, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)) for key, v in values]


def _times(out: Path, image: Source) -> list[dict[str, Any]]:
    pixels = _n_pixels(image)
    return [
        {
            "stage": row["stage"],
            "blocks": f"{row['done']} of {row['blocks']}",
            "begun": _moment(row["begun"]),
            "seconds": row["ended"] - row["begun"],
            "rate": pixels / 1e6 / seconds
            if row["stage"] in RATED and (seconds := row["ended"] - row["begun"])
            else None,
        }
        for row in stage_times(out)
    ]


def _n_pixels(image: Source) -> float:
    """Of all planes, however many channels each has."""
    return float(np.prod(image.shape)) / (image.shape[image.axes.index("c")] if "c" in image.axes else 1)


def _caption(shape: Any, image: Source) -> str:
    stacked = [a for a in image.axes if a in "tz"]
    text = (
        " x ".join(f"{n:,}" for n in shape) + " pixels" + (f" of the middle {' and '.join(stacked)}" if stacked else "")
    )
    return (
        f"{text}, {_lengths([n * s for n, s in zip(shape, image.pixel_size, strict=True)])}"
        if image.pixel_size
        else text
    )


def _lengths(micrometers: Any) -> str:
    return " x ".join(_unit(n, LENGTHS) for n in micrometers)


def _unit(value: float, units: Any) -> str:
    """In the largest unit of which it is at least a tenth."""
    size, name = next((u for u in units if value >= u[0] / 10), units[-1])
    return f"{_digits(value / size)} {name}"


def _digits(value: float) -> str:
    """Four digits, all those before the point, and no exponent."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00") + " UTC"
