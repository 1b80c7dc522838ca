"""Scores of class maps: integer counts that add over boxes, images and machines, divided once at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.predictor import VOID

PIECE = 1 << 16
"""Pixels counted at once: numpy's bincount turns its input into 8-byte integers, which then fit a core's cache."""

Counts = NDArray[np.int64]
"""Confusion (k, k): row = class of the truth, column = class of the prediction, in pixels. Counts of parts add."""


def confusion(
    prediction: NDArray[np.uint8], truth: NDArray[np.uint8], n_classes: int, *, void: int | None = VOID
) -> Counts:
    """Count the pixels of two class maps of one shape; those that are `void` in either map are left out.

    ValueError where a pixel has a class of n_classes or above.

    >>> confusion(np.uint8([0, 1, 1, 255]), np.uint8([0, 1, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    for name, classes in (("prediction", prediction), ("truth", truth)):
        if classes.dtype != np.uint8 or classes.shape != truth.shape:
            raise ValueError(f"{name} is {classes.dtype} {classes.shape}, must be uint8 {truth.shape}")
    if not 1 <= n_classes <= 256:
        raise ValueError(f"{n_classes} classes, must be 1 to 256")
    found, wanted = prediction.reshape(-1), truth.reshape(-1)
    counts = np.zeros(1 << 16, np.int64)
    for start in range(0, found.size, PIECE):
        key = wanted[start : start + PIECE].astype(np.uint16) << 8
        key |= found[start : start + PIECE]
        part = np.bincount(key)
        counts[: len(part)] += part
    pairs = counts.reshape(256, 256)
    if void is not None:
        pairs[void] = pairs[:, void] = 0
    kept = pairs[:n_classes, :n_classes].copy()
    if int(kept.sum()) != int(pairs.sum()):
        highest = int(np.flatnonzero(pairs.any(0) | pairs.any(1))[-1])
        raise ValueError(f"a pixel has class {highest}, must be below {n_classes}, or void ({void})")
    return kept


def iou(counts: Counts) -> NDArray[np.float64]:
    """Intersection over union of each class, float64 (k,); NaN where a class occurs in neither map.

    >>> iou(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])).tolist()
    [0.5, 0.5, nan]
    """
    both = np.diagonal(counts)
    either = counts.sum(0) + counts.sum(1) - both
    return _ratio(both, either)


def mean_iou(counts: Counts) -> float:
    """Mean IoU of the classes that occur in either map; NaN where none does."""
    each = iou(counts)
    known = each[~np.isnan(each)]
    return float(known.mean()) if known.size else float("nan")


def pixel_accuracy(counts: Counts) -> float:
    """Share of the counted pixels whose class is right; NaN where nothing was counted."""
    return float(_ratio(np.trace(counts), counts.sum()))


def _ratio(part: Any, whole: Any) -> NDArray[np.float64]:
    """part / whole in float64, NaN for 0 / 0."""
    whole = np.asarray(whole, np.float64)
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return ratio
