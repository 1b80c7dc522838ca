"""Scores of object ids from a table of overlaps; id 0 is background. Sums that add over images, divided at the end.

Definitions, sources and empty cases: docs/scores.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.overlaps import Overlaps

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class ObjectCounts:
    """What the scores of an image are made of; those of several images add."""

    truth_objects: int = 0
    predicted_objects: int = 0
    true_positives: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(THRESHOLDS), np.int64))
    """Objects matched at each of THRESHOLDS."""
    seg: float = 0.0
    """Sum over the truth's objects of the Jaccard index, 0 where less than half is covered."""
    panoptic_iou: float = 0.0
    """Sum over the pairs with an IoU above a half, void left out as panopticapi does."""
    panoptic_tp: int = 0
    panoptic_fp: int = 0
    panoptic_fn: int = 0
    adapted_both: float = 0.0
    """Pairs of pixels of one object in both maps; background of the prediction is one object (scikit-image)."""
    adapted_truth: float = 0.0
    adapted_prediction: float = 0.0
    isbi_both: float = 0.0
    """The same with the prediction's background dropped (Fiji)."""
    isbi_truth: float = 0.0
    isbi_prediction: float = 0.0
    split_bits: float = 0.0
    """Conditional entropy of the prediction given the truth, times pixels; background is one object."""
    merge_bits: float = 0.0
    pixels: int = 0

    def __add__(self, other: ObjectCounts) -> ObjectCounts:
        return ObjectCounts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


def count_objects(table: Overlaps, *, void: int | None = None) -> ObjectCounts:
    """The sums of one image. What is `void` in the truth counts nowhere, but decides panoptic false positives."""
    inside = table if void is None else table.where(table.truth != void)
    truth = _Areas(inside.truth, inside.counts)
    prediction = _Areas(inside.prediction, inside.counts)
    wanted, found = truth.of_rows, prediction.of_rows
    are_objects = (inside.truth > 0) & (inside.prediction > 0)
    shared = inside.where(are_objects)
    ious = shared.counts / (wanted + found - inside.counts)[are_objects]
    panoptic = ious > 0.5
    ignored = _mostly_void(table, prediction, shared.where(panoptic).prediction, void)
    n_truth, n_predicted = truth.n_objects, prediction.n_objects
    n_matched = int(panoptic.sum())
    return ObjectCounts(
        truth_objects=n_truth,
        predicted_objects=n_predicted,
        true_positives=_true_positives(shared, ious),
        seg=float(ious[2 * shared.counts > wanted[are_objects]].sum()),
        panoptic_iou=float(ious[panoptic].sum()),
        panoptic_tp=n_matched,
        panoptic_fp=n_predicted - n_matched - ignored,
        panoptic_fn=n_truth - n_matched,
        **_rand_counts(inside, truth, prediction),
        split_bits=_bits(inside.counts, wanted),
        merge_bits=_bits(inside.counts, found),
        pixels=int(inside.counts.sum()),
    )


class _Areas:
    """Pixels of each value of one map."""

    def __init__(self, values: Array, counts: NDArray[np.int64]) -> None:
        self.values, self.rows = np.unique(values, return_inverse=True)
        self.counts = counts
        self.pixels = self.within(np.ones(len(counts), np.bool))

    def within(self, kept: NDArray[np.bool]) -> NDArray[np.int64]:
        """Pixels of each value in some rows of the table; below 2^53 float64 adds them exactly."""
        sums = np.bincount(self.rows[kept], weights=self.counts[kept], minlength=len(self.values))
        return sums.astype(np.int64)

    @property
    def of_rows(self) -> NDArray[np.int64]:
        """For each row of the table the pixels of its value."""
        return self.pixels[self.rows]

    def of(self, values: Array) -> NDArray[np.int64]:
        """Pixels of these values, each of which occurs."""
        return self.pixels[np.searchsorted(self.values, values)] if values.size else np.zeros(0, np.int64)

    @property
    def n_objects(self) -> int:
        return int((self.values > 0).sum())


def _true_positives(shared: Overlaps, ious: NDArray[np.float64]) -> NDArray[np.int64]:
    """Objects matched one to one at each threshold.

    Above a half an object has one partner at most. At a half it may have two, each exactly half of it and then without
    another partner: of these one counts.
    """
    found = []
    for threshold in THRESHOLDS:
        good = ious >= threshold
        n = int(good.sum())
        if threshold <= 0.5:
            n = len(np.unique(shared.truth[good])) + len(np.unique(shared.prediction[good])) - n
        found.append(n)
    return np.array(found, np.int64)


def _mostly_void(table: Overlaps, prediction: _Areas, matched: Array, void: int | None) -> int:
    """Unmatched predicted objects, more than half of which lie on the truth's void (but not all of them)."""
    if void is None:
        return 0
    on_void = table.where((table.truth == void) & np.isin(table.prediction, prediction.values))
    on_void = on_void.where((on_void.prediction > 0) & ~np.isin(on_void.prediction, matched))
    return int((on_void.counts > prediction.of(on_void.prediction)).sum())


def _rand_counts(table: Overlaps, truth: _Areas, prediction: _Areas) -> dict[str, float]:
    """Pairs of pixels of the truth's foreground, twice over."""
    kept = table.truth > 0
    dropped = kept & (table.prediction > 0)
    wanted = _pairs(truth.within(kept))
    return {
        "adapted_both": _pairs(table.counts[kept]),
        "adapted_truth": wanted,
        "adapted_prediction": _pairs(prediction.within(kept)),
        "isbi_both": _pairs(table.counts[dropped]),
        "isbi_truth": wanted,
        "isbi_prediction": _pairs(prediction.within(dropped)),
    }


def _pairs(sizes: NDArray[np.int64]) -> float:
    """Ordered pairs of different pixels within groups of these sizes, in float64: 10^12 squared fits no integer."""
    wide = sizes.astype(np.float64)
    return float((wide * (wide - 1)).sum())


def _bits(counts: NDArray[np.int64], given: NDArray[np.int64]) -> float:
    return float(-(counts * np.log2(counts / given)).sum()) + 0.0


def object_scores(counts: ObjectCounts) -> dict[str, Any]:
    """Every score, NaN where it has no value; precision, recall, F1 and AP are lists, a number per threshold."""
    c = counts
    tp = c.true_positives.astype(np.float64)
    fp, fn = c.predicted_objects - tp, c.truth_objects - tp
    recognized = c.panoptic_tp + c.panoptic_fp / 2 + c.panoptic_fn / 2
    ap = [_over(t, t + p + n) for t, p, n in zip(tp, fp, fn, strict=True)]
    return {
        "truth_objects": c.truth_objects,
        "predicted_objects": c.predicted_objects,
        "seg": _over(c.seg, c.truth_objects),
        "thresholds": list(THRESHOLDS),
        "true_positives": c.true_positives.tolist(),
        "object_precision": [_over(t, c.predicted_objects) for t in tp],
        "object_recall": [_over(t, c.truth_objects) for t in tp],
        "f1": [_over(2 * t, 2 * t + p + n) for t, p, n in zip(tp, fp, fn, strict=True)],
        "ap": ap,
        "mean_ap": float(np.mean(ap)),
        "panoptic_quality": _over(c.panoptic_iou, recognized),
        "segmentation_quality": _over(c.panoptic_iou, c.panoptic_tp),
        "recognition_quality": _over(c.panoptic_tp, recognized),
        "vi_split": _over(c.split_bits, c.pixels),
        "vi_merge": _over(c.merge_bits, c.pixels),
        "adapted_rand": 1 - _over(2 * c.adapted_both, c.adapted_truth + c.adapted_prediction),
        "rand_isbi2012": 1 - _over(2 * c.isbi_both, c.isbi_truth + c.isbi_prediction),
    }


def _over(part: float, whole: float) -> float:
    """part / whole, NaN for 0 / 0."""
    return float(part) / float(whole) if whole else float("nan")
