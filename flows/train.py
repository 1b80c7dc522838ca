"""The flow `train`: check, train, score and describe a network, each as a task run, with tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.evaluate import data_url
from flows.params import Place
from flows.segment import as_task, progress_artifact
from flows.training.run import Options, train_file

DEFAULTS = Options()


@flow(name="train", description="Train a network as a TOML says: check, train, evaluate, model card.")
def train(config: Place, options: Options = DEFAULTS) -> dict[str, Any]:
    """Train as `config` says; returns the keys of `tilekit train --json`.

    Args:
        config: A TOML that says what to train, on what, and how; `tilekit train CONFIG --init` writes one.
        options: What is asked of this run.
    """
    return train_file(config, options, progress_artifact("train-progress"), as_task, publish_row, publish)


def publish_row(rows: list[dict[str, Any]], overlays: list[Path]) -> None:
    """The curves so far, and what the network makes of validation images now."""
    create_table_artifact(key="train-curves", table=rows, description="Loss and scores by step")
    if overlays:
        shown = "\n\n".join(f"{path.stem}\n\n![{path.stem}]({data_url(path)})" for path in overlays)
        step = rows[-1]["step"]
        create_markdown_artifact(key="train-overlays", markdown=f"step {step}: image | classes | mistakes\n\n{shown}")


def publish(result: dict[str, Any], pictures: list[Path]) -> None:
    """What came of it, and the curves."""
    rows = [{"figure": key, "value": value} for key, value in result.items() if not isinstance(value, dict)]
    for part in ("validation", "test"):
        rows += [{"figure": f"{part} {k}", "value": v} for k, v in result.get(part, {}).items()]
    create_table_artifact(key="train-summary", table=rows, description=f"Training of {result['model']}")
    if pictures:
        shown = "\n\n".join(f"![{path.stem}]({data_url(path)})" for path in pictures)
        create_markdown_artifact(key="train-pictures", markdown=shown)
