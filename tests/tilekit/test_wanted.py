"""A task that nobody waits for any more ends between two of its steps, on a cluster that goes on."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Thread

from tilekit.run import check_wanted, open_runner

SECONDS = 60.0


def long_task(index: int, folder: Path) -> int:
    """As a block with many tiles."""
    (folder / str(index)).touch()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        check_wanted()
        time.sleep(0.01)
    return index


def test_the_tasks_of_a_run_that_is_gone_end_on_a_cluster_elsewhere(tmp_path: Path) -> None:
    from distributed import LocalCluster

    here = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**here, silence_logs=50) as cluster:
        (worker,) = cluster.workers.values()
        with open_runner(scheduler=cluster.scheduler_address) as runner:
            said: list[str] = []

            def read() -> None:
                said.extend(str(outcome.error) for outcome in runner.run(long_task, tmp_path, range(3)))

            reader = Thread(target=read, daemon=True)
            reader.start()
            while len(list(tmp_path.iterdir())) < 2:
                time.sleep(0.01)
            assert worker.state.executing_count == 2
        started = time.monotonic()
        while worker.state.executing_count:
            assert time.monotonic() - started < 5, "the tasks are still at work"
            time.sleep(0.01)
        assert not cluster.scheduler.tasks
        reader.join(10)
        assert not reader.is_alive()
        assert said == ["the run was stopped"]


def test_it_costs_nothing_where_there_is_no_cluster() -> None:
    check_wanted()
