"""The U-Net weight map as the paper words it: one distance transform of the whole image for each object."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]


def naive_ridge(ids: Array) -> Array:
    """Ids (y, x) less the pixels with another id, not 0, in their 3 x 3, pixel by pixel."""
    out = ids.copy()
    for y, x in np.argwhere(ids):
        around = ids[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        if ((around != 0) & (around != ids[y, x])).any():
            out[y, x] = 0
    return out


def naive_border(ids: Array, w0: float, sigma: float) -> NDArray[np.float64]:
    """w0 exp(-(d1 + d2)^2 / (2 sigma^2)) on background, 0 inside objects and where fewer than two are anywhere."""
    nearest, second = np.full((2, *ids.shape), np.inf)
    for id_ in np.unique(ids[ids != 0]):
        distance = ndimage.distance_transform_edt(ids != id_)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    term: NDArray[np.float64] = np.where(ids == 0, w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2)), 0)
    return term


def naive_weights(
    ids: Array,
    w0: float = 10,
    sigma: float = 5,
    *,
    ridge: bool = True,
    void: Array | None = None,
    class_weights: tuple[float, float] | None = None,
) -> NDArray[np.float64]:
    """The weight of every pixel (y, x); 0 where `void` is True."""
    valid = np.ones(ids.shape, bool) if void is None else ~void
    ids = np.where(valid, ids, 0)
    ids = naive_ridge(ids) if ridge else ids
    if class_weights is None:
        counts = [int((valid & (ids == 0)).sum()), int((valid & (ids != 0)).sum())]
        background, inside = (sum(counts) / (2 * n) if n else 0.0 for n in counts)
    else:
        background, inside = class_weights
    weights: NDArray[np.float64] = np.where(ids == 0, background, inside) + naive_border(ids, w0, sigma)
    return np.where(valid, weights, 0)
