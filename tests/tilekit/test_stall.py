"""A process in which nothing moves ends itself; a cluster without workers is given up."""

from __future__ import annotations

import subprocess
import sys
import time
from threading import Event

import pytest

from tilekit.stall import STATUS, watch_cluster

WORK = """
import time
from tilekit.stall import moved, watched
with watched():
    for _ in range(20):
        time.sleep({pause})
        {sign}
print("done")
"""


@pytest.mark.parametrize(
    ("pause", "sign", "limit", "status"),
    [(0.05, "moved()", "0.6", 0), (0.1, "pass", "0.6", STATUS), (0.05, "pass", "0", 0)],
)
def test_a_process_in_which_nothing_moves_ends_itself(pause: float, sign: str, limit: str, status: int) -> None:
    env = {"TILEKIT_STALL_SECONDS": limit, "PYTHONPATH": ":".join(sys.path)}
    code = WORK.format(pause=pause, sign=sign)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert (done.stdout == "done\n") is (status == 0)
    assert ("nothing moved here for 0.6 s" in done.stderr) is (status == STATUS)


def test_a_cluster_without_workers_is_given_up_and_one_that_comes_back_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEKIT_STALL_SECONDS", "0.4")
    said, ended = list[str](), Event()
    started = time.monotonic()
    watch_cluster(lambda: time.monotonic() - started < 0.3, said.append, ended)
    assert 0.6 < time.monotonic() - started < 5
    assert said == ["no worker of the cluster runs, or its scheduler gives no answer, for 0.4 s"]
    ended.set()
    watch_cluster(lambda: False, said.append, ended)
    assert len(said) == 1


def test_a_clock_that_is_set_back_ends_a_run_under_dask_and_one_set_ahead_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TILEKIT_STALL_SECONDS", "0.2")
    true_time, started, said = time.time, time.monotonic(), list[str]()
    steps = [(0.3, 0.0), (0.6, 7200.0), (1e9, 3600.0)]  # an hour too far, then right
    monkeypatch.setattr(time, "time", lambda: true_time() + next(s for t, s in steps if time.monotonic() - started < t))
    watch_cluster(lambda: True, said.append, Event())
    assert time.monotonic() - started > 0.6
    assert said == ["the clock was set back by 3600 s, for which Dask's messages may wait"]
