"""The flow `ingest`: an image into OME-Zarr, as one task run."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.params import IngestParameters, Place
from flows.segment import as_task, progress_artifact
from flows.work import ingest_file

DEFAULTS = IngestParameters()


@flow(name="ingest", description="Chunk an image of any size into OME-Zarr, with its pyramid and statistics.")
def ingest(image: Place, out: Place, parameters: IngestParameters = DEFAULTS) -> dict[str, Any]:
    """Ingest `image` into `out`; returns the keys of `tilekit ingest --json`.

    Args:
        image: An image of any size: TIFF, OME-Zarr, Zarr, PNG, ...
        out: The store to write, OUT.zarr.
        parameters: What to take of the image, and how to store it.
    """
    result: dict[str, Any] = as_task(ingest_file, image, out, parameters, progress_artifact("ingest-progress"))
    return result
