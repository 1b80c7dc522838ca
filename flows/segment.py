"""The flow `segment`: a task run per stage, a progress artifact, a summary table and an overlay picture."""

from __future__ import annotations

import base64
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE

from flows.batch import segment_files
from flows.dashboard import told_dashboard
from flows.images import BatchError
from flows.limits import limit_of
from flows.overlay import overlay_of_store
from flows.params import Place, SegmentParameters
from flows.work import segment_file
from tilekit.attempt import concerns_all
from tilekit.engine import Progress
from tilekit.errors import InputError, RunError
from tilekit.place import as_path

UPDATE_SECONDS = 2.0
DEFAULTS = SegmentParameters()


@flow(name="segment", description="Segment an image of any size into an OME-Zarr, exactly.")
def segment(image: Place, model: Place, out: Place, parameters: SegmentParameters = DEFAULTS) -> dict[str, Any]:
    """Segment `image` with the network `model` into `out`; returns the keys of `tilekit segment --json`.

    Args:
        image: An image of any size: TIFF, OME-Zarr, Zarr, PNG, ...
        model: The network: a .safetensors file, or a starter (nuclei).
        out: The store to write, OUT.zarr; or the image itself, a Zarr, to which labels are added.
        parameters: What to take of the image, and how to compute.
    """
    logging.getLogger("distributed").setLevel(logging.WARNING)
    result = segment_file(image, model, out, parameters, progress=progress_artifact("segment-progress"), step=as_task)
    if pictures := result.get("preview"):
        publish_picture("segment-preview", as_path(pictures[-1]), "image beside class map")
    if not parameters.preview_only:
        as_task(publish, out, result)
    return result


@flow(name="segment-images", description="Segment the images of a folder, glob or CSV, one store each, on one cluster.")
def segment_images(
    images: Place, model: Place, out: Place, parameters: SegmentParameters = DEFAULTS
) -> list[dict[str, Any]]:
    """Segment `images` into stores in the folder `out`; returns the rows of `tilekit segment --json`.

    The table is an artifact too; the flow run fails, after the other images are done, where one failed (BatchError).

    Args:
        images: A folder, a glob or a CSV of images.
        model: The network: a .safetensors file, or a starter (nuclei).
        out: Folder for the stores and summary.csv.
        parameters: What to take of the images, and how to compute.
    """
    logging.getLogger("distributed").setLevel(logging.WARNING)
    try:
        rows = segment_files(images, model, out, parameters, progress_artifact("segment-images-progress"), as_task)
    except BatchError as error:
        publish_rows(out, error.rows)
        raise
    publish_rows(out, rows)
    return rows


def as_task(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a stage as a task run of its name, arguments out of Prefect's sight; a retry continues from the ledger."""
    named = task(
        name=function.__name__.replace("_stage", ""),
        retries=2,
        retry_delay_seconds=[1, 10],
        retry_condition_fn=_is_worth_retrying,
        tags=limit_of(function, arguments),
        cache_policy=NO_CACHE,
        persist_result=False,
    )(lambda: _with_dashboard(function, *arguments))
    return named()


def _with_dashboard(function: Callable[..., Any], *arguments: Any) -> Any:
    """A stage, with the dashboard of the cluster that it starts in the run's log and artifacts."""

    def tell(line: str, link: str | None) -> None:
        get_run_logger().info(line)
        if link:
            create_link_artifact(key="dask-dashboard", link=link, link_text="Dask dashboard")

    with told_dashboard(tell):
        return function(*arguments)


def _is_worth_retrying(_task: Any, _run: Any, state: Any) -> bool:
    """False for what a second try cannot mend: bad input, a lost scheduler, a full disk."""
    error = state.result(raise_on_failure=False)
    cause = error.__cause__ or error
    return not isinstance(error, InputError) and not (isinstance(cause, OSError | RunError) and concerns_all(cause))


def progress_artifact(key: str) -> Progress:
    """Progress of all stages as an artifact, brought up to date every two seconds and at the end of each.

    Once Prefect's server is gone, nothing more is told: each try takes a minute, and the work does not need it.
    """
    known: dict[str, UUID] = {}
    updated = {"at": 0.0}

    def show(stage: str, done: int, total: int) -> None:
        if updated["at"] == math.inf:
            return
        try:
            tell(stage, done, total)
        except httpx.TransportError:
            updated["at"] = math.inf

    def tell(stage: str, done: int, total: int) -> None:
        percent = 100 * done / max(total, 1)
        now = time.monotonic()
        if stage not in known:
            description = f"{stage}: {total} blocks"
            made = create_progress_artifact(progress=percent, key=f"{key}-{stage}", description=description)
            known[stage] = made if isinstance(made, UUID) else UUID(str(made))
        elif done == total or now - updated["at"] > UPDATE_SECONDS:
            update_progress_artifact(known[stage], progress=percent)
            updated["at"] = now

    return show


def publish_rows(out: str | Path, rows: list[dict[str, Any]]) -> None:
    """The table of a run over several images."""
    table = [{**{k: v for k, v in row.items() if k not in ("classes", "preview")}, **row["classes"]} for row in rows]
    create_table_artifact(key="segment-images-summary", table=table, description=f"Segmentation into {out}")


def publish(out: str | Path, result: dict[str, Any]) -> None:
    """The summary as a table, and a picture of the class map over the image."""
    rows = [{"figure": k, "value": v} for k, v in result.items() if not isinstance(v, dict | list)]
    rows += [{"figure": f"pixels of class {k}", "value": v} for k, v in result["classes"].items()]
    create_table_artifact(key="segment-summary", table=rows, description=f"Segmentation of {out}")
    publish_picture("segment-overlay", overlay_of_store(as_path(out)), "class map over the image")


def publish_picture(key: str, picture: Path, caption: str) -> None:
    """A PNG as an artifact."""
    encoded = base64.b64encode(picture.read_bytes()).decode()
    create_markdown_artifact(key=key, markdown=f"`{picture}`\n\n![{caption}](data:image/png;base64,{encoded})")
