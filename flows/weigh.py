"""The flow `weigh`: the weight map of a label map, as one task run, and a summary table."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.params import Place, WeighParameters
from flows.segment import as_task, progress_artifact
from flows.work import weigh_file

DEFAULTS = WeighParameters()


@flow(name="weigh", description="The U-Net weight map of a label map of any size, exact across seams.")
def weigh(labels: Place, out: Place, parameters: WeighParameters = DEFAULTS) -> dict[str, Any]:
    """Weigh the label map `labels` into `out`; returns the keys of `tilekit weigh --json`.

    Args:
        labels: A label map: TIFF, PNG, Zarr, or a labelled store.
        out: The store to write, OUT.zarr.
        parameters: The terms of the weights.
    """
    result: dict[str, Any] = as_task(weigh_file, labels, out, parameters, progress_artifact("weigh-progress"))
    rows = [{"figure": k, "value": v} for k, v in result.items()]
    create_table_artifact(key="weigh-summary", table=rows, description=f"Weights in {result['output']}")
    return result
