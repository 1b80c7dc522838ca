"""The cost of a block without pixels: driver, scheduler and ledger at 10^4 and 10^5 blocks, and with many workers.

Empty blocks with two worker processes of this machine, where the driver holds Dask's scheduler too; and sleeping blocks
on a scheduler of its own with a crowd of workers, all of them in one process, so that they cost memory but no cores.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import Row, case, note, row, say
from tilekit.engine import Receipt, Stage, execute
from tilekit.ledger import mark_started
from tilekit.run import THREADS_PER_WORKER, Runner, open_runner


def empty_block(index: int, config: Any) -> Receipt:
    """A block without pixels, which may sleep: what remains is scheduling and the ledger."""
    redone = mark_started(config["folder"], index)
    time.sleep(config["sleep"])
    return Receipt([], {}, redone)


def drop(total: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    return {}


def _stage(out: Path, name: str, n_blocks: int, sleep: float) -> Stage:
    config = {"folder": out / ".tilekit" / name, "sleep": sleep}
    return Stage(name, out, empty_block, config, n_blocks, {}, drop)


def _run(runner: Runner, n_blocks: int, sleep: float, warm: int) -> dict[str, float]:
    """CPU of this process, wall time and resident memory, after some blocks that start the cluster."""
    out = Path(tempfile.mkdtemp(dir=common.WORK, prefix="scheduler-"))
    execute(_stage(out, "warm", warm, 0), runner)
    peak, started = common.high_water(), time.perf_counter()
    cpu = time.process_time()
    execute(_stage(out, "blocks", n_blocks, sleep), runner)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - started
    shutil.rmtree(out)
    return {"cpu": cpu / n_blocks * 1e3, "wall": wall / n_blocks * 1e3, "grown": common.high_water() - peak}


def empty(n_blocks: int, workers: int) -> dict[str, float]:
    """Milliseconds a block, and MiB by which the driver's peak grew."""
    with open_runner(workers=workers) as runner:
        return _run(runner, n_blocks, 0, 200)


def crowd(address: str, n_workers: int) -> None:
    """Workers of a scheduler, all in this process, until it is killed."""
    import asyncio

    import dask
    from distributed import Worker

    async def live() -> None:
        how = {"nthreads": THREADS_PER_WORKER, "dashboard": False, "memory_limit": 0}
        workers = [Worker(address, **how) for _ in range(n_workers)]
        await asyncio.gather(*workers)
        await asyncio.gather(*(w.finished() for w in workers))

    quiet = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "10s",
             "distributed.admin.system-monitor.interval": "60s", "logging.distributed": "critical"}  # fmt: skip
    with dask.config.set(quiet):
        asyncio.run(live())


def sleeping(n_blocks: int, n_workers: int, sleep: float) -> dict[str, float]:
    """Milliseconds of CPU a block of the driver and of the scheduler, and the share of the threads that were busy."""
    import psutil
    from distributed import Client

    folder = Path(tempfile.mkdtemp(dir=common.WORK, prefix="crowd-"))
    file = folder / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
               "--no-dashboard", "--scheduler-file", str(file)]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen(command, **quiet)
    children = [scheduler]
    try:
        while not file.exists() or not file.read_text():
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        arguments = json.dumps({"address": address, "n_workers": n_workers})
        line = [sys.executable, "-m", "benchmarks.case", "benchmarks.scheduler:crowd", arguments]
        children.append(subprocess.Popen(line, cwd=common.ROOT, **quiet))
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(n_workers, timeout=300)
        seen = psutil.Process(scheduler.pid)
        with open_runner(scheduler=address) as runner:
            _run(runner, n_workers, 0, n_workers)
            before = sum(seen.cpu_times()[:2])
            found = _run(runner, n_blocks, sleep, 1)
            found["scheduler"] = (sum(seen.cpu_times()[:2]) - before) / n_blocks * 1e3
    finally:
        for child in reversed(children):
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        shutil.rmtree(folder)
    threads = n_workers * THREADS_PER_WORKER
    return {**found, "used": sleep * 1e3 / threads / found["wall"]}


def measure(quick: bool = False) -> list[Row]:
    """Empty blocks, sleeping blocks, and what 10^6 blocks and 1,000 workers would cost."""
    counts = [300] if quick else [1000, 10_000, 100_000]
    rows = []
    for n in counts:
        found = case(empty, n_blocks=n, workers=2)
        say(f"{n} blocks: {found}")
        more = {"wall ms/block": found["wall"], "driver's growth MiB": found["grown"]}
        rows.append(
            row(f"{n:,} empty blocks, 2 workers: driver and scheduler", found["cpu"], "ms CPU", goal="≤ 4", **more)
        )
    last = found
    for n_workers, n_blocks, sleep in [(4, 40, 0.1)] if quick else [(10, 2000, 0.1), (100, 3000, 1.0)]:
        found = case(sleeping, n_blocks=n_blocks, n_workers=n_workers, sleep=sleep)
        say(f"{n_workers} workers: {found}")
        title = f"{n_blocks:,} blocks that sleep {sleep:g} s, {n_workers} workers: driver"
        more = {"wall ms/block": found["wall"], "scheduler ms CPU": found["scheduler"],
                "sleeping threads kept busy": f"{found['used']:.0%}"}  # fmt: skip
        rows.append(row(title, found["cpu"], "ms CPU", goal="≤ 4", **more))
    both = found["cpu"] + found["scheduler"]
    hours, apart = last["cpu"] * 1e6 / 1e3 / 3600, max(found["cpu"], found["scheduler"])
    said = (
        f"Extrapolated, not measured: 10^6 blocks (1.7·10^13 pixels at 4096²) would take {hours:.1f} h of the "
        f"driver's CPU at the rate of the last empty ones. With {both:.1f} ms a block for driver and scheduler, "
        f"{apart:.1f} ms for the busier, 1,000 workers are kept busy where a block takes a worker more than "
        f"{apart:.1f} s. The crowd lives in one process, so that the share of threads that slept is a lower bound."
    )
    return [*rows, note(said)]
