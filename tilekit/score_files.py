"""Scores as files: JSON with every figure, and a table with a line per image."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

JSON_NAME, CSV_NAME = "scores.json", "scores.csv"


def as_json(value: Any) -> Any:
    """The same without NaN, which JSON does not know: null stands for a score that has no value."""
    if isinstance(value, dict):
        return {k: as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    return None if isinstance(value, float) and value != value else value


def write_scores(out: Path, result: dict[str, Any]) -> None:
    """Write scores.json and scores.csv into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / JSON_NAME).write_text(json.dumps(as_json(result), indent=1) + "\n")
    rows = table_rows(result)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    (out / CSV_NAME).write_text(file.getvalue(), newline="")


def table_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per image and one for all of them; of two predictions, of each. Lists become numbered columns."""
    if "images" in result:
        pooled = {k: v for k, v in result.items() if k in result["images"][0]}
        return [_row(row) for row in [*result["images"], {"image": "all", **pooled}]]
    names = [row["image"] for row in table_rows(result["first"])]
    return [
        {"prediction": which, **row, "image": name}
        for which in ("first", "second")
        for name, row in zip(names, table_rows(result[which]), strict=True)
    ]


def _row(scores: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    labels = scores.get("thresholds")
    for name, value in scores.items():
        if name in ("thresholds", "confusion"):
            continue
        if isinstance(value, list):
            row |= {f"{name}_{labels[i] if labels else i}": as_json(v) for i, v in enumerate(value)}
        else:
            row[name] = as_json(value)
    return row
