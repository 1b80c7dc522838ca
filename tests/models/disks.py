"""A small task that training can learn: bright disks on a dark, noisy ground, by samples in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.mirror import read_mirrored


@dataclass(frozen=True, eq=False)
class ArraySample:
    """An image in memory: pixels (c, y, x), classes and weights (y, x)."""

    name: str
    pixels: NDArray[Any]
    classes: NDArray[np.uint8]
    loss_weights: NDArray[np.float32]
    centers: Mapping[str, NDArray[np.int64]]

    @property
    def box(self) -> Box:
        return Box.whole(self.classes.shape)

    def read(self, box: Box) -> NDArray[Any]:
        return self._mirrored(self.pixels, box)

    def truth(self, box: Box) -> NDArray[np.uint8]:
        return self._mirrored(self.classes, box)

    def weights(self, box: Box) -> NDArray[np.float32]:
        return self._mirrored(self.loss_weights, box)

    def _mirrored(self, array: NDArray[Any], box: Box) -> NDArray[Any]:
        return read_mirrored(lambda inner: array[(..., *inner.slices)], box, self.classes.shape)


def disks(seed: int, side: int = 96, n: int = 6) -> ArraySample:
    """uint8 pixels and two classes; the centers of each class, and all weights 1."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    inside = np.zeros((side, side), bool)
    for _ in range(n):
        cy, cx, r = generator.uniform(0, side), generator.uniform(0, side), generator.uniform(5, 12)
        inside |= (y - cy) ** 2 + (x - cx) ** 2 < r**2
    pixels = (60 + 80 * inside + generator.normal(0, 12, inside.shape)).clip(0, 255).astype(np.uint8)
    centers = {f"class:{k}": np.argwhere(inside == bool(k)) for k in (0, 1)}
    centers["known"] = np.argwhere(np.ones_like(inside))
    return ArraySample(
        f"disks {seed}", pixels[None], inside.astype(np.uint8), np.ones(inside.shape, np.float32), centers
    )
