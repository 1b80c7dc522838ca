"""200 faults on small runs, 160 in process and 40 real kills: what became of each, and the tables of docs/survival.md.

    python benchmarks/faults.py [--only TEXT] [--in-process | --kills] [--write]

Every run must end right, or end in one clear line (or die) and come out right when the same command is given again; an
output that is complete has the bytes of an undisturbed run. `--write` puts the table into docs/survival.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONPATH"] = str(ROOT)
PAGE = ROOT / "docs/survival.md"
MARKS = ("<!-- {}: by benchmarks/faults.py -->", "<!-- end of {} -->")


def in_process(only: str) -> list[Any]:
    """The cases of tests/faults/campaign.py, two at a time."""
    from tests.faults.campaign import Campaign, plan

    with tempfile.TemporaryDirectory(prefix="tilekit-faults-") as folder:
        campaign = Campaign(Path(folder))
        cases = [(i, c) for i, c in enumerate(plan()) if only in c.title]
        with ThreadPoolExecutor(2) as pool:
            return [told(row) for row in pool.map(lambda item: campaign.run(*item), cases)]


def kills(only: str) -> list[Any]:
    """Those of tests/faults/kills.py, two at a time."""
    from tests.faults.kills import Bench, plan

    folder = Path(tempfile.mkdtemp(prefix="tilekit-kills-"))
    try:
        bench = Bench(folder)
        cases = [(i, kill) for i, kill in enumerate(plan()) if only in kill.title]
        with ThreadPoolExecutor(2) as pool:
            return [told(row) for row in pool.map(lambda item: bench.run(*item), cases)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def told(row: Any) -> Any:
    print("ok " if row.is_good else "BAD", row, flush=True)
    return row


def write(name: str, lines: list[str]) -> None:
    """Put a table between its marks."""
    start, end = (mark.format(name) for mark in MARKS)
    before, _, rest = PAGE.read_text().partition(start)
    _, _, after = rest.partition(end)
    PAGE.write_text("\n".join([before + start, *lines, end]) + after)


def run(name: str, what: Callable[[str], list[Any]], asked: argparse.Namespace) -> dict[str, Any]:
    from tests.faults.campaign import table

    started = time.perf_counter()
    rows = what(asked.only)
    lines = list(table(rows))
    bad = [str(row) for row in rows if not row.is_good]
    print("\n".join(["", *lines, f"{len(rows)} in {time.perf_counter() - started:.0f} s, {len(bad)} bad", *bad]))
    if asked.write:
        write(name, lines)
    return {"runs": len(rows), "bad": bad, "rows": [str(row) for row in rows]}


def main() -> None:
    from common import WORK, machine

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="Faults whose name has this text.")
    parser.add_argument("--in-process", action="store_true")
    parser.add_argument("--kills", action="store_true")
    parser.add_argument("--write", action="store_true", help="Write the tables into docs/survival.md.")
    asked = parser.parse_args()
    both = asked.in_process == asked.kills
    found = {}
    if both or asked.in_process:
        found["in process"] = run("in process", in_process, asked)
    if both or asked.kills:
        found["kills"] = run("kills", kills, asked)
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "faults.json").write_text(json.dumps({"machine": machine(), **found}, indent=1))
    sys.exit(any(part["bad"] for part in found.values()))


if __name__ == "__main__":
    main()
