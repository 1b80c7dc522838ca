"""Labels of a class map with over 10^6 objects, Zarr to Zarr, against dask_image: CPU seconds and peak memory.

    python benchmarks/label.py [--size 32768] [--rounds 3] [--dask 4096 --limit 600]

The class map is a specimen's truth, 4096 x 4096 pixels of touching cells, repeated; its objects join across the copies.
Rates are over all CPU seconds of one process, start-up (imports and compiled loops) left out and named. Beside it what
its parts take alone, on one block: reading the class map, finding runs, painting, halving, zstd.
`--dask 0` leaves dask_image out, which must be installed otherwise; it is ended after `--limit` seconds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tilekit import InputError, label_objects, open_image
from tilekit.components import find_runs, paint
from tilekit.pyramid import halve_labels
from tilekit.specimen import Specimen
from tilekit.store import create_array, write_region
from tilekit.tiling import Level, plan_pyramid

SIDE = 4096
CHUNK = 512


def make(work: Path, size: int) -> Path:
    """The class map (uint8) as a Zarr array with shards, made once."""
    path = work / f"classes-{size}.zarr"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial := path.with_suffix(".part"), ignore_errors=True)
        tile = Specimen(SIDE).truth([(0, SIDE), (0, SIDE)])
        level = Level((size, size), CHUNK, SIDE)
        create_array(partial, level, (), "yx", np.uint8, "0.5")
        for y in range(0, size, SIDE):
            for x in range(0, size, SIDE):
                stop = (min(y + SIDE, size), min(x + SIDE, size))
                part = tile[: stop[0] - y, : stop[1] - x]
                write_region(work, partial.name, level, "0.5", (slice(y, stop[0]), slice(x, stop[1])), part)
        partial.rename(path)
    return path


def timed(work: Callable[[], Any]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def label(classes: Path) -> dict[str, float]:
    """CPU seconds and peak memory of labeling in this process, after a small one."""
    out, small = classes.with_suffix(".out.zarr"), classes.with_suffix(".small.zarr")
    truth = Specimen(1024).truth([(0, 1024), (0, 1024)])
    startup = timed(lambda: label_objects(truth, small, overwrite=True))
    shutil.rmtree(out, ignore_errors=True)
    before = time.perf_counter()
    found: dict[str, Any] = {}
    used = timed(lambda: found.update(label_objects(classes, out)))
    wall = time.perf_counter() - before
    written = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    for path in (out, small):
        shutil.rmtree(path)
    facts = {"cpu": used, "wall": wall, "start": startup, "peak": high_water(), "written": written / 1e6}
    return {**facts, "objects": found["objects"]}


def parts(classes: Path) -> dict[str, float]:
    """CPU milliseconds of the parts of one block, each alone."""
    source = open_image(classes, as_labels=True)
    box = [(0, SIDE), (0, SIDE)]
    pixels = source.read(box)
    runs = find_runs(pixels, 8, 255)
    ids = np.arange(len(runs.first) + 1, dtype=np.uint32)
    labels = np.zeros(pixels.shape, np.uint32)
    paint(runs, ids, labels)
    levels, _ = plan_pyramid((SIDE, SIDE), SIDE, sharded=True)
    halved = [labels]
    while len(halved) < len(levels):
        halved.append(halve_labels(halved[-1]))
    out = classes.parent

    def encode() -> None:
        for level, part in zip(levels, halved, strict=True):
            region = [slice(0, n) for n in part.shape]
            write_region(out, "parts.zarr", level, "0.5", region, part)

    works: dict[str, Callable[[], Any]] = {
        "reading the class map": lambda: source.read(box),
        "finding runs": lambda: find_runs(pixels, 8, 255),
        "painting ids": lambda: paint(runs, ids, np.zeros(pixels.shape, np.uint32)),
        "halving": lambda: [halve_labels(part) for part in halved[:-1]],
        "zstd 1 of all levels, written": encode,
    }
    found = {}
    for name, work in works.items():
        work()
        found[name] = statistics.median(timed(work) for _ in range(5)) * 1e3
    shutil.rmtree(out / "parts.zarr")
    return found


def dask_image(classes: Path) -> dict[str, float]:
    """CPU seconds of dask_image.ndmeasure.label, Zarr to Zarr, with one thread; start-up left out."""
    import dask
    import dask.array as da
    from dask_image.ndmeasure import label as ndlabel

    out = classes.with_suffix(".dask.zarr")
    structure = np.ones((3, 3))

    def run(pixels: Any) -> int:
        shutil.rmtree(out, ignore_errors=True)
        labels, n = ndlabel(pixels, structure=structure)
        with dask.config.set(scheduler="synchronous"):
            labels.astype(np.uint32).to_zarr(str(out))
            return int(n.compute())

    truth = Specimen(256).truth([(0, 256), (0, 256)])
    run(da.from_array(truth, chunks=128))
    found: dict[str, Any] = {}
    before = time.perf_counter()
    used = timed(lambda: found.update(objects=run(da.from_zarr(str(classes)).rechunk(min(SIDE, 2048)))))
    wall = time.perf_counter() - before
    shutil.rmtree(out)
    return {"cpu": used, "wall": wall, "peak": high_water(), "objects": found["objects"]}


def high_water() -> float:
    """Peak resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


PARTS: dict[str, Callable[[Path], dict[str, float]]] = {"label": label, "parts": parts, "dask": dask_image}


def child(part: str, classes: Path, limit: float | None = None) -> dict[str, Any] | None:
    """Run one part in a process of its own; None where it died or took longer than the limit."""
    command = [sys.executable, __file__, "--part", part, "--classes", str(classes)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        if part == "dask":
            print(done.stderr[-300:], file=sys.stderr)
            return None
        raise SystemExit(done.stderr[-2000:])
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dask", type=int, default=4096)
    parser.add_argument("--limit", type=float, default=600)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--classes", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part](given.classes)))
        return
    if given.size % 2:
        raise InputError(f"--size {given.size}: is halved for the memory's comparison; give an even one")

    sys.path.insert(0, str(Path(__file__).parent))
    from common import WORK, record, table  # imports torch, which the memory of the child must not hold

    rows: list[tuple[str, str, str]] = []
    rates: dict[int, float] = {}
    peaks: dict[int, float] = {}
    figures: dict[str, Any] = {}
    for size, rounds in ((given.size // 2, 1), (given.size, given.rounds)):
        classes = make(WORK, size)
        found = [child("label", classes) or {} for _ in range(rounds)]
        middle = {name: statistics.median(f[name] for f in found) for name in found[0]}
        rates[size] = size**2 / 1e6 / middle["cpu"]
        peaks[size] = middle["peak"]
        rows += [
            (f"{size}²: objects", f"{middle['objects']:,.0f}", "goal 1,000,000" if size == given.size else ""),
            (
                f"{size}²: CPU",
                f"{middle['cpu']:.2f} s",
                f"wall {middle['wall']:.2f}, start-up {middle['start']:.2f} s",
            ),
            (f"{size}²: rate per core", f"{rates[size]:.1f} Mpx/s", "goal 75" if size == given.size else ""),
            (f"{size}²: peak memory", f"{middle['peak']:.0f} MiB", "goal 1430 (1.5 GB)"),
        ]
        figures[str(size)] = {**middle, "rates": [size**2 / 1e6 / f["cpu"] for f in found]}
    rows.append(("peak memory, four times the pixels", f"{peaks[given.size] / peaks[given.size // 2]:.2f}", "goal 1"))
    alone = child("parts", make(WORK, given.size)) or {}
    rows += [(f"a block's {name}", f"{ms:.1f} ms", f"{SIDE**2 / 1e3 / ms:.0f} Mpx/s") for name, ms in alone.items()]
    figures["parts"] = alone
    if given.dask:
        other = child("dask", make(WORK, given.dask), given.limit)
        if other is None:
            rows.append((f"dask_image, {given.dask}²", "did not end", f"limit {given.limit:.0f} s"))
        else:
            rate = given.dask**2 / 1e6 / other["cpu"]
            rows += [
                (f"dask_image, {given.dask}²: rate", f"{rate:.2f} Mpx/s", f"peak {other['peak']:.0f} MiB"),
                ("tilekit over dask_image", f"{rates[given.size] / rate:.1f}", "goal 15"),
            ]
        figures["dask_image"] = other
    table(f"Labels of {given.size} x {given.size} pixels, Zarr to Zarr, one process", rows)
    record("label", figures)


if __name__ == "__main__":
    main()
