"""The flow `inbox`: one look at a watched folder, with a table of what happened and a picture of each result."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.batch import Row
from flows.overlay import overlay_of_store
from flows.params import InboxParameters, Place
from flows.segment import as_task, progress_artifact, publish_picture
from flows.tick import run_tick
from tilekit.errors import InputError
from tilekit.place import as_path

DEFAULTS = InboxParameters()
MAX_ROWS = 1000


@flow(name="inbox", description="Segment every image of a folder that is new or has changed, once.")
def inbox(folder: Place, model: Place, out: Place, parameters: InboxParameters = DEFAULTS) -> list[Row]:
    """Segment what is new or changed in `folder` into stores in `out`; a row for each image that is not as it was left.

    An image that fails is put aside, with its reason, and fails no run; what is no image's fault (a full disk, a lost
    scheduler) does, and the next run goes on.

    Args:
        folder: Folder that images are put into.
        model: The network: a .safetensors file, read anew each time, or a starter (nuclei).
        out: Folder for the outputs: a store NAME.zarr for each image, and inbox.json, which says what is done.
        parameters: How it is done.
    """
    if not (folder and model and out):
        raise InputError(
            "inbox: its folder, model or out is not set; set them in the deployment's parameters, or TILEKIT_INBOX, "
            "TILEKIT_MODEL and TILEKIT_OUT where it is deployed"
        )
    logging.getLogger("distributed").setLevel(logging.WARNING)
    rows = run_tick(str(folder), model, out, parameters, progress_artifact("inbox-progress"), as_task, publish)
    publish_table(str(folder), rows)
    return rows


def publish(row: Row) -> None:
    """A picture of a result."""
    publish_picture("inbox-overlay", overlay_of_store(as_path(row["output"])), f"classes of {Path(row['image']).name}")


def publish_table(folder: str, rows: list[dict[str, Any]]) -> None:
    """What happened; the longest tables are cut."""
    shown = ("status", "reason", "blocks", "seconds", "output")
    table = [{"image": Path(row["image"]).name, **{k: row[k] for k in shown}} for row in rows[:MAX_ROWS]]
    counts = {status: sum(r["status"] == status for r in rows) for status in sorted({r["status"] for r in rows})}
    said = ", ".join(f"{n} {status}" for status, n in counts.items()) or "nothing new"
    create_table_artifact(key="inbox-summary", table=table, description=f"{folder}: {said}")
