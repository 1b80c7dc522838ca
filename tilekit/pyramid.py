"""Halving an image or a label map: the arithmetic of the pyramid, the same for every block size.

A cell is 2 x 2 pixels; at an odd edge it is what the image has there (its last row or column counted twice changes
neither a mean nor a majority).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _quarters(pixels: Array) -> list[Array]:
    """The four pixels of each cell (..., y, x), as views: top left, top right, bottom left, bottom right."""
    pad = [(0, 0)] * (pixels.ndim - 2) + [(0, n % 2) for n in pixels.shape[-2:]]
    if any(after for _, after in pad):
        pixels = np.pad(pixels, pad, mode="edge")
    return [pixels[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]


def halve_mean(pixels: Array, nodata: float | None = None) -> Array:
    """Means of cells, integers rounded to the nearest (halves up); a cell's mean leaves nodata and NaN out."""
    parts = _quarters(pixels)
    if nodata is None and pixels.dtype.kind != "f":
        return _integer_mean(parts)
    valid = [_is_valid(p, nodata) for p in parts]
    if all(v.all() for v in valid) and pixels.dtype.kind != "f":
        return _integer_mean(parts)
    total = np.sum([np.where(v, p, 0).astype(np.float64) for p, v in zip(parts, valid, strict=True)], axis=0)
    count = np.sum(valid, axis=0)
    mean = total / np.maximum(count, 1)
    if pixels.dtype.kind != "f":
        mean = np.floor(mean + 0.5)
    empty = np.nan if nodata is None else nodata
    return np.where(count == 0, empty, mean).astype(pixels.dtype)


def _integer_mean(parts: list[Array]) -> Array:
    dtype = parts[0].dtype
    if dtype.itemsize > 4:
        exact: Array = np.sum([p.astype(object) for p in parts], axis=0)
        mean: Array = ((exact + 2) // 4).astype(dtype)
        return mean
    wide = np.dtype(f"{'u' if dtype.kind == 'u' else 'i'}{dtype.itemsize * 2}")
    total = parts[0].astype(wide)
    for part in parts[1:]:
        total += part
    total += 2
    total >>= 2
    return total.astype(dtype)


def _is_valid(pixels: Array, nodata: float | None) -> NDArray[np.bool_]:
    valid = np.ones(pixels.shape, bool) if nodata is None or nodata != nodata else pixels != nodata
    return valid & ~np.isnan(pixels) if pixels.dtype.kind == "f" else valid


def halve_labels(labels: Array) -> Array:
    """The commonest label of each cell, of equals the one that comes first in row-major order: never a new label."""
    a, b, c, d = _quarters(labels)
    out = a.copy()
    lone = (a != b) & (a != c) & (a != d)
    np.copyto(out, b, where=lone & ((b == c) | (b == d)))
    np.copyto(out, c, where=lone & (c == d) & (b != c))
    return out
