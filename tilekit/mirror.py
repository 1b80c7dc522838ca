"""Mirror extrapolation as index arithmetic in image coordinates (numpy's `reflect`: the edge pixel is not repeated)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box

Array = NDArray[Any]


def mirror_index(start: int, stop: int, n: int) -> NDArray[np.int64]:
    """Positions in 0..n-1 that the positions start..stop-1 show when an axis of n pixels is mirrored without end.

    >>> mirror_index(-2, 5, 3).tolist()
    [2, 1, 0, 1, 2, 1, 0]
    """
    if n == 1:
        return np.zeros(stop - start, np.int64)
    period = 2 * (n - 1)
    phase = np.arange(start, stop, dtype=np.int64) % period
    return np.minimum(phase, period - phase)


def read_mirrored(read: Callable[[Box], Array], box: Box, shape: tuple[int, int]) -> Array:
    """Pixels of a box that may reach outside an image of this shape (y, x), mirrored there.

    `read` gives (..., y, x) for a box inside the image; it is called once, with the smallest box that is needed.
    """
    indices = [mirror_index(a, b, n) for a, b, n in zip(box.start, box.stop, shape, strict=True)]
    inner = Box(tuple(int(i.min()) for i in indices), tuple(int(i.max()) + 1 for i in indices))
    pixels = read(inner)
    for axis, (index, first) in enumerate(zip(indices, inner.start, strict=True), start=pixels.ndim - 2):
        if inner != box:
            pixels = np.take(pixels, index - first, axis=axis)
    return pixels
