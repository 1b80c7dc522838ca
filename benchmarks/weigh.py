"""Weight maps: one map of 2048 x 2048 pixels, and 10^5 objects from Zarr to Zarr: CPU seconds and peak memory.

Objects are discs of many sizes that touch, on a jittered grid; those of the large map are a map of 4096 x 4096 pixels
with 6,250 of them, repeated with ids of their own. All CPU seconds of one process, start-up (imports and compiled
loops) left out. The limit is what its parts take alone on one block: reading ids and ridge twice, weights, halving,
zstd and writing of all levels.
"""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import (
    SIDE,
    WORK,
    Row,
    case,
    measured_job,
    medians,
    parts_of,
    repeated_store,
    row,
    scaled_rows,
    timed,
)
from tilekit import open_image, weight_map
from tilekit.box import Box
from tilekit.pyramid import halve_mean
from tilekit.store import write_region
from tilekit.tiling import plan_pyramid
from tilekit.weights import border_weights, reach, ridge, weigh

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


def make(size: int) -> Path:
    """The ids (uint32), made once."""
    return repeated_store("ids", size, discs(SIDE, PER_TILE), step=PER_TILE)


def large(size: int) -> dict[str, float]:
    """Weighing in this process, after a small map."""
    ids, small = make(size), discs(512, 50)
    return measured_job(lambda out: weight_map(small, out), lambda out: weight_map(ids, out))


def parts(size: int) -> dict[str, float]:
    """CPU seconds of the parts of one block, each alone."""
    source, halo = open_image(make(size), as_labels=True), reach() + 1
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
            write_region(WORK, "parts.zarr", level, "0.5", [slice(0, n) for n in part.shape], part)

    works: dict[str, Callable[[], Any]] = {
        "reading ids, twice": lambda: [source.read(box), source.read(box)],
        "ridge, twice": lambda: [ridge(pixels), ridge(pixels)],
        "weights": lambda: weigh(ridged, core, (0.7, 1.6)),
        "halving": lambda: [halve_mean(part) for part in halved[:-1]],
        "zstd 1 of all levels, written": encode,
    }
    found = parts_of(works)
    shutil.rmtree(WORK / "parts.zarr")
    return found


def small(n: int) -> float:
    """CPU seconds of a map of 2048 x 2048 pixels with n objects, ridge and border term."""
    border_weights(ridge(discs(256, 9)))
    ids = discs(SMALL, n)
    return statistics.median(timed(lambda: border_weights(ridge(ids))) for _ in range(5))


def measure(quick: bool = False) -> list[Row]:
    """The small maps, a large one, and one of a quarter of its pixels."""
    size, rounds = (SIDE, 1) if quick else (16_384, 3)
    rows = [row(f"{SMALL}² in memory, {n:,} objects", case(small, n=n), "s", goal="≤ 0.35") for n in (1000, 5000)]
    quarter = case(large, size=size // 2)
    m = medians([case(large, size=size) for _ in range(rounds)])
    alone = case(parts, size=size)
    objects = PER_TILE * (size // SIDE) ** 2
    return [*rows, *scaled_rows("weigh", size, objects, m, quarter, alone, goal="≥ 10")]
