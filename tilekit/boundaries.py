"""Scores of boundary maps as the EM segmentation challenge (ISBI 2012) has them, slice by slice.

Inside is 1, membrane 0: the inside is 4-connected, membranes 8-connected, and beyond the slice lies membrane. What is
counted adds over slices, and is divided at the end. Definitions, sources and empty cases: docs/scores.md.
"""

from __future__ import annotations

from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.object_scores import count_objects
from tilekit.overlaps import count_overlaps

Array = NDArray[Any]
Binary = NDArray[np.uint8]
Counts = NDArray[np.float64]
"""Sums of slices, float64 (threshold, 18), a column per name of COLUMNS."""
THRESHOLDS = tuple(accumulate([0.1] * 10, initial=0.0))
"""0 to 1 by 0.1, added up as Fiji does: the last is a little below 1, so that 1 is above all of them."""
COLUMNS = (
    *("pixels", "squares"),
    *("pixel_both", "pixel_truth", "pixel_prediction"),
    *("isbi_both", "isbi_truth", "isbi_prediction"),
    *("adapted_both", "adapted_truth", "adapted_prediction"),
    *("thin_both", "thin_truth", "thin_prediction"),
    *("warped", "splits", "mergers", "slices"),
)
CIRCLE = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
"""Neighbors in the order of the bits of `compiled_scores.neighborhood`."""


def count_slice(prediction: Array, truth: Array, *, is_warped: bool = True) -> Counts:
    """The sums of one slice: probabilities of the inside in [0, 1], and a truth that is nonzero inside, both (y, x).

    Warping takes most of the time, the more of it the worse the prediction; without it what it counts is 0.
    """
    if prediction.shape != truth.shape or prediction.ndim != 2:
        raise ValueError(f"prediction is {prediction.shape}, truth {truth.shape}: must be one (y, x)")
    inside = (truth > 0).astype(np.uint8)
    prediction = prediction.astype(np.float64)
    objects, thin_objects = label(inside), label(thin(inside))
    is_binary = bool(((prediction == 0) | (prediction == 1)).all())
    rows = []
    for threshold in THRESHOLDS[: 1 if is_binary else None]:
        cut = (prediction > threshold).astype(np.uint8)
        found = count_objects(count_overlaps(label(cut), objects))
        warped = warp(inside, cut, np.abs(prediction - threshold)) if is_warped else cut
        row = [inside.size, ((prediction - inside) ** 2).sum()]
        row += [(inside & cut).sum(), inside.sum(), cut.sum()]
        row += [found.isbi_both, found.isbi_truth, found.isbi_prediction]
        row += [found.adapted_both, found.adapted_truth, found.adapted_prediction]
        row += _thin_pairs(label(thin(cut)), thin_objects)
        row += [(warped != cut).sum(), *splits_and_mergers(warped, cut), 1]
        rows.append(row)
    return np.array(rows * len(THRESHOLDS) if is_binary else rows, np.float64)


def counts_of(data: bytes) -> Counts:
    """The sums whose bytes these are."""
    return np.frombuffer(data, np.float64).reshape(len(THRESHOLDS), len(COLUMNS))


def boundary_scores(counts: Counts) -> dict[str, float]:
    """Every score of the sums of one or more slices, each at its best threshold; NaN where it has no value."""
    c = dict(zip(COLUMNS, counts.T, strict=True))
    pixels = c["pixels"][0]
    tears = c["splits"] + c["mergers"]
    best = int(tears.argmin())
    return {
        "slices": int(c["slices"][0]),
        "pixel_error": _error(c["pixel_both"], c["pixel_truth"], c["pixel_prediction"]),
        "pixel_error_squared": float(c["squares"][0] / pixels),
        "rand_isbi2012": _error(c["isbi_both"], c["isbi_truth"], c["isbi_prediction"]),
        "adapted_rand": _error(c["adapted_both"], c["adapted_truth"], c["adapted_prediction"]),
        "v_rand_thin": _error(c["thin_both"], c["thin_truth"], c["thin_prediction"]),
        "warping_error": float(c["warped"].min() / pixels),
        "warping_isbi2012": float(tears[best] / pixels),
        "splits": int(c["splits"][best]),
        "mergers": int(c["mergers"][best]),
    }


def _error(both: Array, truth: Array, prediction: Array) -> float:
    """1 - the best F-score; 1 where the prediction is empty, NaN where the truth is too, at every threshold."""
    whole = truth + prediction
    scores = np.divide(2 * both, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return float(1 - np.nanmax(scores)) if (whole > 0).any() else float("nan")


def label(inside: Binary) -> NDArray[np.int32]:
    """The 4-connected components of a slice, numbered from 1."""
    from tilekit.compiled_scores import label_components

    return label_components(inside, 4)


def thin(inside: Binary) -> Binary:
    """The slice with its membranes thinned to lines of one pixel, layer by layer, and its topology as it was."""
    from tilekit.compiled_scores import thin_background

    padded = np.pad(inside, 1)
    thin_background(padded, simple_points())
    return padded[1:-1, 1:-1]


def warp(truth: Binary, prediction: Binary, order: Array) -> Binary:
    """The truth after flipping, one by one, pixels that differ from the prediction and leave the topology alone.

    Largest `order` first (Fiji takes the distance from the threshold), then by column; again until none is left.
    """
    from tilekit.compiled_scores import flip_simple_points

    xs, ys = np.nonzero((truth != prediction).T)
    first = np.argsort(-order[ys, xs], kind="stable")
    padded = np.pad(truth, 1)
    flip_simple_points(padded, ys[first] + 1, xs[first] + 1, simple_points())
    return padded[1:-1, 1:-1]


def splits_and_mergers(warped: Binary, prediction: Binary) -> tuple[int, int]:
    """How many splits and mergers tell a warped truth from the prediction, adjacent pixels of one kind being one.

    A pixel splits where it is inside, and outside an object falls apart or others touch it; it merges where it is
    membrane and has two objects about it. Splits are 4-connected, mergers 8-connected, as in Fiji.
    """
    from tilekit.compiled_scores import label_components, parts_without

    padded, objects = np.pad(warped, 1), np.pad(label(warped), 1)
    marks = np.zeros((2, *warped.shape), np.uint8)
    stamp, stack = np.zeros(padded.shape, np.int32), np.empty((padded.size, 2), np.int32)
    for number, (y, x) in enumerate(np.argwhere(warped != prediction).tolist()):
        about = {int(objects[y + 1 + dy, x + 1 + dx]) for dy, dx in CIRCLE}
        if len(about) > 2:
            marks[0 if warped[y, x] else 1, y, x] = 1
        elif len(about) == 2 and warped[y, x] and parts_without(padded, y + 1, x + 1, stamp, 8 * number, stack) > 1:
            marks[0, y, x] = 1
    return int(label_components(marks[0], 4).max()), int(label_components(marks[1], 8).max())


@cache
def simple_points() -> NDArray[np.bool]:
    """For each of the 256 neighborhoods whether flipping its center leaves the topology alone, bool (256,).

    It does where the inside about it has one 4-connected part that touches the center by a side, and so has the
    membrane one 8-connected part (Bertrand).
    """
    table = np.zeros(256, np.bool)
    for bits in range(256):
        values = [(bits >> k) & 1 for k in range(8)]
        table[bits] = _parts(values, 1, 1) == 1 and _parts(values, 0, 2) == 1
    return table


def _parts(values: list[int], value: int, reach: int) -> int:
    """Parts of the circle of neighbors with this value: `reach` 1 joins by sides, and counts what touches the center
    by a side; 2 joins corners too."""
    members = {k for k in range(8) if values[k] == value}
    found = 0
    while members:
        part, front = set(), [members.pop()]
        while front:
            k = front.pop()
            part.add(k)
            near = {j for j in members if _distance(CIRCLE[j], CIRCLE[k]) <= reach}
            members -= near
            front += near
        found += reach == 2 or any(0 in CIRCLE[k] for k in part)
    return found


def _distance(a: tuple[int, int], b: tuple[int, int]) -> int:
    """Squared distance of two pixels: 1 by a side, 2 by a corner."""
    return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2


def _thin_pairs(prediction: Array, truth: Array) -> list[float]:
    """Pairs of pixels, each with itself too; a pixel that the prediction calls membrane is an object of its own."""
    table = count_overlaps(prediction, truth)
    table = table.where(table.truth > 0)
    is_alone = table.prediction == 0
    alone, kept = float(table.counts[is_alone].sum()), table.where(~is_alone)
    both = alone + _squares(kept.counts)
    return [both, _squares(np.bincount(truth.ravel())[1:]), alone + _squares(_sizes(kept.prediction, kept.counts))]


def _sizes(values: Array, counts: Array) -> Array:
    return np.bincount(values.astype(np.int64), weights=counts)


def _squares(sizes: Array) -> float:
    return float((sizes.astype(np.float64) ** 2).sum())
