"""Halving an image or a label map: the arithmetic of the pyramid, the same for every block size.

A cell is 2 x 2 pixels; at an odd edge it is what the image has there (its last row or column counted twice changes
neither a mean nor a majority).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Draw = Callable[[Array, int, int], None]
"""Fills an array with the part of a block that begins at a row and column."""


def halve_mean(pixels: Array, nodata: float | None = None) -> Array:
    """Means of cells (..., y, x), integers rounded to the nearest, halves up; nodata and NaN are left out."""
    from tilekit.compiled import mean_cells, valid_mean_cells

    if nodata is not None and nodata != nodata:
        nodata = None
    whole = pixels.dtype.kind != "f"
    if whole and pixels.dtype.itemsize > 4:
        return _exact_mean(pixels, nodata)
    if whole and nodata is None:
        return _by_cells(mean_cells, pixels)
    missing = np.nan if nodata is None else float(nodata if whole else pixels.dtype.type(nodata))
    if pixels.dtype == np.float16:  # which is not compiled
        return halve_mean(pixels.astype(np.float64), missing).astype(np.float16)
    return _by_cells(lambda cells, out: valid_mean_cells(cells, missing, whole, out), pixels)


def halve_labels(labels: Array) -> Array:
    """The commonest label of each cell (..., y, x), of equals the one that comes first in row-major order."""
    from tilekit.compiled import label_cells

    return _by_cells(label_cells, labels)


class Drawn:
    """A block of labels that is made chunk by chunk, and halved while a chunk is in the core's nearest cache.

    Every part is asked for once, begins at an even row and column, and holds until the next is asked for.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], draw: Draw) -> None:
        """`shape` is (leading..., y, x) of one plane."""
        *lead, height, width = shape
        self.shape, self.dtype, self._draw = shape, dtype, draw
        self._part = np.empty((0, 0), dtype)
        self.halved = np.empty((*lead, -(-height // 2), -(-width // 2)), dtype)
        """The next level, once all parts were asked for."""

    def __getitem__(self, part: tuple[slice, ...]) -> Array:
        from tilekit.compiled import label_cells

        (top, bottom), (left, right) = ((s.start, s.stop) for s in part[-2:])
        if self._part.shape != (bottom - top, right - left):
            self._part = np.empty((bottom - top, right - left), self.dtype)
        self._draw(self._part, top, left)
        halved = self.halved.reshape(1, *self.halved.shape[-2:])
        label_cells(self._part[None], halved[:, top // 2 : -(-bottom // 2), left // 2 : -(-right // 2)])
        return self._part


def _by_cells(fill: Callable[[Array, Array], None], pixels: Array) -> Array:
    *lead, height, width = pixels.shape
    out = np.empty((*lead, -(-height // 2), -(-width // 2)), pixels.dtype)
    fill(np.ascontiguousarray(pixels).reshape(-1, height, width), out.reshape(-1, *out.shape[-2:]))
    return out


def _exact_mean(pixels: Array, nodata: float | None) -> Array:
    """Means of integers of 64 bits, whose sums fit no number of the machine: Python's own, slowly."""
    pad = [(0, 0)] * (pixels.ndim - 2) + [(0, n % 2) for n in pixels.shape[-2:]]
    whole = np.pad(pixels, pad, mode="edge")
    parts = [whole[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
    valid = [np.ones(p.shape, bool) if nodata is None else p != nodata for p in parts]
    total = np.sum([np.where(v, p, 0).astype(object) for p, v in zip(parts, valid, strict=True)], axis=0)
    count = np.sum(valid, axis=0)
    n = np.maximum(count, 1).astype(object)
    mean: Array = np.where(count == 0, 0 if nodata is None else int(nodata), (2 * total + n) // (2 * n))
    return mean.astype(pixels.dtype)
