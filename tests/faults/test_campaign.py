"""Faults in process: eight of the 160 of benchmarks/faults.py; all of them, and the kills, are slow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.campaign import Campaign, Case, plan
from tests.faults.kills import Bench
from tests.faults.kills import plan as plan_kills

CASES = plan()
CHEAP = ("evaluate", "ingest")
KINDS = ("full", "lost", "die", "error", "memory", "second", "replaced", "clock")
QUICK = list(
    {(c.change or c.kind): c for c in CASES if c.job.name in CHEAP and not c.threads and (c.change or c.kind) in KINDS}
    .values()
)  # fmt: skip
"""One of each of these kinds, of the cheapest jobs, as plain runs."""


@pytest.fixture(scope="session")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("campaign"), set(CHEAP))


def test_there_are_160_faults_in_process_and_40_kills() -> None:
    assert (len(CASES), len(plan_kills())) == (160, 40)
    assert len(QUICK) == len(KINDS)


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.title.replace(" ", "-"))
def test_a_fault_ends_right_or_is_continued(campaign: Campaign, case: Case) -> None:
    row = campaign.run(CASES.index(case), case)
    assert row.is_good, row


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_faults_and_kills_end_right_or_are_continued(tmp_path: Path) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    campaign, bench = Campaign(tmp_path / "campaign"), Bench(tmp_path / "kills")
    rows = [
        *(campaign.run(i, case) for i, case in enumerate(CASES)),
        *(bench.run(i, kill) for i, kill in enumerate(plan_kills())),
    ]
    assert not [str(row) for row in rows if not row.is_good]
