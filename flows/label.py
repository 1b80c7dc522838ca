"""The flow `label`: the objects of a class map, as one task run, and a summary table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.params import LabelParameters
from flows.segment import as_task, progress_artifact
from flows.work import label_file

DEFAULTS = LabelParameters()


@flow(name="label", description="Number and measure the objects of a class map of any size, exact across seams.")
def label(classes: str | Path, out: str | Path | None = None, parameters: LabelParameters = DEFAULTS) -> dict[str, Any]:
    """Label the store `classes`, or the class map `classes` into `out`; returns the keys of `tilekit label --json`."""
    result: dict[str, Any] = as_task(label_file, classes, out, parameters, progress_artifact("label-progress"))
    rows = [{"figure": k, "value": v} for k, v in result.items()]
    create_table_artifact(key="label-summary", table=rows, description=f"Objects of {result['output']}")
    return result
