"""Labels of a class map with over 10^6 objects, Zarr to Zarr, with pyramid and table: CPU seconds and peak memory.

The class map is a specimen's truth, 4096 x 4096 pixels of touching cells, repeated; its objects join across the copies.
All CPU seconds of one process, start-up (imports and compiled loops) left out. The limit is what its parts take alone
on one block: reading the class map, finding runs, painting, halving, zstd and writing of all levels.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import SIDE, WORK, Row, case, measured_job, medians, parts_of, repeated_store, scaled_rows
from tilekit import label_objects, open_image
from tilekit.components import find_runs, paint
from tilekit.pyramid import halve_labels
from tilekit.specimen import Specimen
from tilekit.store import write_region
from tilekit.tiling import plan_pyramid


def make(size: int) -> Path:
    """The class map (uint8), made once."""
    return repeated_store("classes", size, Specimen(SIDE).truth([(0, SIDE), (0, SIDE)]))


def label(size: int) -> dict[str, float]:
    """Labeling in this process, after a small map."""
    classes, truth = make(size), Specimen(1024).truth([(0, 1024), (0, 1024)])
    return measured_job(lambda out: label_objects(truth, out), lambda out: label_objects(classes, out))


def parts(size: int) -> dict[str, float]:
    """CPU seconds of the parts of one block, each alone."""
    source = open_image(make(size), as_labels=True)
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

    def encode() -> None:
        for level, part in zip(levels, halved, strict=True):
            write_region(WORK, "parts.zarr", level, "0.5", [slice(0, n) for n in part.shape], part)

    works: dict[str, Callable[[], Any]] = {
        "reading the class map": lambda: source.read(box),
        "finding runs": lambda: find_runs(pixels, 8, 255),
        "painting ids": lambda: paint(runs, ids, np.zeros(pixels.shape, np.uint32)),
        "halving": lambda: [halve_labels(part) for part in halved[:-1]],
        "zstd 1 of all levels, written": encode,
    }
    found = parts_of(works)
    shutil.rmtree(WORK / "parts.zarr")
    return found


def measure(quick: bool = False) -> list[Row]:
    """A map and one of four times its pixels."""
    size, rounds = (SIDE, 1) if quick else (32_768, 3)
    quarter = case(label, size=size // 2)
    found = [case(label, size=size) for _ in range(rounds)]
    alone, m = case(parts, size=max(size, SIDE)), medians(found)
    return scaled_rows("label", size, m["objects"], m, quarter, alone, goal="≥ 85")
