"""40 real kills: processes ended or stopped by signals, disks that are full, clocks that jump, servers that die.

Each run is a command line in a process group of its own, as a user starts it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

from tests.cloud.servers import free_port, start_server, wait_for_port
from tests.faults import children
from tests.faults.campaign import HANG, REFUSED, RESUMED, RIGHT, UNCLEAR, WRONG
from tests.faults.harness import (
    OPTIONS,
    Run,
    contents,
    environment,
    make_image,
    make_model,
    start,
)
from tests.faults.jobs import JOBS, _weights, make_inputs

SIDE = 400
PATIENCE = 240.0
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
SHORT = "45"
"""Seconds without a sign of life, for what hangs on purpose; a worker that imports torch on a busy machine takes 20."""


@dataclass(frozen=True)
class Kill:
    """One kill."""

    title: str
    do: Callable[[Bench, Path, random.Random], tuple[str, str]]
    """(bench, output, chance) -> outcome, and what was said."""
    what: str = ""


@dataclass(frozen=True)
class _Named:
    title: str


@dataclass(frozen=True)
class Row:
    """What became of it."""

    case: _Named
    outcome: str
    said: str
    seconds: float

    @property
    def is_good(self) -> bool:
        return self.outcome in (RIGHT, RESUMED, REFUSED)

    def __str__(self) -> str:
        return f"{self.case.title}: {self.outcome} in {self.seconds:.0f} s; {self.said.strip()}"


@dataclass
class Bench:
    """Inputs, and what undisturbed runs make of them."""

    folder: Path
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inputs = self.folder / "inputs"
        make_inputs(self.inputs)
        make_image(self.inputs / "image.tif", SIDE)
        make_model(self.inputs / "model.safetensors", base=4)
        for name in ("segment", "label", "weigh", "train"):
            out = self.folder / f"undisturbed-{name}"
            done = children.call(self.arguments(name, out), out)
            assert done.status == 0, done.err
            self.expected[name] = self.contents(name, out)

    def arguments(self, name: str, out: Path, workers: str = "") -> list[str]:
        if name == "segment":
            asked = ["segment", f"{self.inputs}/image.tif", f"{self.inputs}/model.safetensors", str(out)]
            asked += [*OPTIONS, "--json"]
        else:
            asked = JOBS[name].arguments(self.inputs, out)
            if name == "label":
                asked[asked.index("--block") + 1] = "16"
            if name == "weigh":
                asked[asked.index("--block") + 1] = "40"
        return asked if name == "train" or not workers else [*asked, "--workers", workers]

    @staticmethod
    def contents(name: str, out: Path) -> dict[str, Any]:
        return _weights(out) if name == "train" else contents(out)

    def run(self, number: int, kill: Kill) -> Row:
        started, out = time.monotonic(), self.folder / f"kill-{number}" / "out"
        out.parent.mkdir()
        try:
            outcome, said = kill.do(self, out, random.Random(number))
        except (subprocess.TimeoutExpired, AssertionError) as error:
            hangs = isinstance(error, subprocess.TimeoutExpired) or "never came" in str(error)
            outcome, said = HANG if hangs else UNCLEAR, str(error)[-1500:]
        row = Row(_Named(kill.title), outcome, said, time.monotonic() - started)
        if row.is_good:
            shutil.rmtree(out.parent, ignore_errors=True)
        return row

    def judge(self, name: str, out: Path, run: Run) -> tuple[str, str]:
        """Wait for the end of a run, go on with it where it needs that, and compare."""
        status, err = ended(run)
        if status == 0:
            return (WRONG if self.differing(name, out) else RIGHT), ""
        lines = [line for line in err.strip().splitlines() if line.startswith("tilekit: ")]
        said = f"{status} {lines[-1] if lines else err.strip()[-300:]}"
        if status > 0 and not (status in (1, 2, 130) and lines and err.strip().splitlines()[-1] == lines[-1]):
            return UNCLEAR, f"{status} {err[-1500:]}"
        return self.go_on(name, out, said)

    def go_on(self, name: str, out: Path, said: str) -> tuple[str, str]:
        """The same command again."""
        resume = ["--resume"] if name == "train" and (out / "state.safetensors").exists() else []
        again = children.call([*self.arguments(name, out), *resume], out)
        if again.status:
            return UNCLEAR, f"{said}; and again {again.status} {again.err[-500:]}"
        return (WRONG if self.differing(name, out) else RESUMED), said

    def differing(self, name: str, out: Path) -> list[str]:
        found, expected = self.contents(name, out), self.expected[name]
        return sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))


def ended(run: Run) -> tuple[int, str]:
    """Status and standard error of a run, killed where it hangs; nothing of it may be left."""
    try:
        _, err = run.process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        run.kill_tree()
        raise
    run.wait_until_gone()
    return run.process.returncode, err


def begin(bench: Bench, name: str, out: Path, stage: str, share: float, workers: str = "2", **more: str) -> Run:
    """Start a job, and wait until it has come into a stage."""
    run = start(bench.arguments(name, out, workers), out, **more)
    reach(run, name, stage, share)
    return run


def reach(run: Run, name: str, stage: str, share: float) -> None:
    if name == "train":
        run.wait_for(lambda: (run.out / "state.safetensors").exists())
        time.sleep(share)
    else:
        run.wait_until_begun(stage, max(int(share * 30), 1))


@contextlib.contextmanager
def cluster(folder: Path, *options: str, n: int = 2, **more: str) -> Iterator[tuple[str, list[psutil.Process]]]:
    """A scheduler and worker processes with nannies: its address, and its processes, the scheduler first."""
    port = free_port()
    address, dask = f"tcp://127.0.0.1:{port}", [sys.executable, "-m", "dask"]
    where = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    env = {**environment(), "DASK_LOGGING__DISTRIBUTED": "error", **more}
    found = []
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / "dask.log").open("wb"))
        found.append(start_server([*dask, "scheduler", *where, "--port", str(port)], log, env))
        wait_for_port(port, found[0])
        for name in range(n):
            local = ["--name", str(name), "--local-directory", f"{folder}/{name}", "--nthreads", "2"]
            found.append(start_server([*dask, "worker", address, *where, *local, *options], log, env))
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(n, timeout=PATIENCE)
        try:
            yield address, [psutil.Process(p.pid) for p in found]
        finally:
            for process in found:
                for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
                    with contextlib.suppress(psutil.Error):
                        child.kill()
                process.kill()
                process.wait()


# What is killed


def worker_killed(name: str, stage: str) -> Callable[..., tuple[str, str]]:
    def do(bench: Bench, out: Path, chance: random.Random) -> tuple[str, str]:
        run = begin(bench, name, out, stage, chance.random())
        run.kill_worker(chance)
        return bench.judge(name, out, run)

    return do


def driver_killed(name: str, stage: str) -> Callable[..., tuple[str, str]]:
    def do(bench: Bench, out: Path, chance: random.Random) -> tuple[str, str]:
        run = begin(bench, name, out, stage, chance.random())
        run.kill_driver()
        run.wait_until_gone()
        return bench.go_on(name, out, "killed")

    return do


def tree_killed(name: str, stage: str) -> Callable[..., tuple[str, str]]:
    def do(bench: Bench, out: Path, chance: random.Random) -> tuple[str, str]:
        run = begin(bench, name, out, stage, chance.random(), chance.choice("02"))
        run.kill_tree()
        run.wait_until_gone()
        return bench.go_on(name, out, "killed")

    return do


def scheduler_killed(stage: str) -> Callable[..., tuple[str, str]]:
    def do(bench: Bench, out: Path, chance: random.Random) -> tuple[str, str]:
        with cluster(out.parent, "--memory-limit", "0") as (address, found):
            run = start([*bench.arguments("segment", out), "--scheduler", address], out)
            reach(run, "segment", stage, chance.random())
            found[0].kill()
            return bench.judge("segment", out, run)

    return do


def scheduler_hung(bench: Bench, out: Path, chance: random.Random) -> tuple[str, str]:
    with cluster(out.parent, "--memory-limit", "0") as (address, found):
        arguments = [*bench.arguments("segment", out), "--scheduler", address]
        run = start(arguments, out, TILEKIT_STALL_SECONDS=SHORT)
        reach(run, "segment", "predict", chance.random())
        found[0].suspend()
        try:
            return bench.judge("segment", out, run)
        finally:
            found[0].resume()


def worker_stopped(bench: Bench, out: Path, chance: random.Random) -> tuple[str, str]:
    """For some seconds, as a machine that is put to sleep."""
    run = begin(bench, "segment", out, "predict", chance.random())
    victim = chance.choice(run.workers())
    victim.suspend()
    time.sleep(4)
    victim.resume()
    return bench.judge("segment", out, run)


def worker_hung(seconds: str) -> Callable[..., tuple[str, str]]:
    """For good, on a cluster that takes one for lost after so many seconds; "": as tilekit starts it here."""

    def do(bench: Bench, out: Path, chance: random.Random) -> tuple[str, str]:
        if not seconds:
            run = begin(bench, "segment", out, "predict", chance.random())
            chance.choice(run.workers()).suspend()
            return bench.judge("segment", out, run)
        more = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": seconds}
        with cluster(out.parent, "--memory-limit", "0", **more) as (address, found):
            run = start([*bench.arguments("segment", out), "--scheduler", address], out)
            reach(run, "segment", "predict", chance.random())
            next(p for p in found[1].children() if "spawn_main" in " ".join(p.cmdline())).suspend()
            return bench.judge("segment", out, run)

    return do


HANG_ONCE = """
import os, time
from pathlib import Path
true_touch = getattr(Path, "true_touch", Path.touch)  # a preload may be loaded twice
Path.true_touch = true_touch
def touch(path, *more, **named):
    if path.parent.name == "started" and path.name == "{block}" and "predict" in str(path):
        if not os.path.exists("{flag}") or {always}:
            open("{flag}", "a").close()
            time.sleep(1e6)
    true_touch(path, *more, **named)
Path.touch = touch
def dask_setup(worker): pass
"""


def block_hung(*, always: bool) -> Callable[..., tuple[str, str]]:
    """A block whose read never comes back: once, or on whatever worker it is tried."""

    def do(bench: Bench, out: Path, chance: random.Random) -> tuple[str, str]:
        preload = out.parent / "hang.py"
        preload.write_text(HANG_ONCE.format(block=chance.randrange(5, 20), flag=out.parent / "hung", always=always))
        options = ("--memory-limit", "0", "--preload", str(preload))
        with cluster(out.parent, *options, TILEKIT_STALL_SECONDS="20" if always else SHORT) as (address, _):
            arguments = [*bench.arguments("segment", out), "--scheduler", address]
            return bench.judge("segment", out, start(arguments, out))

    return do


def memory_limit(limit: str) -> Callable[..., tuple[str, str]]:
    """Workers whose limit is less than they need."""

    def do(bench: Bench, out: Path, chance: random.Random) -> tuple[str, str]:
        few = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}  # ten blocks of four workers each take minutes
        with cluster(out.parent, "--memory-limit", limit, **few) as (address, _):
            arguments = [*bench.arguments("segment", out), "--scheduler", address]
            return bench.judge("segment", out, start(arguments, out, TILEKIT_STALL_SECONDS="20"))

    return do


def address_space(bench: Bench, out: Path, chance: random.Random) -> tuple[str, str]:
    """A run that gets no more memory from some block on."""
    run = begin(bench, "segment", out, "predict", chance.random(), "0")
    used = psutil.Process(run.process.pid).memory_info().vms
    resource.prlimit(run.process.pid, resource.RLIMIT_AS, (used + (1 << 20), used + (1 << 20)))
    return bench.judge("segment", out, run)


def disk_full(size: str) -> Callable[..., tuple[str, str]]:
    """A file system of its own, too small, then enlarged."""

    def do(bench: Bench, out: Path, chance: random.Random) -> tuple[str, str]:
        place = out.parent / "disk"
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return RIGHT, "skipped: no right to mount"
        try:
            full = place / "out"
            run = start(bench.arguments("segment", full, chance.choice("02")), full)
            status, err = ended(run)
            if status not in (1, 2) or len(err.strip().splitlines()) != 1:
                return UNCLEAR, f"{status} {err}"
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
            return bench.go_on("segment", full, f"{status} {err}")
        finally:
            subprocess.run(["umount", "-l", str(place)], check=False)

    return do


def clock_jumps(bench: Bench, out: Path, chance: random.Random) -> tuple[str, str]:
    """The clock of driver, scheduler and workers, ahead by ten hours and back."""
    if not FAKETIME.exists():
        return RIGHT, "skipped: no libfaketime"
    stamp = out.parent / "clock"
    stamp.write_text("+0")
    more = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(stamp), "FAKETIME_CACHE_DURATION": "1"}
    run = start(bench.arguments("segment", out, "2"), out, FAKETIME_DONT_FAKE_MONOTONIC="1", **more)
    reach(run, "segment", "predict", chance.random() / 2)
    for jump in ("+10h", "-10h", "+0"):
        stamp.write_text(jump)
        time.sleep(1.5)
    return bench.judge("segment", out, run)


def server_killed(how: str) -> Callable[..., tuple[str, str]]:
    """Prefect's server in the middle of a flow run; "restarted": it comes back."""

    def do(bench: Bench, out: Path, chance: random.Random) -> tuple[str, str]:
        port = free_port()
        home = out.parent / "prefect"
        home.mkdir()
        mine = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
        mine["PREFECT_CLIENT_MAX_RETRIES"] = "3"  # of each request: 14 seconds, where 5 take a minute
        env = {**environment(), **mine}
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]

        def serve(log: Any) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
            wait_for_port(port, process)
            return process

        with (out.parent / "server.log").open("wb") as log:
            server = serve(log)
            try:
                more = {**mine, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_LOGGING_LEVEL": "CRITICAL"}
                run = start(bench.arguments("segment", out, "2"), out, **more)
                reach(run, "segment", "ingest", 0.1)
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
                if how == "restarted":
                    time.sleep(3)
                    server = serve(log)
                return bench.judge("segment", out, run)
            finally:
                if server.poll() is None:
                    os.killpg(server.pid, signal.SIGKILL)
                server.wait()

    return do


def second_run(bench: Bench, out: Path, chance: random.Random) -> tuple[str, str]:
    """Two at once: one of them is refused, whichever."""
    runs = [start(bench.arguments("segment", out, "0"), out) for _ in range(2)]
    results = sorted(ended(run) for run in runs)
    (first, _), (status, err) = results
    if first != 0 or status not in (0, 2) or (status == 2 and "another run is writing it" not in err):
        return UNCLEAR, json.dumps(results)
    return (WRONG if bench.differing("segment", out) else REFUSED), err


def plan() -> list[Kill]:
    """All forty."""
    kills = [
        *[("a worker is killed", worker_killed(n, s)) for n, s in
          (("segment", "ingest"), ("segment", "predict"), ("segment", "predict"), ("label", "label-objects-find"),
           ("weigh", "weigh"))],
        *[("the driver is killed", driver_killed(n, s)) for n, s in
          (("segment", "ingest"), ("segment", "predict"), ("segment", "predict"), ("label", "label"))],
        *[("driver and workers are killed at once", tree_killed(n, s)) for n, s in
          (("segment", "ingest"), ("segment", "predict"), ("segment", "predict"), ("label", "label-objects-find"),
           ("weigh", "weigh"), ("train", ""), ("train", ""))],
        *[("the scheduler is killed", scheduler_killed(s)) for s in ("ingest", "predict", "predict")],
        ("the scheduler hangs", scheduler_hung),
        *[("a worker is stopped for seconds", worker_stopped)] * 2,
        *[("a worker is stopped for good", worker_hung(s)) for s in ("", "5s", "5s")],
        *[("a block never ends", block_hung(always=a)) for a in (False, False, True)],
        *[("workers reach their memory limit", memory_limit(m)) for m in ("250MB", "520MB")],
        ("the driver gets no more memory", address_space),
        *[("a full disk", disk_full(size)) for size in ("200k", "300k")],
        *[("the clock jumps by ten hours", clock_jumps)] * 2,
        *[("Prefect's server is killed", server_killed(h)) for h in ("for good", "for good", "restarted")],
        *[("two runs on one output", second_run)] * 2,
    ]  # fmt: skip
    return [Kill(title, do) for title, do in kills]
