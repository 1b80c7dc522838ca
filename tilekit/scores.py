"""Scores of class maps: integer counts that add over boxes, images and machines, divided once at the end.

Definitions, sources and empty cases: docs/scores.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.overlaps import Overlaps, count_overlaps
from tilekit.predictor import VOID

Counts = NDArray[np.int64]
"""Confusion (k, k + 1) in pixels: row = class of the truth, column = class of the prediction, the last of them void.

Counts of parts add. A square one (k, k) does where nothing predicted is void.
"""


def confusion(
    prediction: NDArray[np.uint8], truth: NDArray[np.uint8], n_classes: int, *, void: int | None = VOID
) -> Counts:
    """Count the pixels of two class maps of one shape; `void` in the truth counts nowhere, in the prediction as wrong.

    ValueError where a pixel has a class of n_classes or above.

    >>> confusion(np.uint8([0, 1, 255, 1]), np.uint8([0, 1, 0, 255]), 2).tolist()
    [[1, 0, 1], [0, 1, 0]]
    """
    for name, classes in (("prediction", prediction), ("truth", truth)):
        if classes.dtype != np.uint8 or classes.shape != truth.shape:
            raise ValueError(f"{name} is {classes.dtype} {classes.shape}, must be uint8 {truth.shape}")
    if not 1 <= n_classes <= 256:
        raise ValueError(f"{n_classes} classes, must be 1 to 256")
    return confusion_of(count_overlaps(prediction, truth), n_classes, void=void)


def confusion_of(table: Overlaps, n_classes: int, *, void: int | None = VOID) -> Counts:
    """The confusion of a table of overlaps whose values are classes."""
    if void is not None:
        table = table.where(table.truth != void)
    counts = np.zeros((n_classes, n_classes + 1), np.int64)
    is_void = np.zeros(len(table), np.bool) if void is None else table.prediction == void
    highest = max(highest_class(table.truth), highest_class(table.prediction[~is_void]))
    if highest >= n_classes:
        raise ValueError(f"a pixel has class {highest}, must be below {n_classes}, or void ({void})")
    column = np.where(is_void, n_classes, table.prediction.astype(np.int64))
    counts[table.truth.astype(np.int64), column] = table.counts
    return counts


def highest_class(values: NDArray[Any]) -> int:
    """The largest of these values, -1 where there are none."""
    return int(values.max()) if values.size else -1


def iou(counts: Counts) -> NDArray[np.float64]:
    """Intersection over union of each class, float64 (k,); NaN where a class occurs in neither map.

    >>> iou(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])).tolist()
    [0.5, 0.5, nan]
    """
    both, wanted, found = _parts(counts)
    return _ratio(both, wanted + found - both)


def mean_iou(counts: Counts, *, background: bool = True) -> float:
    """Mean IoU of the classes that occur in either map; NaN where none does. Class 0 left out without background."""
    return _mean(iou(counts)[0 if background else 1 :])


def pixel_accuracy(counts: Counts) -> float:
    """Share of the counted pixels whose class is right; NaN where nothing was counted."""
    return float(_ratio(np.trace(counts), counts.sum()))


def class_scores(counts: Counts) -> dict[str, Any]:
    """Every score of a confusion, NaN where it has no value: single numbers, and lists with a number per class."""
    both, wanted, found = _parts(counts)
    recall, each = _ratio(both, wanted), iou(counts)
    present = wanted > 0
    return {
        "confusion": counts[:, : len(counts)].tolist(),
        "unpredicted": counts[:, len(counts) :].sum(1).tolist(),
        "pixels": int(counts.sum()),
        "iou": each.tolist(),
        "miou": _mean(each),
        "miou_foreground": mean_iou(counts, background=False),
        "frequency_weighted_iou": float(_ratio((wanted[present] * each[present]).sum(), wanted.sum())),
        "pixel_accuracy": pixel_accuracy(counts),
        "mean_class_accuracy": _mean(recall),
        "precision": _ratio(both, found).tolist(),
        "recall": recall.tolist(),
        "dice": _ratio(2 * both, wanted + found).tolist(),
    }


def _parts(counts: Counts) -> tuple[Counts, Counts, Counts]:
    """Pixels per class: right, of the truth, of the prediction."""
    return np.diagonal(counts), counts.sum(1), counts[:, : len(counts)].sum(0)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the values that are not NaN; NaN where there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _ratio(part: Any, whole: Any) -> NDArray[np.float64]:
    """part / whole in float64, NaN for 0 / 0."""
    whole = np.asarray(whole, np.float64)
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return ratio
