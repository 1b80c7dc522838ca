"""Peak resident memory of driver and workers, for an image and one of four times its pixels: equal, and as promised.

python benchmarks/memory.py [--size 30000] [--workers 2]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import common
import psutil

from models import load
from tilekit.jobs.segment import Options, prepare

CLI = Path(sys.executable).parent / "tilekit"
MIB = 1 << 20


def peaks(command: list[str]) -> tuple[int, int]:
    """Highest resident memory of the command's process, and of the largest of its children, in bytes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    seen: dict[int, int] = {}
    while process.poll() is None:
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for member in family:
            seen[member.pid] = max(seen.get(member.pid, 0), _high_water(member.pid))
        time.sleep(0.1)
    if process.wait():
        raise SystemExit(f"{' '.join(command)}: failed")
    driver = seen.pop(process.pid)
    return driver, max(seen.values(), default=0)


def _high_water(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def measure(size: int, workers: int) -> dict[str, int]:
    """Peaks of ingest and of segment (which finds the image ingested), and the promise."""
    image, model, out = common.specimen_tiff(size), common.checkpoint(4, 2), common.WORK / f"memory-{size}.zarr"
    shutil.rmtree(out, ignore_errors=True)
    ingest = peaks([str(CLI), "ingest", str(image), str(out), "--workers", str(workers)])
    predict = peaks([str(CLI), "segment", str(out), str(model), str(out), "--workers", str(workers)])
    plan = prepare(str(out), load(str(model)), out, Options(workers=workers), overwrite=True).plan
    shutil.rmtree(out)
    return {
        "ingest_driver": ingest[0],
        "ingest_worker": ingest[1],
        "predict_driver": predict[0],
        "predict_worker": predict[1],
        "promise": plan.worker_bytes,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=30_000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    small, large = measure(given.size // 2, given.workers), measure(given.size, given.workers)
    common.record("memory", {"size": given.size, "quarter": small, "whole": large})
    rows = [
        (
            name,
            f"{small[name] / MIB:.0f} -> {large[name] / MIB:.0f} MiB = {large[name] / small[name]:.2f}",
            "goal 0.9 to 1.1",
        )
        for name in small
        if name != "promise"
    ]
    rows.append(("promise per worker", f"{large['promise'] / MIB:.0f} MiB", "above every worker's peak"))
    common.table(
        f"peak resident memory, {given.size // 2} and {given.size} pixels a side, {given.workers} workers", rows
    )
