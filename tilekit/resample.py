"""From an image's pixels to those that a network was trained on: one grid for the whole image, any box of it alone.

    network pixel j has its center at (j + 0.5) · s - 0.5, in pixels of the level that it is computed from
    pixel i of the image gets the class of network pixel floor((i + 0.5) / S)

s and S are the network's pixel size over that of the level, and of the image. Weights are a triangle around the center,
of half-width s (down-sampling, antialiased) or 1 (up-sampling, bilinear), normalized where the image ends. They come
from absolute positions and are added in a fixed order, so that every box gives the same bits (law 1 for the resampled
image).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.tiling import Pair

Array = NDArray[Any]
Ratio = tuple[float, float]
EQUAL = 0.01
"""Pixel sizes that differ by no more than this share are taken for equal."""
MAX_UPSAMPLING = 4.0
"""How much finer than the image a network's pixels may be."""
BAND = 64
"""Rows resampled at a time: what is held as float64."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The network's pixels over an image (y, x); without resampling they are the image's own.

    >>> Grid.fitted((100, 100), (100, 100), (1.0, 1.0), (2.0, 2.0)).index(0, 0, 6).tolist()
    [0, 0, 1, 1, 2, 2]
    """

    image: Pair
    """Shape of the image, on whose pixels the classes are written."""
    level: Pair
    """Shape of the level of its pyramid that is read."""
    shape: Pair
    """Network pixels."""
    ratio: Ratio
    """Pixels of the level per network pixel; 1.0 along an axis that is not resampled."""
    factor: Ratio
    """Pixels of the image per network pixel."""

    @classmethod
    def of(cls, image: Sequence[int]) -> Grid:
        """The image as it is."""
        shape = (image[-2], image[-1])
        return cls(shape, shape, shape, (1.0, 1.0), (1.0, 1.0))

    @classmethod
    def fitted(cls, image: Sequence[int], level: Sequence[int], scale: Ratio, factor: Ratio) -> Grid:
        """The grid of `factor` image pixels per network pixel, over a level of `scale` image pixels per pixel."""
        ratios = [_exactly_one(f / s) for f, s in zip(factor, scale, strict=True)]
        sides = [n if r == 1 else max(1, round(n / r)) for n, r in zip(level[-2:], ratios, strict=True)]
        true = [s * r for s, r in zip(scale, ratios, strict=True)]
        return cls(
            (image[-2], image[-1]),
            (level[-2], level[-1]),
            (sides[0], sides[1]),
            (ratios[0], ratios[1]),
            (true[0], true[1]),
        )

    @property
    def is_image(self) -> bool:
        """True where the network sees the image pixel by pixel."""
        return self.shape == self.image and self.factor == (1.0, 1.0)

    def index(self, axis: int, start: int, stop: int) -> NDArray[np.int64]:
        """Network pixel of each of the image's pixels start..stop-1 of an axis; never decreases."""
        found = np.floor((np.arange(start, stop) + 0.5) / self.factor[axis]).astype(np.int64)
        return np.asarray(np.minimum(found, self.shape[axis] - 1))

    def cover(self, box: Box, stride: Pair) -> Box:
        """The network pixels of a box of the image, its start moved back onto the stride's phase."""
        ranges = [self.span(axis, box.start[axis], box.stop[axis], stride[axis]) for axis in (0, 1)]
        return Box((ranges[0][0], ranges[1][0]), (ranges[0][1], ranges[1][1]))

    def span(self, axis: int, start: int, stop: int, stride: int) -> tuple[int, int]:
        """`cover` for one axis."""
        first, last = (min(floor((i + 0.5) / self.factor[axis]), self.shape[axis] - 1) for i in (start, stop - 1))
        return first // stride * stride, last + 1

    def source_box(self, box: Box) -> Box:
        """The pixels of the level that a box of network pixels is computed from."""
        pairs = []
        for start, stop, s, n in zip(box.start, box.stop, self.ratio, self.level, strict=True):
            reach = 0.0 if s == 1 else max(s, 1.0)
            low = floor((start + 0.5) * s - 0.5 - reach)
            high = ceil((stop - 0.5) * s - 0.5 + reach) + 1
            pairs.append((max(low, 0), min(high, n)))
        return Box((pairs[0][0], pairs[1][0]), (pairs[0][1], pairs[1][1]))

    def resample(self, pixels: Array, box: Box) -> Array:
        """A box of network pixels (c, y, x), from the level's pixels of `source_box(box)`.

        In float64, integers rounded half up; equal bits whatever the box.
        """
        if self.ratio == (1.0, 1.0):
            return pixels
        origin = self.source_box(box).start
        rows, columns = (
            taps(box.start[a], box.stop[a], self.ratio[a], self.level[a], origin[a]) for a in (0, 1)
        )  # each (indices, weights), (taps, pixels)
        out = np.empty((len(pixels), *box.shape), pixels.dtype)
        for channel, plane in enumerate(pixels):
            for top in range(0, box.shape[0], BAND):
                part = slice(top, top + BAND)
                band = _weigh(plane, rows[0][:, part], rows[1][:, part], 0)
                out[channel, part] = _as_dtype(_weigh(band, *columns, 1), pixels.dtype)
        return out


def _exactly_one(ratio: float) -> float:
    return 1.0 if abs(ratio - 1) <= EQUAL else ratio


def taps(start: int, stop: int, s: float, n: int, origin: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which pixels of an axis of n the network pixels start..stop-1 are made of, and by what weights: (taps, pixels).

    Indices are counted from `origin`; a weight of 0 goes with the index of a neighbor that has one.

    >>> indices, weights = taps(0, 2, 2.0, 4)
    >>> indices.T.tolist(), (weights * 7).round(6).T.tolist()
    ([[0, 0, 1, 2], [1, 2, 3, 3]], [[0.0, 3.0, 3.0, 1.0], [1.0, 3.0, 3.0, 0.0]])
    """
    if s == 1:
        return np.arange(start, stop)[None] - origin, np.ones((1, stop - start))
    reach = max(s, 1.0)
    centers = (np.arange(start, stop) + 0.5) * s - 0.5
    first = np.floor(centers - reach).astype(np.int64) + 1
    positions = first + np.arange(ceil(2 * reach))[:, None]
    weights = np.maximum(1 - np.abs(positions - centers) / reach, 0)
    weights[(positions < 0) | (positions >= n)] = 0
    total = np.zeros_like(centers)
    for weight in weights:
        total += weight
    lowest = np.where(weights > 0, positions, n).min(0)
    highest = np.where(weights > 0, positions, -1).max(0)
    return np.clip(positions, lowest, highest) - origin, weights / total


def _weigh(pixels: Array, indices: NDArray[np.int64], weights: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The weighted sum of rows (axis 0) or columns (1) of a plane, tap after tap."""
    shape = (-1, 1) if axis == 0 else (1, -1)
    total = pixels.take(indices[0], axis) * weights[0].reshape(shape)
    for index, weight in zip(indices[1:], weights[1:], strict=True):
        total += pixels.take(index, axis) * weight.reshape(shape)
    return np.asarray(total)


def _as_dtype(values: NDArray[np.float64], dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    top = float(limits.max)
    if top > limits.max:  # 64 bits: the largest float that they hold
        top = float(np.nextafter(top, 0))
    return np.clip(np.floor(values + 0.5), limits.min, top).astype(dtype)
