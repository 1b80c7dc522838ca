"""Scores: confusions in memory against reading the memory, and evaluate from Zarr against decoding both maps.

CPU seconds of one process, medians of rounds, after compilation. Class maps are flat cells (or noise) of 21 classes,
the prediction shifted and a tenth of it wrong; ids are 10^5 objects each.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import WORK, Row, case, high_water, row, timed

ROUNDS = 5
Map = NDArray[Any]


def middle(work: Callable[[], Any]) -> float:
    return statistics.median(timed(work) for _ in range(ROUNDS))


def class_maps(side: int, n_classes: int = 21, cell: int = 24) -> tuple[Map, Map]:
    """Flat cells, and a copy that is shifted and a tenth of whose cells are class 0."""
    generator = np.random.default_rng(0)
    n = side // cell + 1
    grow = lambda a: a.repeat(cell, 0).repeat(cell, 1)[:side, :side].copy()  # noqa: E731
    truth = grow(generator.integers(0, n_classes, (n, n), dtype=np.uint8))
    prediction = np.roll(truth, (3, 5), (0, 1))
    prediction[grow(generator.random((n, n)) < 0.1)] = 0
    return prediction, truth


def noise_maps(side: int) -> tuple[Map, Map]:
    prediction, truth = np.random.default_rng(1).integers(0, 21, (2, side, side), dtype=np.uint8)
    return prediction, truth


def id_map(side: int, n: int, seed: int) -> Map:
    """n cells about random points, uint32, parted by background of a pixel."""
    from scipy.ndimage import distance_transform_edt

    seeds = np.zeros((side, side), np.uint32)
    seeds[tuple(np.random.default_rng(seed).integers(0, side, (2, n)))] = np.arange(1, n + 1)
    where = distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    ids: Map = seeds[tuple(where)]
    border = (ids[:-1, :-1] != ids[1:, :-1]) | (ids[:-1, :-1] != ids[:-1, 1:])
    ids[:-1, :-1][border] = 0
    return ids


def disc_map(side: int, n: int, seed: int) -> Map:
    """n discs about the points of a jittered grid, uint32, on half of the area."""
    from scipy.ndimage import distance_transform_edt

    generator, per_axis = np.random.default_rng(seed), int(np.ceil(n**0.5))
    step = side / per_axis
    grid = np.indices((per_axis, per_axis)).reshape(2, -1)[:, :n]
    centers = ((grid + generator.uniform(0.2, 0.8, (2, n))) * step).astype(int)
    seeds = np.zeros((side, side), np.uint32)
    seeds[tuple(centers)] = np.arange(1, n + 1)
    distance, where = distance_transform_edt(seeds == 0, return_indices=True)
    ids: Map = seeds[tuple(where)]
    ids[distance >= generator.uniform(0.3, 0.55, n + 1)[ids] * step] = 0
    return ids


def maps(kind: str, side: int) -> tuple[Map, Map]:
    """Prediction and truth, made once."""
    path = WORK / f"maps-{kind}-{side}.npz"
    n = 100_000 * side**2 // 8192**2
    if not path.exists():
        make = {"discs": disc_map, "cells": id_map}.get(kind)
        pair = (make(side, n, 0), make(side, n, 1)) if make else (class_maps if kind == "classes" else noise_maps)(side)
        WORK.mkdir(parents=True, exist_ok=True)
        np.savez(path, prediction=pair[0], truth=pair[1])
    with np.load(path) as stored:
        return stored["prediction"], stored["truth"]


def memory(kind: str, side: int) -> dict[str, float]:
    """CPU seconds of counting overlaps in memory, and of reading both maps there once."""
    from tilekit.overlaps import count_overlaps

    a, b = maps(kind, side)
    count_overlaps(a[:64], b[:64])
    views = a.reshape(-1).view(np.uint64), b.reshape(-1).view(np.uint64)
    return {"count": middle(lambda: count_overlaps(a, b)), "read": middle(lambda: [v.max() for v in views])}


def from_zarr(kind: str, side: int) -> dict[str, float]:
    """CPU seconds of evaluate from Zarr, and of decoding both maps block by block."""
    os.environ.setdefault("ZARR_THREADING__MAX_WORKERS", "1")
    import zarr

    import tilekit
    from tilekit.box import Box, grid_boxes
    from tilekit.sources import open_image

    paths = [WORK / f"{kind}-{side}-{name}.zarr" for name in ("prediction", "truth")]
    for path, pixels in zip(paths, maps(kind, side), strict=True):
        how: dict[str, Any] = {"chunks": (512, 512), "shards": (4096, 4096), "dimension_names": ["y", "x"]}
        zarr.create_array(str(path), data=pixels, overwrite=True, **how)
    sources = [open_image(path) for path in paths]

    def read() -> None:
        for source in sources:
            for box in grid_boxes(Box.whole(source.shape), (4096, 4096)):
                source.read(box)

    what = "classes" if kind == "classes" else "ids"
    score: Callable[[], Any] = partial(tilekit.evaluate, *map(Path, paths), kind=what, block=4096)
    score()
    return {"read": middle(read), "score": middle(score), "peak": high_water()}


def measure(quick: bool = False) -> list[Row]:
    """Counting in memory, then the whole job."""
    side = 4096 if quick else 8192
    n = 100_000 * side**2 // 8192**2
    said = {
        "classes": "21 classes, flat",
        "noise": "21 classes, noise",
        "discs": f"{n:,} discs",
        "cells": f"{n:,} cells",
    }
    rows = []
    for kind in said:
        found = case(memory, kind=kind, side=side)
        gpx = side**2 / 1e9
        rows.append(row(f"counted in memory, {said[kind]}", gpx / found["count"], "Gpx/s", limit=gpx / found["read"]))
    for kind in ("classes", "discs", "cells"):
        found = case(from_zarr, kind=kind, side=side)
        more = {"Mpx/s": side**2 / 1e6 / found["score"], "peak MiB": found["peak"]}
        title = f"{side}² from Zarr, {said[kind]}"
        rows.append(row(title, found["score"], "s", limit=found["read"], goal="≤ 1.3 x", job="evaluate", **more))
    return rows
