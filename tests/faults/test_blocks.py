"""Blocks that fail: the others are done, the failed ones are listed, and mending the cause completes the run."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import recorded
from tilekit.attempt import RETRIES
from tilekit.engine import MAX_FAILURES, Receipt, Stage, execute
from tilekit.errors import InputError, RunError
from tilekit.ledger import Ledger, mark_started
from tilekit.run import SerialRunner, open_runner
from tilekit.store import shard_record

N = 30
Faults = dict[int, str]


class Unpicklable(Exception):
    """An error that cannot travel between processes."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def task(index: int, config: tuple[Path, Faults]) -> Receipt:
    """Write a file of the block's number, unless something is the matter with it."""
    out, faults = config
    redone = mark_started(out / ".tilekit" / "stage", index)
    with (out / f"tries-{index}").open("a") as tries:
        tries.write("x")
    match faults.get(index):
        case "raise":
            raise RuntimeError("cannot\n  be done")
        case "once" if (out / f"tries-{index}").read_text() == "x":
            raise RuntimeError("not yet")
        case "die":
            os._exit(9)
        case "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out / "shard"))
        case "input/output":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(out / "shard"))
        case "input":
            raise InputError("tile 7 cannot be decoded")
        case "unpicklable":
            raise Unpicklable("this", "that")
    (out / str(index)).write_text(str(index))
    return Receipt([shard_record(out, str(index))], {"blocks": 1, "total": index}, redone)


def add(total: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    return {key: total.get(key, 0) + part.get(key, 0) for key in total | part}


def stage(out: Path, faults: Faults, **arguments: object) -> Stage:
    return Stage("stage", out, task, (out, faults), N, arguments, add)


def tries(out: Path, index: int) -> int:
    return len((out / f"tries-{index}").read_text())


def test_receipts_add_up_over_runs_and_failures(tmp_path: Path) -> None:
    faults = {3: "raise", 4: "input", 7: "once", 29: "input/output"}
    with pytest.raises(RunError) as caught:
        execute(stage(tmp_path, faults), SerialRunner())
    assert str(caught.value) == (
        f"{tmp_path}: stage lacks 3 of 30 blocks; failed: 3, 4, 29; block 3: RuntimeError: be done; "
        "mend the cause and run the same command again to continue"
    )
    assert [tries(tmp_path, i) for i in (0, 3, 4, 7, 29)] == [1, RETRIES + 1, 1, 2, RETRIES + 1]
    assert recorded(tmp_path, "stage") == N - 3
    report = execute(stage(tmp_path, {}), SerialRunner())
    assert (report.blocks, report.done_before, report.redone) == (N, N - 3, 3)
    assert report.summary == {"blocks": N, "total": sum(range(N))}
    again = execute(stage(tmp_path, {}), SerialRunner())
    assert (again.done_before, again.redone, again.summary) == (N, 0, report.summary)


def test_a_full_disk_stops_at_once_and_many_failures_stop_in_the_end(tmp_path: Path) -> None:
    full, many = tmp_path / "full", tmp_path / "many"
    for folder in (full, many):
        folder.mkdir()
    with pytest.raises(RunError, match=r"lacks 28 of 30 blocks; failed: 2; .*No space left on device"):
        execute(stage(full, {2: "full"}), SerialRunner())
    with pytest.raises(RunError, match=rf"lacks {N - 2} of 30 blocks"):
        execute(stage(many, dict.fromkeys(range(2, N), "input")), SerialRunner())
    assert not (many / f"tries-{2 + MAX_FAILURES}").exists()


def test_summaries_of_torn_lines_and_of_blocks_made_again_count_once(tmp_path: Path) -> None:
    execute(stage(tmp_path, {}), SerialRunner())
    log = tmp_path / ".tilekit/stage/ledger.jsonl"
    (line,) = map(json.loads, log.read_text().splitlines())
    halves = [
        {"blocks": {i: line["blocks"][i] for i in map(str, part)}, "summary": {"blocks": len(part), "total": sum(part)}}
        for part in (range(20), range(20, N))
    ]
    log.write_text(json.dumps(halves[0]) + "\n" + json.dumps(halves[1])[:50])
    (tmp_path / "5").write_text("spoilt")
    report = execute(stage(tmp_path, {}), SerialRunner())
    assert (report.done_before, report.redone) == (19, 1)
    assert report.summary == {"blocks": N, "total": sum(range(N))}
    assert (tmp_path / "5").read_text() == "5"


def test_a_ledger_of_more_blocks_than_the_stage_has_is_passed_over(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "stage", 3, add)
    ledger.begin({})
    (ledger.folder / "ledger.jsonl").write_text('{"blocks":{"7":[]},"summary":{}}\n{"blocks":{"-1":[]},"summary":{}}\n')
    ledger.replay()
    assert list(ledger.missing()) == [0, 1, 2]


@pytest.mark.slow
def test_a_block_that_kills_its_workers_is_listed_and_the_rest_is_done(tmp_path: Path) -> None:
    said = r"failed: .*3, .*5.*; block \d: RuntimeError: worker after worker died"
    with open_runner(2) as runner, pytest.raises(RunError, match=said) as caught:
        execute(stage(tmp_path, {3: "die", 5: "unpicklable"}), runner)
    assert "\n" not in str(caught.value)
    n_lost = N - recorded(tmp_path, "stage")
    assert 2 <= n_lost <= 6  # what waited on the same workers, time after time, may be taken for the culprit
    print(f"tried {tries(tmp_path, 3)} times: {caught.value}")
    report = execute(stage(tmp_path, {}), SerialRunner())
    assert report.summary == {"blocks": N, "total": sum(range(N))}


def test_an_output_that_workers_elsewhere_would_look_for_elsewhere_is_refused() -> None:
    runner = SerialRunner()
    runner.is_elsewhere = True
    with pytest.raises(InputError, match=r"out\.zarr: workers elsewhere .* give the whole path"):
        execute(stage(Path("out.zarr"), {}), runner)
    assert not Path("out.zarr").exists()
