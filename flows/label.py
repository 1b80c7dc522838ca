"""The flow `label`: the objects of a class map, as one task run, and a summary table."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.params import LabelParameters, Place
from flows.segment import as_task, progress_artifact
from flows.work import label_file

DEFAULTS = LabelParameters()


@flow(name="label", description="Number and measure the objects of a class map of any size, exact across seams.")
def label(classes: Place, out: Place | None = None, parameters: LabelParameters = DEFAULTS) -> dict[str, Any]:
    """Label the store `classes`, or the class map `classes` into `out`; returns the keys of `tilekit label --json`.

    Args:
        classes: A segmented store; or a class map anywhere, with `out`.
        out: Output for the objects of a class map; unset: the segmented store itself.
        parameters: What is an object, and what is written of it.
    """
    result: dict[str, Any] = as_task(label_file, classes, out, parameters, progress_artifact("label-progress"))
    rows = [{"figure": k, "value": v} for k, v in result.items()]
    create_table_artifact(key="label-summary", table=rows, description=f"Objects of {result['output']}")
    return result
