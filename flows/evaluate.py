"""The flow `evaluate`: scores as a table artifact, the confusion matrix and the worst tiles as pictures."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.evaluate_files import EvaluateParameters, evaluate_files
from flows.params import Place
from flows.segment import as_task, progress_artifact
from tilekit.score_files import table_rows

DEFAULTS = EvaluateParameters()
MAX_ROWS = 1000
"""Images that the artifact lists; scores.csv has all."""


@flow(name="evaluate", description="Score predictions against the truth, of one image or a folder of pairs.")
def evaluate(
    prediction: Place,
    truth: Place,
    other: Place | None = None,
    parameters: EvaluateParameters = DEFAULTS,
) -> dict[str, Any]:
    """Score `prediction` (and compare `other`) with `truth`; returns the keys of `tilekit evaluate --json`.

    Args:
        prediction: A label map (TIFF, PNG, Zarr), or a folder of them.
        truth: The truth of it, or of each.
        other: A second prediction, to compare with the first.
        parameters: What the maps hold, and what is written.
    """
    maps = [str(m) for m in (prediction, other, truth) if m is not None]
    progress = progress_artifact("evaluate-progress")
    result: dict[str, Any] = as_task(evaluate_files, maps, parameters, progress, publish)
    return result


def publish(result: dict[str, Any], pictures: list[Path]) -> None:
    """The scores as a table, and the pictures."""
    rows = table_rows(result)
    create_table_artifact(key="evaluate-scores", table=[*rows[-1:], *rows[:-1]][:MAX_ROWS], description="Scores")
    if not pictures:
        return
    shown = "\n\n".join(f"{path.name}\n\n![{path.stem}]({data_url(path)})" for path in pictures)
    create_markdown_artifact(key="evaluate-pictures", markdown=shown, description="prediction | truth | mistakes")


def data_url(path: Path) -> str:
    kind = "image/svg+xml" if path.suffix == ".svg" else "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
