"""160 faults in process: each a job, a door that fails at its k-th use, and what becomes of the run.

A run must end right, or end in one clear line (or die) and come out right when the same command is given again. Never
is an output complete with a byte that differs from an undisturbed run, never does a run hang.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from tests.faults.children import HUNG, Ended, call, change_source, second_run
from tests.faults.doors import DIED, Fault
from tests.faults.jobs import JOBS, SIDE, Job, make_inputs

FOR_GOOD = 10**9
RIGHT, RESUMED, REFUSED = "right at once", "continued", "refused"
WRONG, HANG, UNCLEAR = "WRONG BYTES", "HANG", "UNCLEAR"
CHANGES = ("rewritten", "replaced", "cut", "gone")


@dataclass(frozen=True)
class Case:
    """One fault in one run."""

    title: str
    job: Job
    threads: bool
    door: str
    kind: str
    times: int
    share: float
    """Where in the run: the fault's use of its door, as a share of all uses in an undisturbed run."""
    change: str = ""
    """What becomes of the source, or "second" for a second run."""

    @property
    def runner(self) -> str:
        return "threads" if self.threads else "plain"


@dataclass(frozen=True)
class Row:
    """What became of a case."""

    case: Case
    k: int
    outcome: str
    said: str

    @property
    def is_good(self) -> bool:
        return self.outcome in (RIGHT, RESUMED, REFUSED)

    def __str__(self) -> str:
        c = self.case
        return f"{c.title}, {c.job.name} ({c.runner}), use {self.k} of {c.door}: {self.outcome}; {self.said.strip()}"


# title, door, kind, times, how many in each job: plain, and as tasks of threads
PLAN: list[tuple[str, str, str, int, dict[str, int], dict[str, int]]] = [
    ("disk full, half a file there", "write", "full", FOR_GOOD,
     {"segment": 4, "ingest": 1, "label": 3, "weigh": 1, "evaluate": 1}, {"segment": 2, "label": 1}),
    ("full for one write", "write", "full", 1, {"segment": 1, "label": 1}, {}),
    ("a write fails once, half of it done", "write", "error", 1,
     {"segment": 3, "label": 2, "weigh": 1, "evaluate": 1}, {"segment": 2}),
    ("every write takes but half of what it is given", "write", "short", FOR_GOOD,
     {"segment": 1, "label": 1, "weigh": 1, "evaluate": 1}, {"segment": 1}),
    ("half of a write is lost and said to be there", "write", "lost", 1,
     {"segment": 4, "ingest": 2, "label": 2, "weigh": 1}, {"segment": 2}),
    ("dead in the middle of a write", "write", "die", 1,
     {"segment": 4, "ingest": 1, "label": 3, "weigh": 1, "evaluate": 1, "train": 1}, {"segment": 2}),
    ("dead before a file is in its place", "rename", "die", 1, {"segment": 3, "label": 2, "weigh": 1}, {"segment": 1}),
    ("dead once a file is in its place", "rename", "die after", 1,
     {"segment": 3, "label": 2}, {"segment": 1}),
    ("a file cannot be put in its place, once", "rename", "error", 1, {"segment": 2, "label": 1}, {"segment": 1}),
    ("a sync fails", "sync", "error", FOR_GOOD, {"segment": 2, "label": 1, "evaluate": 1}, {"segment": 1}),
    ("a read fails once", "read", "error", 1, {"segment": 2, "ingest": 1, "label": 1, "weigh": 1}, {"segment": 1}),
    ("reads fail for good", "read", "error", FOR_GOOD, {"segment": 2, "evaluate": 1}, {"ingest": 1}),
    ("a read times out, or its handle is stale", "read", "timeout", 1, {"segment": 1, "evaluate": 1}, {"segment": 1}),
    ("a read times out, or its handle is stale", "read", "stale", 1, {"segment": 1, "label": 1}, {}),
    ("a read is short", "read", "short", 1, {"segment": 4, "label": 1, "weigh": 1, "evaluate": 1}, {"segment": 2}),
    ("a read takes a second", "read", "slow", 1, {"segment": 1}, {"segment": 1}),
    ("no memory for a block", "block", "memory", 1, {"segment": 2, "label": 1, "evaluate": 1}, {"segment": 1}),
    ("no memory for a tile", "network", "memory", 1, {"segment": 2}, {"segment": 1}),
    ("no memory for any tile", "network", "memory", FOR_GOOD, {"segment": 1}, {"segment": 1}),
    ("the clock jumps by ten hours, ahead and back", "block", "clock", FOR_GOOD,
     {"segment": 2, "label": 1, "evaluate": 1}, {"segment": 2}),
    ("Ctrl-C", "block", "interrupt", 1, {"segment": 2, "label": 2, "weigh": 1}, {}),
    ("a checkpoint is torn and the write fails", "save", "error", 1, {"train": 3}, {}),
    ("a checkpoint is torn by a full disk", "save", "full", FOR_GOOD, {"train": 2}, {}),
    ("dead in the middle of a checkpoint", "save", "die", 1, {"train": 4}, {}),
    ("dead before a checkpoint is in its place", "rename", "die", 1, {"train": 2}, {}),
    ("a second run on the same output", "block", "second", 1,
     {"segment": 2, "ingest": 1, "label": 2, "weigh": 1, "evaluate": 1}, {"segment": 1}),
    *(
        (f"the source is {change}" if change != "gone" else "the source is removed", "block", change, 1,
         {"segment": 2, "label": 1, "weigh": 1} if change != "replaced" else {"ingest": 1, "segment": 1, "evaluate": 1},
         {"ingest": 1})
        for change in CHANGES
    ),
]  # fmt: skip


def plan(seed: int = 0) -> list[Case]:
    """All cases, each at a place of its own."""
    chance, cases = random.Random(seed), []
    for title, door, kind, times, plain, threads in PLAN:
        for is_threaded, numbers in ((False, plain), (True, threads)):
            for name, n in numbers.items():
                change = kind if kind in (*CHANGES, "second") else ""
                for i in range(n):
                    share = (i + chance.random()) / n if times == 1 or n > 1 else chance.random() / 2
                    asked = "call" if change else kind
                    cases.append(Case(title, JOBS[name], is_threaded, door, asked, times, share, change))
    return cases


class Campaign:
    """Inputs, undisturbed runs, and the cases run on them."""

    def __init__(self, folder: Path, jobs: set[str] | None = None) -> None:
        self.folder, self.inputs = folder, folder / "inputs"
        make_inputs(self.inputs)
        self._make_others()
        self.undisturbed: dict[str, Ended] = {}
        self.expected: dict[str, dict[str, Any]] = {}
        for name, job in JOBS.items():
            if jobs is None or name in jobs:
                out = folder / "undisturbed" / name
                ended = call(job.arguments(self.inputs, out), out)
                assert ended.status == 0, f"{name}: {ended}"
                self.undisturbed[name], self.expected[name] = ended, job.contents(out)

    def _make_others(self) -> None:
        """What a source is changed into."""
        rng = np.random.default_rng(9)
        for name in ("image", "labels"):
            pixels = np.kron(rng.integers(1, 4, (SIDE // 8, SIDE // 8)), np.ones((8, 8), int)).astype(np.uint8)
            tifffile.imwrite(self.inputs / f"{name}.other", pixels, tile=(64, 64))

    def run(self, number: int, case: Case) -> Row:
        """One case; its folder is removed where all went well."""
        folder = self.folder / f"case-{number}"
        folder.mkdir()
        uses = self.undisturbed[case.job.name].counts.get(case.door, 0)
        assert uses, f"{case.job.name} never uses {case.door}"
        k = 1 + int(case.share * uses)
        row = _Attempt(self, case, folder, k).row()
        if row.is_good:
            shutil.rmtree(folder)
        return row


class _Attempt:
    """One case on its way."""

    def __init__(self, campaign: Campaign, case: Case, folder: Path, k: int) -> None:
        self.case, self.k, self.folder, self.out = case, k, folder, folder / "out"
        self.inputs = campaign.inputs
        self.expected = campaign.expected[case.job.name]
        if case.change in CHANGES:
            self.inputs = Path(shutil.copytree(campaign.inputs, folder / "in"))  # copy2 keeps the times
        self.arguments = case.job.arguments(self.inputs, self.out)
        self.source = self.inputs / case.job.source

    def row(self) -> Row:
        case = self.case
        first = self.call(Fault(case.door, case.kind, self.k, case.times))
        make = partial(Row, case, self.k)
        if first.status == HUNG:
            return make(HANG, "the first run")
        if case.change == "second":
            said = (self.folder / "second").read_text() if (self.folder / "second").exists() else "never came"
            if not (said.startswith("2 tilekit: ") and "another run is writing it" in said):
                return make(UNCLEAR, said)
            return make(REFUSED if first.status == 0 and not self.differing() else WRONG, said)
        if first.status == 0:
            differing = self.differing()
            return make(WRONG if differing else RIGHT, ", ".join(differing))
        if not (first.is_clear or first.status == DIED):
            return make(UNCLEAR, f"{first.status} {first.err}")
        return make(*self.go_on(first))

    def go_on(self, first: Ended) -> tuple[str, str]:
        """The same command again, its cause mended."""
        said = f"{first.status} {first.err.strip() or 'dead'}"
        if self.case.change:
            shutil.copy2(self.folder.parent / "inputs" / self.case.job.source, self.source)
        again = self.call(Fault(""))
        if again.status == 2 and self.case.job.again and "holds no state" in again.err:  # it had not come so far
            again = self.call(Fault(""), anew=True)
        if again.status == HUNG:
            return HANG, f"the second run, after {said}"
        if again.status != 0:
            return UNCLEAR, f"{said}; and again {again.status} {again.err.strip()}"
        if differing := self.differing():
            return WRONG, f"{', '.join(differing)} after {said}"
        return (REFUSED if self.case.change else RESUMED), said

    def call(self, fault: Fault, *, anew: bool = False) -> Ended:
        more = [] if fault.door or anew else list(self.case.job.again)
        change: Any = None
        if self.case.change == "second":
            change = (second_run, self.arguments, self.folder / "second")
        elif self.case.change:
            change = (change_source, self.case.change, self.source)
        return call([*self.arguments, *more], self.out, fault, threads=self.case.threads, change=change)

    def differing(self) -> list[str]:
        """What is not as in an undisturbed run: files with other bytes, and half-written ones left over."""
        try:
            found = self.case.job.contents(self.out)
        except ValueError as error:
            return [f"metadata that cannot be read ({error})"]
        names = sorted(n for n in found.keys() | self.expected.keys() if found.get(n) != self.expected.get(n))
        left = [
            str(p.relative_to(self.out)) for p in self.out.rglob("*.part*") if p.is_file() and ".parquet" not in p.name
        ]
        return [*names, *left]


def table(rows: list[Row]) -> Iterator[str]:
    """The Markdown table: faults, counts, outcomes."""
    yield "| fault | runs | right at once | continued | refused | wrong, hung or unclear |"
    yield "|---|---:|---:|---:|---:|---:|"
    titles = list(dict.fromkeys(row.case.title for row in rows))
    for title in [*titles, ""]:
        mine = [row for row in rows if title in (row.case.title, "")]
        counts = [sum(row.outcome == outcome for row in mine) for outcome in (RIGHT, RESUMED, REFUSED)]
        cells = [len(mine), *counts, len(mine) - sum(counts)]
        yield f"| {title or '**all**'} | " + " | ".join(map(str, cells)) + " |"


def cpu_count() -> int:
    return len(os.sched_getaffinity(0))
