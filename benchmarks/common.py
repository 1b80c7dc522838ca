"""What the benchmarks share: rows, cases in processes of their own, CPU seconds, memory, inputs made once."""

from __future__ import annotations

import importlib.metadata
import json
import operator
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# torch is imported where it is used: the memory of jobs that do without it is measured too

ROOT = Path(__file__).parents[1]
WORK = Path(os.environ.get("TILEKIT_BENCH", Path(tempfile.gettempdir()) / "tilekit-bench"))
CHUNK, TILE, SIDE = 512, 512, 4096
MIB = 1 << 20
Row = dict[str, Any]
_COMPARE: dict[str, Callable[[float, float], bool]] = {"≤": operator.le, "≥": operator.ge, "=": operator.eq}
_VERSIONS = ("torch", "numpy", "zarr", "tifffile", "numba", "dask", "distributed")


class CaseError(Exception):
    """A case that failed, with its reason in one line."""


# rows


def row(
    what: str,
    figure: float,
    unit: str,
    *,
    limit: float | None = None,
    ratio: float | None = None,
    goal: str | None = None,
    job: str | None = None,
    **more: Any,
) -> Row:
    """A line of a table. `limit`: what the figure is divided by, in its unit; `goal`: "≤ 1.05 x" of the ratio,
    "≥ 85" of the figure; `job`: also a line of the table of jobs, under this name; `more`: columns of its own."""
    ratio = figure / limit if ratio is None and limit else ratio
    met = None
    if goal is not None:
        sign, number, *times = goal.split()
        met = bool(_COMPARE[sign](ratio if times and ratio is not None else figure, float(number)))
    return {"what": what, "figure": figure, "unit": unit, "limit": limit, "ratio": ratio, "goal": goal, "met": met,
            **({"job": job} if job else {}), **({"more": more} if more else {})}  # fmt: skip


def note(text: str) -> Row:
    """A sentence among the rows: what was left out and why, what a figure means."""
    return {"note": text}


# processes


def case(
    function: Callable[..., Any] | str,
    *,
    env: dict[str, str] | None = None,
    timeout: float | None = None,
    **arguments: Any,
) -> Any:
    """Call a function (or module:function) in a process of its own; returns what it returns, by way of JSON.

    CaseError where it fails, dies or takes longer than `timeout` seconds; nothing of it goes on running then.
    """
    name = function if isinstance(function, str) else f"{function.__module__}:{function.__name__}"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.case", name, json.dumps(arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1", **(env or {})}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, process_group=0
    ) as child:
        try:
            out, _ = child.communicate(timeout=timeout)
        except BaseException as error:
            os.killpg(child.pid, signal.SIGKILL)  # its own children too
            if isinstance(error, subprocess.TimeoutExpired):
                raise CaseError(f"{name}: took longer than {timeout:.0f} s") from None
            raise
    lines = out.strip().splitlines()
    answer = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    if "result" not in answer:
        raise CaseError(f"{name}: {answer.get('error') or f'ended with status {child.returncode} and said nothing'}")
    return answer["result"]


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}


def scaled_rows(
    job: str,
    size: int,
    objects: float,
    m: dict[str, float],
    quarter: dict[str, float],
    alone: dict[str, float],
    goal: str,
) -> list[Row]:
    """Of a job on a square map: CPU beside that of its parts on a block alone, rate, and memory over a quarter's.

    `m` and `quarter` have cpu, peak and start; `alone` has CPU seconds of the parts on a block of SIDE pixels.
    """
    rate, limit = size**2 / 1e6 / m["cpu"], sum(alone.values()) * (size / SIDE) ** 2
    more = {"Mpx/s": rate, "peak MiB": m["peak"], "start-up s": m["start"]}
    grown = f"{size}²: peak memory, over that of {size // 2}²"
    return [
        row(f"{size}², {objects:,.0f} objects", m["cpu"], "s", limit=limit, job=job, **more),
        row(f"{size}²: rate per core", rate, "Mpx/s", goal=goal),
        row(grown, m["peak"], "MiB", limit=quarter["peak"], goal="≤ 1.1 x"),
        *(row(f"a block's {name}", s * 1e3, "ms", **{"Mpx/s": SIDE**2 / 1e6 / s}) for name, s in alone.items()),
    ]


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"   {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def family(command: list[str]) -> dict[str, float]:
    """Run a command; peak resident memory (MiB) and CPU seconds of its process (driver) and of its largest child, and
    the CPU seconds of all children, as seen every tenth of a second."""
    import psutil

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process, peaks, used = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment), {}, {}
    started = time.perf_counter()
    while process.poll() is None:
        for member in _members(psutil, process.pid):
            peaks[member.pid] = max(peaks.get(member.pid, 0.0), high_water(member.pid))
            try:
                times = member.cpu_times()
                used[member.pid] = times.user + times.system
            except psutil.Error:
                pass
        time.sleep(0.1)
    if process.returncode:
        raise CaseError(f"{' '.join(command)}: ended with status {process.returncode}")
    driver, driver_cpu = peaks.pop(process.pid), used.pop(process.pid)
    return {"driver": driver, "worker": max(peaks.values(), default=driver), "driver_cpu": driver_cpu,
            "worker_cpu": sum(used.values()), "wall": time.perf_counter() - started}  # fmt: skip


def _members(psutil: Any, pid: int) -> list[Any]:
    try:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def tilekit(*arguments: Any) -> list[str]:
    """The command line of this checkout."""
    return [sys.executable, "-m", "flows.main", *map(str, arguments)]


def high_water(pid: int | str = "self") -> float:
    """Peak resident memory of a process in MiB (what getrusage has counts the parent's at the fork)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def cpu_seconds() -> float:
    """User and system time of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def timed(work: Callable[[], Any]) -> float:
    """CPU seconds of this process and its ended children."""
    before = cpu_seconds()
    work()
    return cpu_seconds() - before


def parts_of(works: dict[str, Callable[[], Any]], rounds: int = 5) -> dict[str, float]:
    """CPU seconds of each work, medians after a first call."""
    found = {}
    for name, work in works.items():
        work()
        found[name] = statistics.median(timed(work) for _ in range(rounds))
    return found


def measured_job(small: Callable[[Path], Any], job: Callable[[Path], Any]) -> dict[str, Any]:
    """A job that writes a store, in this process, after a small one: seconds, start-up, peak MiB, MB written."""
    out = Path(tempfile.mkdtemp(dir=WORK, prefix="job-"))
    try:
        start = timed(lambda: small(out / "small.zarr"))
        before = time.perf_counter()
        found: dict[str, Any] = {}
        cpu = timed(lambda: found.update(result=job(out / "job.zarr")))
        wall = time.perf_counter() - before
        written = sum(p.stat().st_size for p in (out / "job.zarr").rglob("*") if p.is_file())
    finally:
        shutil.rmtree(out)
    result = found["result"] if isinstance(found["result"], dict) else {}
    facts = {"cpu": cpu, "wall": wall, "start": start, "peak": high_water(), "written": written / 1e6}
    return {**facts, **{k: result[k] for k in ("objects",) if k in result}}


# the machine


def machine() -> dict[str, Any]:
    """Processor, cores, memory, load and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in _VERSIONS}
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory, 1),
            "load": round(os.getloadavg()[0], 1), "versions": versions}  # fmt: skip


# inputs, made once


def specimen_tiff(size: int) -> Path:
    """A tiled BigTIFF (uint8, uncompressed) of a specimen, made once, strip by strip; at most SIDE pixels a side of it
    are different, the rest repeats them."""
    import tifffile

    path = WORK / f"specimen-{size}.tif"
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        with tifffile.TiffWriter(partial, bigtiff=True) as tiff:
            tiff.write(_tiles(size), shape=(size, size), dtype="u1", tile=(TILE, TILE), photometric="minisblack")
        partial.replace(path)
    return path


def _tiles(size: int) -> Iterator[NDArray[np.uint8]]:
    from tilekit.box import Box
    from tilekit.specimen import Specimen

    n = min(size, SIDE)
    whole = Specimen(n).read(Box((0, 0), (n, n)))
    padded = np.pad(whole, (0, -n % TILE))
    for y in range(0, size, TILE):
        for x in range(0, size, TILE):
            yield np.ascontiguousarray(padded[y % SIDE :, x % SIDE :][:TILE, :TILE])


def repeated_store(name: str, size: int, tile: NDArray[Any], step: int = 0) -> Path:
    """A Zarr array (shards, chunks of 512) of copies of a tile of SIDE pixels; nonzero values grow by `step` from
    copy to copy."""
    from tilekit.store import create_array, write_region
    from tilekit.tiling import Level

    path = WORK / f"{name}-{size}.zarr"
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial := path.with_suffix(".part"), ignore_errors=True)
        level = Level((size, size), CHUNK, SIDE)
        create_array(partial, level, (), "yx", tile.dtype, "0.5")
        starts = [(y, x) for y in range(0, size, SIDE) for x in range(0, size, SIDE)]
        for n, (y, x) in enumerate(starts):
            part = tile[: size - y, : size - x]
            part = np.where(part, part + part.dtype.type(n * step), 0).astype(tile.dtype) if step else part
            region = (slice(y, y + part.shape[0]), slice(x, x + part.shape[1]))
            write_region(WORK, partial.name, level, "0.5", region, part)
        partial.rename(path)
    return path


def checkpoint(base: int, depth: int, **options: Any) -> Path:
    """A network with random weights, made once."""
    path = WORK / f"unet-{base}-{depth}.safetensors"
    if not path.exists():
        import torch

        from models import UNet, save

        WORK.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        save(UNet(base=base, depth=depth, **options), path, class_names=["background", "cell"])
    return path
