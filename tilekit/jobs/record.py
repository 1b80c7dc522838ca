"""What the ledger of an output tells later: how many pixels each class has, and when the stages ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tilekit.errors import InputError
from tilekit.jobs.predict import STAGE, fold_counts
from tilekit.ledger import FOLDER, Ledger, Requests, last_recorded, read_arguments, stages


def class_counts(out: Path) -> dict[int, int]:
    """Pixels by class (255 is void) of all blocks predicted so far; empty where tilekit predicted none."""
    arguments = read_arguments(out, STAGE)
    if arguments is None:
        return {}
    ledger = Ledger(out, STAGE, arguments["blocks"], fold_counts, Requests(0, lambda index: 0))
    counts = ledger.total().get("classes", {})
    if not all(value.isdecimal() and type(n) is int for value, n in counts.items()):
        raise InputError(f"{out}: its record of classes is damaged; segment it again with --overwrite")
    return {int(value): n for value, n in sorted(counts.items(), key=lambda x: int(x[0]))}


def stage_times(out: Path) -> list[dict[str, Any]]:
    """The stages in the order in which they began: stage, done, blocks, begun and ended (seconds since 1970).

    Ends are those of the last record; times are those of the ledger's files, so that a copy may have lost them.
    """
    found = []
    for stage in stages(out):
        folder = out / FOLDER / stage["stage"]
        begun = (folder / "arguments.json").stat().st_mtime
        found.append({**stage, "begun": begun, "ended": last_recorded(folder) or begun})
    return found
