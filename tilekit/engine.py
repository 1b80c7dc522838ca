"""One engine for every stage: run what the ledger lacks, fold receipts as they arrive, report what failed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilekit.attempt import Outcome, Task, concerns_all
from tilekit.errors import InputError, RunError
from tilekit.ledger import Fold, Ledger, Requests, Summary
from tilekit.run import Runner
from tilekit.sources import Source
from tilekit.tiling import BlockGrid
from tilekit.watch import note

FLUSH_SECONDS = 2.0
MAX_FAILURES = 20
"""Blocks that may fail for good before a stage gives up trying the others."""
Progress = Callable[[str, int, int], None]
"""Called with the stage's name, blocks done, blocks in all."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a task reports back."""

    shards: list[Any]
    """Records of the shards it wrote."""
    summary: Summary
    """Numbers that add."""
    redone: bool
    """True where the block had begun before, in this run or an earlier one, without being recorded."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of a run over the blocks of one output."""

    name: str
    out: Path
    task: Task
    """(index, config) -> Receipt; writes whole shards of its block alone."""
    config: Any
    n_blocks: int
    arguments: dict[str, Any]
    """What decides the result; another run over the same output must repeat it."""
    fold: Fold
    prepare: Callable[[], None] = lambda: None
    """Makes the arrays that the task writes, where they are missing; called once the arguments are known to fit."""
    requests: Requests | None = None
    """Which blocks are to be done again, where blocks may change from run to run."""
    grid: BlockGrid | None = None
    """The blocks, where each is a box of a plane: for those who watch."""
    sources: tuple[Source, ...] = ()
    """Files that the task reads: where one changes during the run, nothing that was read since is recorded."""

    def pixels(self, index: int) -> int | None:
        """Pixels of a block."""
        return None if self.grid is None else math.prod(self.grid.block(index).box.shape)

    def check_sources(self) -> None:
        """Raise RunError where a source is no longer what was opened."""
        for source in self.sources:
            source.check_unchanged()


@dataclass(frozen=True, slots=True)
class Report:
    """How a stage went."""

    stage: str
    blocks: int
    done_before: int
    redone: int
    seconds: float
    summary: Summary


def no_progress(stage: str, done: int, total: int) -> None:
    """Say nothing."""


def execute(stage: Stage, runner: Runner, progress: Progress = no_progress) -> Report:
    """Run the blocks that the ledger lacks; raises RunError with the list of those that failed for good."""
    started = time.perf_counter()
    if runner.is_elsewhere and not stage.out.is_absolute():
        raise InputError(f"{stage.out}: workers elsewhere have other working folders; give the whole path, from /")
    ledger = Ledger(stage.out, stage.name, stage.n_blocks, stage.fold, stage.requests, stage.check_sources)
    ledger.begin(stage.arguments)
    stage.prepare()
    ledger.replay()
    done_before = ledger.n_done
    told = {"run": runner.run_id, "stage": stage.name, "output": str(stage.out)}
    note("begun", **told, blocks=stage.n_blocks, done_before=done_before)
    progress(stage.name, done_before, stage.n_blocks)
    redone, failed = 0, {}
    with ledger.flushing(FLUSH_SECONDS):
        for outcome in runner.run(stage.task, stage.config, _starting(ledger.missing(), told)):
            _tell(stage, outcome, told)
            if outcome.error is not None:
                failed[outcome.index] = outcome.error
                if len(failed) >= MAX_FAILURES or concerns_all(outcome.error):
                    break
                continue
            receipt = outcome.receipt
            redone += receipt.redone or ledger.is_redone(outcome.index)
            ledger.add(outcome.index, receipt.shards, receipt.summary)
            progress(stage.name, ledger.n_done, stage.n_blocks)
    report = Report(stage.name, stage.n_blocks, done_before, redone, time.perf_counter() - started, ledger.total())
    note("ended", **told, seconds=report.seconds, done=ledger.n_done, redone=redone, failed=len(failed))
    if failed:
        stage.check_sources()  # which would be why
        worst = next(filter(concerns_all, failed.values()), failed[min(failed)])
        raise RunError(_failure(stage, ledger, failed)) from worst
    return report


def _failure(stage: Stage, ledger: Ledger, failed: dict[int, BaseException]) -> str:
    first = min(failed)
    reason = (str(failed[first]).strip().splitlines() or ["no message"])[-1].strip()
    listed = ", ".join(map(str, sorted(failed)[:10])) + (", ..." if len(failed) > 10 else "")
    return (
        f"{stage.out}: {stage.name} lacks {stage.n_blocks - ledger.n_done} of {stage.n_blocks} blocks; "
        f"failed: {listed}; block {first}: {type(failed[first]).__name__}: {reason}; "
        "mend the cause and run the same command again to continue"
    )


def _starting(indices: Iterable[int], told: dict[str, str]) -> Iterator[int]:
    """The same blocks, each told as it is handed out."""
    for index in indices:
        note("started", **told, block=index)
        yield index


def _tell(stage: Stage, outcome: Outcome, told: dict[str, str]) -> None:
    """Tell what became of a block."""
    known = {**told, "block": outcome.index, "worker": outcome.worker}
    for reason in outcome.retried:
        note("retried", **known, reason=reason)
    if outcome.error is not None:
        note("failed", **known, seconds=outcome.seconds, reason=f"{type(outcome.error).__name__}: {outcome.error}")
        return
    receipt = outcome.receipt
    n_bytes = sum(max(length, 0) for _, length, _ in receipt.shards)
    note(
        "done",
        **known,
        seconds=outcome.seconds,
        pixels=stage.pixels(outcome.index),
        bytes=n_bytes,
        redone=receipt.redone,
    )
