"""Status: how far the run of an output is, from any terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tilekit.errors import InputError
from tilekit.ledger import FOLDER, stages
from tilekit.lock import is_locked
from tilekit.place import as_path
from tilekit.store import group_attributes


def status(out: str | Path) -> dict[str, Any]:
    """Status (running, stopped, complete) and, for each stage that began, its blocks and those that are recorded."""
    out = as_path(out)
    if not (out / FOLDER).is_dir():
        raise InputError(f"{out}: no run of tilekit has written here; start one with tilekit segment")
    said = group_attributes(out).get("tilekit", {}).get("status", "running")
    if said != "complete" and not is_locked(out):
        said = "stopped"
    return {"output": str(out), "status": said, "stages": stages(out)}
