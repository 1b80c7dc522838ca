"""Runs the benchmarks, one after the other, and writes docs/bench.json and the tables of docs/performance.md.

    python -m benchmarks.bench                  all of them, at full size
    python -m benchmarks.bench label peers      these alone; what is known of the others stays
    python -m benchmarks.bench --quick          all, small: shows that they run, and no more; docs stay as they are
    python -m benchmarks.bench --render         the tables of the page from the JSON, and nothing is measured

Each runs in a process of its own; one that fails or takes longer than --limit is reported with its reason, and the
others go on. Inputs are made once, in the folder TILEKIT_BENCH (default: tilekit-bench where temporary files are).
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, WORK, CaseError, case, machine
from benchmarks.page import Results, refresh, text

NAMES = (
    "forward", "segment", "peers", "ingest", "boxes", "label", "weigh", "evaluate", "train", "augment", "dense",
    "growth", "scheduler", "gpu",
)  # fmt: skip
JSON, PAGE = ROOT / "docs" / "bench.json", ROOT / "docs" / "performance.md"


def run(name: str, quick: bool, limit: float) -> Results:
    """Measure one benchmark; its rows, or the reason why there are none."""
    at, started = machine(), time.perf_counter()
    rows: list[Any] = []
    failed = None
    try:
        rows = case(f"benchmarks.{name}:measure", quick=quick, timeout=limit)
    except CaseError as error:
        failed = str(error)
    if quick:  # goals are those of the full size
        rows = [{**r, "met": None} if "what" in r else r for r in rows]
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    seconds = round(time.perf_counter() - started, 1)
    return {"date": date, "size": "quick" if quick else "full", "seconds": seconds, "machine": at,
            "failed": failed, "rows": rows}  # fmt: skip


def read(path: Path) -> Results:
    """What is known so far."""
    return dict(json.loads(path.read_text())) if path.exists() else {"benchmarks": {}}


def write(path: Path, results: Results) -> None:
    """In the benchmarks' order."""
    known = results["benchmarks"]
    order = sorted(known, key=lambda name: NAMES.index(name) if name in NAMES else len(NAMES))
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded = {"benchmarks": {name: _rounded(known[name]) for name in order}}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(rounded, indent=1, ensure_ascii=False) + "\n")
    part.replace(path)


def _rounded(value: Any) -> Any:
    """Five digits are more than a timing has; exact counts stay as they are."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def render(results: Path, page: Path) -> None:
    page.write_text(refresh(page.read_text(), read(results)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="default: docs/bench.json; with --quick beside the inputs")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for one benchmark")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in NAMES]:
        parser.error(f"{unknown[0]} is no benchmark; choose from {', '.join(NAMES)}")
    results = given.json or (WORK / "quick.json" if given.quick else JSON)
    if given.render:
        render(results, given.page)
        return 0
    failed = []
    for name in given.names or NAMES:
        print(f"\n== {name}: {_title(name)}", flush=True)
        found = run(name, given.quick, given.limit)
        print(text(found), flush=True)
        failed += [name] if found["failed"] else []
        write(results, {"benchmarks": {**read(results)["benchmarks"], name: found}})
        if not given.quick:
            render(results, given.page)
    print(f"\n{results}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _title(name: str) -> str:
    """The first line of the benchmark's description."""
    spec = importlib.util.find_spec(f"benchmarks.{name}")
    return "" if spec is None or spec.origin is None else Path(spec.origin).read_text().strip('"').splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
