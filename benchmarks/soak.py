"""Hours of runs on one Dask cluster with faults now and then: does the memory of driver, scheduler and workers grow?

    python benchmarks/soak.py [--minutes 120] [--out soak.json]

One scheduler, two workers and one driver live all the time. The driver segments the same image again and again through
tilekit.predict(scheduler=...) and compares each class map with the first, byte by byte. Meanwhile the second worker
is killed every few minutes (its nanny starts another), both are stopped for some seconds and continued, and one read
and one write in some hundreds fails, on workers and in the driver. The first worker is never killed, so that its memory
is one long series; those of the second are as long as it lives.

Memory is what a process has for itself (USS), every five seconds. After the warm-up it is averaged over the minutes,
and a line is fitted; the error of its slope is widened by what one minute tells of the next (their correlation).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
SIDE, BLOCK = 768, 256
EVERY_SECONDS = 5.0
FAULTS_OF_A_THOUSAND = 3
"""Of a thousand reads or renames so many fail."""
KILL_SECONDS, STOP_SECONDS = 240.0, 75.0
MIB = 1 << 20


# The processes


def fail_now_and_then() -> None:
    """In this process one read, or one file put in its place, in some hundreds fails."""
    chance, pread, replace = random.Random(os.getpid()), os.pread, os.replace

    def strike(what: Any) -> None:
        if chance.randrange(1000) < FAULTS_OF_A_THOUSAND:
            raise OSError(5, "Input/output error, on purpose", str(what))

    def faulty_pread(file: int, n: int, offset: int) -> bytes:
        strike(file)
        return pread(file, n, offset)

    def faulty_replace(source: Any, target: Any, **named: Any) -> None:
        strike(target)
        replace(source, target, **named)

    os.pread, os.replace = faulty_pread, faulty_replace


def dask_setup(worker: Any) -> None:
    """What `dask worker --preload` calls."""
    fail_now_and_then()


def drive(address: str, folder: Path, seconds: float, pause: float) -> None:
    """The driver: one run after another, each compared with the first."""
    from models import load
    from tests.faults.harness import contents
    from tilekit import predict
    from tilekit.errors import InputError, RunError

    predictor = load(folder / "model.safetensors", "cpu")
    expected, end = None, time.monotonic() + seconds
    counts = {"runs": 0, "blocks": 0, "continued": 0, "wrong": 0}
    while time.monotonic() < end:
        out = folder / "out.zarr"
        while True:
            try:
                result = predict(
                    folder / "image.tif", predictor, out, block=BLOCK, tile=128, scheduler=address, nodata=0
                )
                break
            except (RunError, InputError, OSError) as error:
                counts["continued"] += 1
                print(f"continued after: {error}", file=sys.stderr, flush=True)
        found = contents(out)
        if expected is None:
            expected = found
            fail_now_and_then()
        counts["wrong"] += found != expected
        counts["runs"] += 1
        counts["blocks"] += result["blocks"]
        (folder / "counts.part").write_text(json.dumps(counts))
        os.rename(folder / "counts.part", folder / "counts.json")
        shutil.rmtree(out)
        time.sleep(pause)


@contextlib.contextmanager
def processes(folder: Path, seconds: float, pause: float) -> Iterator[tuple[dict[str, psutil.Process], Any]]:
    """Scheduler, two nannies and the driver; the nannies' children are the workers."""
    from tests.cloud.servers import free_port, start_server

    address = f"tcp://127.0.0.1:{free_port()}"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"DASK_LOGGING__DISTRIBUTED": "error", "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "100"}
    # as a cluster is set up by deploy/README.md: Dask as it comes fills its logs for a day
    shipped = {"DASK_CONFIG": str(ROOT / "deploy/dask.yaml"), "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "False"}
    os.environ.update(quiet | shipped, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    with contextlib.ExitStack() as stack:

        def start(name: str, command: list[str]) -> psutil.Process:
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = start_server(command, log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return psutil.Process(process.pid)

        where = ["--host", "127.0.0.1", "--no-dashboard"]
        page = ["--dashboard-address", "127.0.0.1:0"]  # its metrics, without a dashboard too, are else on port 8787
        scheduler = [*dask, "scheduler", *where, *page, "--port", address.rpartition(":")[2]]
        found = {"scheduler": start("scheduler", scheduler)}
        time.sleep(3)
        worker = [*dask, "worker", address, *where, "--nthreads", "2", "--memory-limit", "0", "--preload", __file__]
        for n in "12":
            found[f"nanny {n}"] = start(f"worker-{n}", [*worker, "--name", n, "--local-directory", f"{folder}/{n}"])
        driver = [sys.executable, __file__, "--drive", address, "--folder", str(folder)]
        found["driver"] = start("driver", [*driver, "--seconds", str(seconds), "--pause", str(pause)])
        yield found, folder


def worker_of(nanny: psutil.Process) -> psutil.Process | None:
    """The worker that a nanny has at the moment."""
    with contextlib.suppress(psutil.Error):
        spawned = [p for p in nanny.children() if "spawn_main" in " ".join(p.cmdline())]
        return spawned[0] if spawned else None
    return None


@dataclass
class Watch:
    """Memory of each process over time; faults at their times."""

    found: dict[str, psutil.Process]
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Name and number of a process -> (seconds since the start, MiB)."""
    faults: dict[str, int] = field(default_factory=lambda: {"killed": 0, "stopped": 0})
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def sample(self, now: float) -> None:
        for name, process in self.found.items():
            taken = worker_of(process) if name.startswith("nanny") else process
            if taken is not None:
                key = f"{name.replace('nanny', 'worker')} ({taken.pid})"
                with contextlib.suppress(psutil.Error):
                    self.series.setdefault(key, []).append((now, taken.memory_full_info().uss / MIB))

    def strike(self, now: float, before: float) -> None:
        """Kill the second worker, or stop one for some seconds, where it is time."""
        if now // KILL_SECONDS > before // KILL_SECONDS and (victim := worker_of(self.found["nanny 2"])):
            victim.kill()
            self.faults["killed"] += 1
        elif now // STOP_SECONDS > before // STOP_SECONDS:
            victim = worker_of(self.found[self.chance.choice(["nanny 1", "nanny 2"])])
            if victim:
                victim.suspend()
                time.sleep(self.chance.uniform(1, 8))
                victim.resume()
                self.faults["stopped"] += 1


# The slopes


@dataclass(frozen=True)
class Slope:
    """Growth of one process's memory after its warm-up."""

    mean: float
    """MiB."""
    per_hour: float
    """MiB per hour."""
    error: float
    """Half-width of its 95% interval, MiB per hour."""
    correlation: float
    """Of one minute's residual with that of the next."""
    minutes: int

    @property
    def is_zero(self) -> bool:
        return abs(self.per_hour) <= self.error


def slope_of(series: list[tuple[float, float]], warm_up: float) -> Slope | None:
    """The line through the means of the minutes; None where there are fewer than five."""
    taken = np.array([(t, m) for t, m in series if t >= max(warm_up, series[0][0] + 60)])
    if not len(taken):
        return None
    minute = (taken[:, 0] // 60).astype(int)
    means = np.array([taken[minute == m].mean(0) for m in np.unique(minute) if (minute == m).sum() > 3])
    n = len(means)
    if n < 5:
        return None
    hours, mib = means[:, 0] / 3600, means[:, 1]
    line = stats.linregress(hours, mib)
    rest = mib - line.intercept - line.slope * hours
    spread = float((rest * rest).sum())
    rho = float(np.clip((rest[1:] * rest[:-1]).sum() / spread, 0, 0.9)) if spread else 0.0
    free = max((n - 2) * (1 - rho) / (1 + rho), 1)
    error = float(line.stderr * np.sqrt((1 + rho) / (1 - rho)) * stats.t.ppf(0.975, free))
    return Slope(float(mib.mean()), float(line.slope), error, rho, n)


def report(watch: Watch, counts: dict[str, int], seconds: float, warm_up: float) -> dict[str, Any]:
    """Print what was found; the same as JSON."""
    from common import machine

    print(f"\n{seconds / 60:.0f} minutes on two workers, warm-up {warm_up / 60:.1f} of them; {machine()}")
    print(
        f"{counts['runs']} runs of {counts['blocks']} blocks; workers killed {watch.faults['killed']}, stopped and "
        f"continued {watch.faults['stopped']}; runs continued after an error {counts['continued']}; "
        f"outputs with a wrong byte {counts['wrong']}"
    )
    print(f"{'process':<24}{'MiB':>8}{'MiB per hour':>24}{'minutes':>9}  zero within")
    slopes = {}
    for name, series in watch.series.items():
        slope = slope_of(series, warm_up)
        if slope is None:
            print(f"{name:<24}{series[-1][1]:>8.1f}{'lived too short':>24}")
            continue
        slopes[name] = {**vars(slope), "is_zero": slope.is_zero}
        grown = f"{slope.per_hour:+.2f} ± {slope.error:.2f}"
        print(f"{name:<24}{slope.mean:>8.1f}{grown:>24}{slope.minutes:>9}  {'yes' if slope.is_zero else 'NO'}")
    return {"machine": machine(), "seconds": seconds, "warm_up": warm_up, "counts": counts, "faults": watch.faults,
            "slopes": slopes, "series": watch.series}  # fmt: skip


def soak(minutes: float, pause: float, out: Path) -> dict[str, Any]:
    from common import WORK

    from tests.faults.harness import make_image, make_model

    folder = WORK / f"soak-{os.getpid()}"
    folder.mkdir(parents=True)
    make_image(folder / "image.tif", SIDE)
    make_model(folder / "model.safetensors", base=2)
    seconds, started = minutes * 60, time.monotonic()
    counts = {"runs": 0, "blocks": 0, "continued": 0, "wrong": 0}
    try:
        with processes(folder, seconds + 60, pause) as (found, _):
            watch, now = Watch(found), 0.0
            while now < seconds:
                time.sleep(EVERY_SECONDS)
                before, now = now, time.monotonic() - started
                if not found["driver"].is_running() or found["driver"].status() == psutil.STATUS_ZOMBIE:
                    raise SystemExit(f"the driver ended: {(folder / 'driver.log').read_text()[-2000:]}")
                watch.sample(now)
                watch.strike(now, before)
            if (folder / "counts.json").exists():
                counts = json.loads((folder / "counts.json").read_text())
            found["driver"].send_signal(signal.SIGKILL)
        warm_up = max(min(seconds / 2, 1800.0), 60.0)  # Dask's logs of fixed length fill, and heaps reach their size
        figures = report(watch, counts, seconds, warm_up)
        figures["errors"] = (folder / "driver.log").read_text().splitlines()[-20:]
        out.write_text(json.dumps(figures, indent=1))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if counts["wrong"]:
        raise SystemExit("WRONG BYTES")
    return figures


def main() -> None:
    from common import WORK

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--pause", type=float, default=0.5, help="Seconds between two runs.")
    parser.add_argument("--out", type=Path, default=WORK / "soak.json")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.drive:
        drive(asked.drive, asked.folder, asked.seconds, asked.pause)
        return
    soak(asked.minutes, asked.pause, asked.out)


if __name__ == "__main__":
    main()
