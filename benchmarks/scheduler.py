"""CPU of the driver (which holds Dask's scheduler too) per block, for jobs of empty blocks: it must not grow.

python benchmarks/driver.py [--blocks 1000 10000 100000]
"""

from __future__ import annotations

import argparse
import resource
import shutil
import time
from typing import Any

import common

from tilekit.engine import Receipt, Stage, execute
from tilekit.ledger import mark_started
from tilekit.run import open_runner


def empty_block(index: int, config: Any) -> Receipt:
    """A block without pixels: what remains is scheduling and the ledger."""
    return Receipt([], {}, mark_started(config, index))


def drop(total: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    return {}


def measure(n_blocks: int) -> tuple[float, float]:
    """Milliseconds of CPU of this process, and of wall time, per block."""
    out = common.WORK / "driver.zarr"
    shutil.rmtree(out, ignore_errors=True)
    with open_runner(workers=2) as runner:
        warm = Stage("warm", out, empty_block, out / ".tilekit" / "warm", 100, {}, drop)
        execute(warm, runner)
        stage = Stage("empty", out, empty_block, out / ".tilekit" / "empty", n_blocks, {}, drop)
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        execute(stage, runner)
        after, ended = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu / n_blocks * 1e3, (ended - started) / n_blocks * 1e3


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1000, 10_000, 100_000])
    sizes = parser.parse_args().blocks
    figures = {n: measure(n) for n in sizes}
    common.record("driver", {str(n): {"cpu_ms": c, "wall_ms": w} for n, (c, w) in figures.items()})
    common.table(
        "driver per empty block, 2 workers",
        [(f"{n} blocks", f"{cpu:.2f} ms CPU, {wall:.2f} ms", "goal 4 ms, flat") for n, (cpu, wall) in figures.items()],
    )
