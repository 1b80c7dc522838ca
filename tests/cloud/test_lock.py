"""The lock of an output on an object store: one run at a time, and none after its process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.faults.harness import environment
from tilekit import lock as locks
from tilekit.errors import InputError, RunError
from tilekit.lock import check_held, is_locked, lock
from tilekit.place import RemotePath

HOLD = """
import sys, time
from tilekit.lock import lock
from tilekit.place import as_url
with lock(as_url(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life every tenth of a second, and dead after two looks a second apart."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(locks, "STALE", 2)


def held_elsewhere(out: RemotePath, beat: int = 0) -> None:
    """The lock of a run on another machine, with this sign of life."""
    held = {"machine": "another", "pid": 1, "begun": 0.0, "token": "another run", "beat": beat}
    (out / ".tilekit" / "lock").write_bytes(json.dumps(held).encode())


def test_a_second_run_is_refused_and_the_lock_is_gone_with_the_first(bucket: RemotePath) -> None:
    out = bucket / "out.zarr"
    assert not is_locked(out)
    with lock(out):
        assert is_locked(out)
        with (
            pytest.raises(InputError, match="another run is writing it; wait for it, or choose another output"),
            lock(out),
        ):
            pass
        time.sleep(0.5)  # some signs of life
        assert json.loads((out / ".tilekit/lock").read_bytes())["beat"] > 1
        check_held(out)
    assert not is_locked(out)
    with lock(out):
        pass


def test_the_lock_of_a_killed_process_of_this_machine_is_taken_at_once(bucket: RemotePath) -> None:
    out = bucket / "out.zarr"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        with pytest.raises(InputError, match="another run is writing it"), lock(out):
            pass
    finally:
        process.kill()
        process.communicate()
    assert not is_locked(out)
    started = time.monotonic()
    with lock(out):
        assert time.monotonic() - started < 1


def test_a_run_elsewhere_is_alive_while_its_lock_changes_and_dead_when_it_does_not(bucket: RemotePath) -> None:
    out = bucket / "out.zarr"
    held_elsewhere(out)
    assert is_locked(out)
    beats = threading.Timer(0.5, held_elsewhere, (out, 1))
    beats.start()
    with pytest.raises(InputError, match="another run is writing it"), lock(out):
        pass
    beats.join()
    started = time.monotonic()
    with lock(out):
        assert 2 <= time.monotonic() - started < 10
        assert json.loads((out / ".tilekit/lock").read_bytes())["token"] != "another run"


def test_a_run_that_lost_its_lock_stops_and_leaves_it_to_the_other(bucket: RemotePath) -> None:
    out = bucket / "out.zarr"
    with lock(out):
        held_elsewhere(out)
        time.sleep(1)
        with pytest.raises(RunError, match="another run took it over, as this one gave no sign of life for 2 s"):
            check_held(out)
    assert json.loads((out / ".tilekit/lock").read_bytes())["token"] == "another run"


def test_a_local_lock_is_as_it_was(tmp_path: Path) -> None:
    with lock(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(InputError, match="another run is writing it"), lock(tmp_path):
            pass
    assert not is_locked(tmp_path)
    assert (tmp_path / ".tilekit/lock").read_bytes() == b""
