"""Weight maps: one map of 2048 x 2048 pixels, and 10^5 objects from Zarr to Zarr: CPU seconds and peak memory.

    python benchmarks/weigh.py [--size 16384] [--rounds 3]

Objects are discs of many sizes that touch, on a jittered grid; those of the large map are a map of 4096 x 4096 pixels
with 6,250 of them, repeated with ids of their own. Rates are over all CPU seconds of one process, start-up (imports
and compiled loops) left out and named; the small map is weighed after a smaller one, by `ridge` and `border_weights`.
Beside the large map what its parts take alone, on one block.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit import InputError, open_image, weight_map
from tilekit.box import Box
from tilekit.pyramid import halve_mean
from tilekit.store import create_array, write_region
from tilekit.tiling import Level, plan_pyramid
from tilekit.weights import border_weights, reach, ridge, weigh

SIDE = 4096
CHUNK = 512
PER_TILE = 6250
"""Objects of a tile: 10^5 in 16 of them."""
SMALL = 2048


def discs(side: int, n: int, seed: int = 0) -> NDArray[np.uint32]:
    """Ids (y, x) of n discs, the earlier before the later."""
    rng = np.random.default_rng(seed)
    per_axis = math.ceil(math.sqrt(n))
    step = side / per_axis
    ids = np.zeros((side, side), np.uint32)
    for i in range(n):
        center = (np.array(divmod(i, per_axis)) + 0.5 + rng.uniform(-0.3, 0.3, 2)) * step
        radius = rng.uniform(0.3, 0.6) * step
        start = np.maximum(center - radius, 0).astype(int)
        stop = np.minimum(center + radius + 2, side).astype(int)
        y, x = np.ogrid[start[0] : stop[0], start[1] : stop[1]]
        part = ids[start[0] : stop[0], start[1] : stop[1]]
        part[((y - center[0]) ** 2 + (x - center[1]) ** 2 < radius**2) & (part == 0)] = i + 1
    return ids


def make(work: Path, size: int) -> Path:
    """The ids (uint32) as a Zarr array with shards, made once."""
    path = work / f"ids-{size}.zarr"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial := path.with_suffix(".part"), ignore_errors=True)
        tile = discs(SIDE, PER_TILE)
        level = Level((size, size), CHUNK, SIDE)
        create_array(partial, level, (), "yx", np.uint32, "0.5")
        for i, y in enumerate(range(0, size, SIDE)):
            for j, x in enumerate(range(0, size, SIDE)):
                stop = (min(y + SIDE, size), min(x + SIDE, size))
                part = tile[: stop[0] - y, : stop[1] - x]
                part = np.where(part, part + np.uint32((i * size // SIDE + j) * PER_TILE), 0).astype(np.uint32)
                write_region(work, partial.name, level, "0.5", (slice(y, stop[0]), slice(x, stop[1])), part)
        partial.rename(path)
    return path


def timed(work: Callable[[], Any]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def large(ids: Path) -> dict[str, float]:
    """CPU seconds and peak memory of weighing in this process, after a small map."""
    out, first = ids.with_suffix(".out.zarr"), ids.with_suffix(".first.zarr")
    startup = timed(lambda: weight_map(discs(512, 50), first, overwrite=True))
    shutil.rmtree(out, ignore_errors=True)
    before = time.perf_counter()
    used = timed(lambda: weight_map(ids, out))
    wall = time.perf_counter() - before
    written = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    for path in (out, first):
        shutil.rmtree(path)
    return {"cpu": used, "wall": wall, "start": startup, "peak": high_water(), "written": written / 1e6}


def parts(ids: Path) -> dict[str, float]:
    """CPU milliseconds of the parts of one block, each alone."""
    source, halo = open_image(ids, as_labels=True), reach() + 1
    box = [(0, min(SIDE + halo, n)) for n in source.shape]
    pixels = source.read(box)
    ridged = ridge(pixels)
    core = Box((0, 0), (SIDE, SIDE))
    levels, _ = plan_pyramid((SIDE, SIDE), SIDE, sharded=True)
    halved = [weigh(ridged, core, (0.7, 1.6))]
    while len(halved) < len(levels):
        halved.append(halve_mean(halved[-1]))

    def encode() -> None:
        for level, part in zip(levels, halved, strict=True):
            write_region(ids.parent, "parts.zarr", level, "0.5", [slice(0, n) for n in part.shape], part)

    works: dict[str, tuple[int, Callable[[], Any]]] = {
        "reading ids, twice": (2, lambda: source.read(box)),
        "ridge, twice": (2, lambda: ridge(pixels)),
        "weights": (1, lambda: weigh(ridged, core, (0.7, 1.6))),
        "halving": (1, lambda: [halve_mean(part) for part in halved[:-1]]),
        "zstd 1 of all levels, written": (1, encode),
    }
    found = {}
    for name, (times, work) in works.items():
        work()
        found[name] = times * statistics.median(timed(work) for _ in range(5)) * 1e3
    shutil.rmtree(ids.parent / "parts.zarr")
    return found


def small(_: Path) -> dict[str, float]:
    """CPU seconds of a map of 2048 x 2048 pixels with 1,000 and with 5,000 objects, ridge and border term."""
    started = timed(lambda: border_weights(ridge(discs(256, 9))))
    found = {"start": started}
    for n in (1000, 5000):
        ids = discs(SMALL, n)
        found[str(n)] = statistics.median(timed(lambda ids=ids: border_weights(ridge(ids))) for _ in range(5))
    return found


def high_water() -> float:
    """Peak resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


PARTS: dict[str, Callable[[Path], dict[str, float]]] = {"large": large, "parts": parts, "small": small}


def child(part: str, ids: Path) -> dict[str, Any]:
    """Run one part in a process of its own."""
    command = [sys.executable, __file__, "--part", part, "--ids", str(ids)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--ids", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part](given.ids)))
        return
    if given.size % (4 * SIDE):
        raise InputError(
            f"--size {given.size}: is quartered for the memory's comparison; give a multiple of {4 * SIDE}"
        )

    sys.path.insert(0, str(Path(__file__).parent))
    from common import WORK, record, table  # imports torch, which the memory of the child must not hold

    alone = child("small", WORK)
    rows = [(f"{SMALL}², {n:,} objects: CPU", f"{alone[str(n)]:.3f} s", "goal 0.35") for n in (1000, 5000)]
    figures: dict[str, Any] = {"small": alone}
    for size, rounds in ((given.size // 4, 1), (given.size // 2, 1), (given.size, given.rounds)):
        ids = make(WORK, size)
        found = [child("large", ids) for _ in range(rounds)]
        middle = {name: statistics.median(f[name] for f in found) for name in found[0]}
        rate, n = size**2 / 1e6 / middle["cpu"], PER_TILE * (size // SIDE) ** 2
        said = f"wall {middle['wall']:.2f}, start-up {middle['start']:.2f} s"
        rows += [
            (f"{size}², {n:,} objects: CPU", f"{middle['cpu']:.2f} s", said),
            (f"{size}²: rate per core", f"{rate:.1f} Mpx/s", "goal 10"),
            (f"{size}²: peak memory", f"{middle['peak']:.0f} MiB", "goal: that of the smaller ones"),
        ]
        figures[str(size)] = {**middle, "rates": [size**2 / 1e6 / f["cpu"] for f in found]}
    figures["parts"] = child("parts", make(WORK, given.size))
    for name, ms in figures["parts"].items():
        rows.append((f"a block's {name}", f"{ms:.1f} ms", f"{SIDE**2 / 1e3 / ms:.0f} Mpx/s"))
    table(f"Weight maps of {given.size} x {given.size} pixels, Zarr to Zarr, one process", rows)
    record("weigh", figures)


if __name__ == "__main__":
    main()
