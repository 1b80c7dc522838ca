"""Killed runs: a lost worker is replaced, a lost run continues, and both give the bytes of an undisturbed run."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.harness import (
    N_BLOCKS,
    Case,
    assert_same,
    begun,
    call,
    environment,
    recorded,
    start,
    status,
    unrecorded,
)

STAGES = ("ingest", "ingest-2", "predict", "predict-2")


def test_a_serial_run_is_seen_running_refuses_a_second_and_continues_after_sigkill(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    run = start(case.arguments(out, "--workers", "0"), out)
    run.wait_until_begun("predict", 10)
    run.process.send_signal(signal.SIGSTOP)  # so that it is surely not done before the others have looked
    seen = status(out)
    second = call(*case.arguments(out, "--workers", "0"))
    run.process.send_signal(signal.SIGCONT)
    run.kill_tree()
    assert seen["status"] == "running"
    assert [s["stage"] for s in seen["stages"]] == ["ingest", "ingest-2", "predict"]
    assert seen["stages"][0] == {"stage": "ingest", "done": N_BLOCKS, "blocks": N_BLOCKS}
    assert second.returncode == 2
    assert second.stderr == f"tilekit: {out}: another run is writing it; wait for it, or choose another output\n"
    left = unrecorded(out, "predict")
    assert status(out)["status"] == "stopped"
    result = start(case.arguments(out, "--workers", "0"), out).finish()
    print(f"redone {result['redone']} of {N_BLOCKS} blocks")
    assert result["redone"] <= len(left)
    assert status(out)["status"] == "complete"
    assert_same(out, case.undisturbed)


@pytest.mark.parametrize(
    ("stage", "seed"),
    [
        ("predict", 0),
        *[pytest.param(s, n, marks=pytest.mark.slow) for s in ("ingest", "predict") for n in range(1, 5)],
    ],
)
def test_a_killed_process_tree_leaves_no_orphans_and_continues_with_the_same_bytes(
    case: Case, tmp_path: Path, stage: str, seed: int
) -> None:
    choice, out = random.Random(f"{stage} {seed}"), tmp_path / "out.zarr"
    run = start(case.arguments(out, "--workers", "2"), out)
    run.wait_until_begun(stage, choice.randrange(1, N_BLOCKS * 3 // 4))
    run.kill_tree()
    seconds = run.wait_until_gone()
    n_begun, left = begun(out, stage), sum(len(unrecorded(out, s)) for s in STAGES)
    assert left <= n_begun
    result = start(case.arguments(out, "--workers", "2" if seed % 2 else "0"), out).finish()
    print(f"killed in {stage} at {n_begun} of {N_BLOCKS}, gone in {seconds:.2f} s, redone {result['redone']} <= {left}")
    assert result["redone"] <= left
    assert result["blocks"] == N_BLOCKS
    assert_same(out, case.undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_tree_killed_again_and_again_still_ends_with_the_same_bytes(case: Case, tmp_path: Path, seed: int) -> None:
    choice, out = random.Random(seed), tmp_path / "out.zarr"
    redone = []
    for stage, block in (("ingest", 20), ("ingest", 60), ("predict", 10), ("predict", 50)):
        run = start(case.arguments(out, "--workers", "0" if len(redone) % 2 else "2"), out)
        run.wait_until_begun(stage, block + choice.randrange(20))
        run.kill_tree()
        run.wait_until_gone()
        redone.append(sum(len(unrecorded(out, s)) for s in STAGES))
    result = start(case.arguments(out, "--workers", "0"), out).finish()
    print(f"begun and not recorded after each kill: {redone}; redone by the last: {result['redone']}")
    assert result["redone"] <= redone[-1]
    assert_same(out, case.undisturbed)


@pytest.mark.parametrize(
    ("stage", "seed", "kills"),
    [
        ("predict", 0, 1),
        *[pytest.param(s, n, 2, marks=pytest.mark.slow) for s in ("ingest", "predict") for n in range(1, 4)],
    ],
)
def test_a_killed_worker_is_replaced_and_the_run_finishes_by_itself(
    case: Case, tmp_path: Path, stage: str, seed: int, kills: int
) -> None:
    choice, out = random.Random(f"{stage} {seed}"), tmp_path / "out.zarr"
    run = start(case.arguments(out, "--workers", "2"), out)
    for n in range(kills):
        run.wait_until_begun(stage, choice.randrange(1, 30) + n * 20)
        run.kill_worker(choice)
    result = run.finish()
    run.wait_until_gone()
    print(f"{kills} workers killed in {stage}, redone {result['redone']} of {N_BLOCKS}")
    assert result["redone"] <= 3 * 2 * kills  # what a worker holds at once: computed, read ahead, waiting
    assert status(out)["status"] == "complete"
    assert_same(out, case.undisturbed)


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_driver_and_a_run_may_start_at_once(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    run = start(case.arguments(out, "--workers", "2"), out)
    run.wait_until_begun("predict", 25)
    run.kill_driver()
    following = start(case.arguments(out, "--workers", "0"), out)
    print(f"workers gone in {run.wait_until_gone():.2f} s")
    following.finish()
    assert_same(out, case.undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_leaves_no_orphans_and_continues(
    case: Case, tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "out.zarr"
    run = start(case.arguments(out, "--workers", "2"), out)
    run.wait_until_begun("predict", 25)
    run.processes()
    run.process.send_signal(how)
    _, err = run.process.communicate(timeout=60)
    run.wait_until_gone()
    assert run.process.returncode == (130 if how == signal.SIGINT else -signal.SIGTERM)
    if how == signal.SIGINT:
        assert err.strip().splitlines() == ["tilekit: stopped; the same command continues where it was"]
    result = start(case.arguments(out, "--workers", "0"), out).finish()
    print(f"{how.name}: redone {result['redone']}")
    assert_same(out, case.undisturbed)


@pytest.mark.slow
def test_a_run_whose_scheduler_dies_ends_with_1_and_one_line_and_continues_without_it(
    case: Case, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    out, quiet = tmp_path / "out.zarr", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m"]
    port = address.rpartition(":")[2]
    scheduler = subprocess.Popen(
        [*dask, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"],
        env=environment(), **quiet,
    )  # fmt: skip
    worker = subprocess.Popen(
        [*dask, "distributed.cli.dask_worker", address, "--nthreads", "2", "--no-dashboard", "--no-nanny"],
        env=environment(), **quiet,
    )  # fmt: skip
    try:
        time.sleep(3)
        run = start(case.arguments(out, "--scheduler", address), out)
        run.wait_until_begun("predict", 25)
        scheduler.kill()
        started = time.monotonic()
        _, err = run.process.communicate(timeout=60)
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    print(f"ended {time.monotonic() - started:.1f} s after its scheduler: {err.strip()}")
    assert run.process.returncode == 1
    assert len(err.strip().splitlines()) == 1
    assert str(out) in err
    assert recorded(out, "predict") < N_BLOCKS
    result = json.loads(call(*case.arguments(out, "--workers", "0")).stdout)
    assert result["blocks"] == N_BLOCKS
    assert_same(out, case.undisturbed)
