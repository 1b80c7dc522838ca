"""Measure: one row per object, folded from the sums that every block adds."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.components import PLACES, VALUES, Runs, places, values
from tilekit.sources import Source
from tilekit.store import put_file
from tilekit.tiling import Block

Array = NDArray[Any]
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

    def dtype(self) -> np.dtype[Any]:
        """One part of one object."""
        fields: list[tuple[str, str]] = [
            ("id", "<i8"),
            ("class", "<i8"),
            ("edge", "<i8"),
            *((p, "<i8") for p in PLACES),
        ]
        for c in range(self.n_channels):
            fields += [(f"{name}_{c}", "<f8") for name in VALUES]
        return np.dtype(fields)


def measure_block(measuring: Measuring, block: Block, runs: Runs, ids: Array, edge: Array) -> Array:
    """Parts of the objects in a block: what `Measuring.dtype` lists but the class, for each component (n,)."""
    parts = np.zeros(len(ids), measuring.dtype())
    parts["id"], parts["edge"] = ids, edge
    for name, column in zip(PLACES, places(runs, *block.box.start).T, strict=True):
        parts[name] = column
    for c in range(measuring.n_channels):
        for name, column in zip(VALUES, values(runs, _channel(measuring, block, c)).T, strict=True):
            parts[f"{name}_{c}"] = column
    return parts


def _channel(measuring: Measuring, block: Block, channel: int) -> Array:
    image = measuring.image
    assert image is not None
    position = iter(block.plane)
    lead = [channel if a == "c" else next(position) for a in image.axes[:-2]]
    sides = zip(block.box.start, block.box.stop, strict=True)
    return image.read([*((i, i + 1) for i in lead), *sides]).reshape(block.box.shape)


def put_parts(out: Path, index: int, parts: Array) -> list[Any]:
    """Keep a block's parts, sorted out by batches of ids."""
    batches = (parts["id"] - 1) // BATCH
    shards = []
    for batch in np.unique(batches):
        file = io.BytesIO()
        np.save(file, parts[batches == batch])
        shards.append(put_file(out, f"{PARTS}/{batch}/{index}.npy", file.getvalue()))
    return shards


def fold_parts(parts: Array, first_id: int, n: int) -> Array:
    """One entry for each of n objects with ids from `first_id` on."""
    out = np.zeros(n, parts.dtype)
    at = parts["id"] - first_id
    assert parts.dtype.names is not None
    for name in parts.dtype.names:
        if name in ("id", "class", "edge") or "max" in name:
            out[name] = -np.inf if parts.dtype[name].kind == "f" else -1
            np.maximum.at(out[name], at, parts[name])
        elif "min" in name:
            out[name] = np.inf if parts.dtype[name].kind == "f" else 1 << 62
            np.minimum.at(out[name], at, parts[name])
        else:
            np.add.at(out[name], at, parts[name])
    return out


def read_parts(out: Path, batch: int, dtype: np.dtype[Any]) -> Array:
    """All parts of the objects of a batch."""
    files = sorted((out / PARTS / str(batch)).glob("*.npy"), key=lambda p: int(p.stem))
    return np.concatenate([np.zeros(0, dtype), *(np.load(f, allow_pickle=False) for f in files)])


def columns(objects: Array, measuring: Measuring, pixel_size: tuple[float, float] | None) -> dict[str, Array]:
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
