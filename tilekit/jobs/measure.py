"""Measure: one row per object, folded from the sums that every block adds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.components import PLACES, VALUES, Runs, places, values
from tilekit.packing import pack, read_arrays
from tilekit.sources import Source
from tilekit.store import put_file
from tilekit.tiling import Block

Array = NDArray[Any]
Parts = dict[str, Array]
"""Columns by name, an entry for each part of an object that lies in one block."""
PARTS = ".tilekit/label-work/parts"
TABLE = "tables/objects.parquet"
BATCH = 1 << 18
"""Objects that are folded at once, whatever the image's size: some 40 MB of sums at one channel, held three times."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """What is measured beside the labels."""

    image: Source | None
    """The image at the class map's resolution, for intensities; None for places alone."""

    @property
    def n_channels(self) -> int:
        if self.image is None:
            return 0
        return self.image.shape[self.image.axes.index("c")] if "c" in self.image.axes else 1

    @property
    def channel_names(self) -> list[str]:
        names = self.image.channel_names if self.image is not None else None
        return list(names) if names else [str(i) for i in range(self.n_channels)]

    @property
    def dtypes(self) -> dict[str, type]:
        """Of what is kept of each part of an object."""
        measured = [f"{name}_{c}" for c in range(self.n_channels) for name in VALUES]
        return dict.fromkeys(("id", "class", "edge", *PLACES), np.int64) | dict.fromkeys(measured, np.float64)


def measure_block(measuring: Measuring, block: Block, runs: Runs) -> Parts:
    """Places and values of the objects in a block, for each component (n,)."""
    parts = dict(zip(PLACES, places(runs, *block.box.start).T, strict=True))
    for c in range(measuring.n_channels):
        names = [f"{name}_{c}" for name in VALUES]
        parts |= zip(names, values(runs, _channel(measuring, block, c)).T, strict=True)
    return parts


def _channel(measuring: Measuring, block: Block, channel: int) -> Array:
    image = measuring.image
    assert image is not None
    position = iter(block.plane)
    lead = [channel if a == "c" else next(position) for a in image.axes[:-2]]
    sides = zip(block.box.start, block.box.stop, strict=True)
    return image.read([*((i, i + 1) for i in lead), *sides]).reshape(block.box.shape)


def put_parts(out: Path, index: int, parts: Parts) -> list[Any]:
    """Keep a block's parts with an id, sorted out by batches of ids."""
    batches = (parts["id"] - 1) // BATCH
    shards = []
    for batch in np.unique(batches[batches >= 0]):
        here = batches == batch
        data = pack({name: column[here] for name, column in parts.items()})
        shards.append(put_file(out, f"{PARTS}/{batch}/{index}", data))
    return shards


def fold_parts(parts: Parts, first_id: int, n: int) -> Parts:
    """One entry for each of n objects with ids from `first_id` on."""
    at, folded = parts["id"] - first_id, {}
    for name, column in parts.items():
        ufunc: np.ufunc = np.add
        neutral: float = 0
        if name in ("id", "class", "edge") or "max" in name:
            ufunc, neutral = np.maximum, -np.inf if column.dtype.kind == "f" else -1
        elif "min" in name:
            ufunc, neutral = np.minimum, np.inf if column.dtype.kind == "f" else 1 << 62
        folded[name] = np.full(n, neutral, column.dtype)
        ufunc.at(folded[name], at, column)
    return folded


def read_parts(out: Path, batch: int, measuring: Measuring) -> Parts:
    """All parts of the objects of a batch."""
    files = sorted((out / PARTS / str(batch)).glob("*"), key=lambda p: int(p.name))
    held = [read_arrays(f) for f in files]
    return {n: np.concatenate([np.zeros(0, t), *(part[n] for part in held)]) for n, t in measuring.dtypes.items()}


def columns(objects: Parts, measuring: Measuring, pixel_size: tuple[float, float] | None) -> dict[str, Array]:
    """The columns of the table; boxes are half-open, centroids those of pixel centers."""
    area = objects["area"]
    found: dict[str, Array] = {
        "id": objects["id"],
        "class": objects["class"],
        "area": area,
        "y0": objects["y_min"],
        "x0": objects["x_min"],
        "y1": objects["y_max"] + 1,
        "x1": objects["x_max"] + 1,
        "centroid_y": objects["y_sum"] / area,
        "centroid_x": objects["x_sum"] / area,
        "equivalent_diameter": np.sqrt(4 * area / math.pi),
        "touches_edge": objects["edge"].astype(bool),
    }
    if pixel_size is not None:
        y, x = pixel_size
        found["area_um2"] = area * (y * x)
        found["centroid_y_um"] = found["centroid_y"] * y
        found["centroid_x_um"] = found["centroid_x"] * x
        found["equivalent_diameter_um"] = np.sqrt(4 * area * (y * x) / math.pi)
    for c, name in enumerate(measuring.channel_names):
        measured = objects[f"n_{c}"] > 0
        found[f"mean_{name}"] = objects[f"sum_{c}"] / np.where(measured, objects[f"n_{c}"], np.nan)
        for extreme in ("min", "max"):
            found[f"{extreme}_{name}"] = np.where(measured, objects[f"{extreme}_{c}"], np.nan)
    return found
