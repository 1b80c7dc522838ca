"""Rates of the scores, per core and after compilation: in memory, and from Zarr against reading both maps.

    python benchmarks/scores.py memory
    python benchmarks/scores.py zarr FOLDER

CPU seconds of this process, median of rounds, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("ZARR_THREADING__MAX_WORKERS", "1")

import numpy as np
import zarr
from scipy.ndimage import distance_transform_edt

import tilekit
from tilekit.box import Box, grid_boxes
from tilekit.overlaps import count_overlaps
from tilekit.sources import open_image

ROUNDS = 5


def cpu_seconds(function: Callable[[], Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return statistics.median(times)


def class_maps(side: int, n_classes: int = 21, cell: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Flat cells, and a copy that is shifted and a tenth of whose cells are class 0."""
    generator = np.random.default_rng(0)
    n = side // cell + 1
    grow = lambda a: a.repeat(cell, 0).repeat(cell, 1)[:side, :side].copy()  # noqa: E731
    truth = grow(generator.integers(0, n_classes, (n, n), dtype=np.uint8))
    prediction = np.roll(truth, (3, 5), (0, 1))
    prediction[grow(generator.random((n, n)) < 0.1)] = 0
    return prediction, truth


def id_map(side: int, n: int, seed: int) -> np.ndarray:
    """n cells about random points, uint32, parted by background of a pixel."""
    seeds = np.zeros((side, side), np.uint32)
    seeds[tuple(np.random.default_rng(seed).integers(0, side, (2, n)))] = np.arange(1, n + 1)
    where = distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    ids = seeds[tuple(where)]
    border = (ids[:-1, :-1] != ids[1:, :-1]) | (ids[:-1, :-1] != ids[:-1, 1:])
    ids[:-1, :-1][border] = 0
    return ids


def disc_map(side: int, n: int, seed: int) -> np.ndarray:
    """n discs about the points of a jittered grid, uint32, on half of the area."""
    generator, per_axis = np.random.default_rng(seed), int(np.ceil(n**0.5))
    step = side / per_axis
    grid = np.indices((per_axis, per_axis)).reshape(2, -1)[:, :n]
    centers = ((grid + generator.uniform(0.2, 0.8, (2, n))) * step).astype(int)
    seeds = np.zeros((side, side), np.uint32)
    seeds[tuple(centers)] = np.arange(1, n + 1)
    distance, where = distance_transform_edt(seeds == 0, return_indices=True)
    ids = seeds[tuple(where)]
    ids[distance >= generator.uniform(0.3, 0.55, n + 1)[ids] * step] = 0
    return ids


def memory() -> None:
    noise = np.random.default_rng(1).integers(0, 21, (2, 4096, 4096), dtype=np.uint8)
    for name, (a, b) in (
        ("21 classes, flat", class_maps(8192)),
        ("21 classes, noise", noise),
        ("10^5 discs each", (disc_map(8192, 100_000, 0), disc_map(8192, 100_000, 1))),
        ("10^5 cells each", (id_map(8192, 100_000, 0), id_map(8192, 100_000, 1))),
    ):
        count_overlaps(a[:64], b[:64])
        seconds = cpu_seconds(lambda a=a, b=b: count_overlaps(a, b))  # type: ignore[misc]
        print(f"{name:20s} {a.size / seconds / 1e9:6.3f} Gpx/s per core, {len(count_overlaps(a, b))} pairs")


def from_zarr(folder: Path, side: int) -> None:
    for kind, maps in (
        ("classes", class_maps(side)),
        ("discs", (disc_map(side, 100_000, 0), disc_map(side, 100_000, 1))),
        ("cells", (id_map(side, 100_000, 0), id_map(side, 100_000, 1))),
    ):
        paths = [folder / f"{kind}-{name}.zarr" for name in ("prediction", "truth")]
        for path, pixels in zip(paths, maps, strict=True):
            zarr.create_array(
                str(path),
                data=pixels,
                chunks=(512, 512),
                shards=(4096, 4096),
                overwrite=True,
                dimension_names=["y", "x"],
            )
        sources = [open_image(path) for path in paths]

        def read(sources: list[Any] = sources) -> None:
            for source in sources:
                for box in grid_boxes(Box.whole(source.shape), (4096, 4096)):
                    source.read(box)

        def score(paths: list[Path] = paths, kind: str = kind) -> None:
            tilekit.evaluate(*paths, kind="classes" if kind == "classes" else "ids", block=4096)

        score()
        reading, scoring = cpu_seconds(read), cpu_seconds(score)
        rate = side * side / scoring / 1e6
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{kind:8s} read {reading:.2f} s, evaluate {scoring:.2f} s: {scoring / reading:.2f}x, {rate:.0f} Mpx/s, "
              f"peak {peak:.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "zarr"])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    parser.add_argument("--side", type=int, default=8192)
    given = parser.parse_args()
    memory() if given.what == "memory" else from_zarr(given.folder, given.side)
