"""Sparse tables of the values that lie over each other in two maps: integer counts that add over boxes and images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.packing import pack, unpack

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Pairs of values and in how many pixels each occurs, sorted by truth and then prediction, each pair once."""

    prediction: Array
    """Values of the prediction, uint64 (n,); int64 where the map's dtype is signed."""
    truth: Array
    """Values of the truth, likewise."""
    counts: NDArray[np.int64]
    """Pixels, above 0, (n,)."""

    def __len__(self) -> int:
        return len(self.counts)

    def where(self, kept: NDArray[np.bool]) -> Overlaps:
        """Some of the pairs."""
        return Overlaps(self.prediction[kept], self.truth[kept], self.counts[kept])

    def to_bytes(self) -> bytes:
        """As a file in memory; `from_bytes` gives the table back."""
        return pack({"prediction": self.prediction, "truth": self.truth, "counts": self.counts})

    @classmethod
    def from_bytes(cls, data: bytes) -> Overlaps:
        return cls(**unpack(data))


def count_overlaps(prediction: Array, truth: Array) -> Overlaps:
    """The table of two maps of integers of one shape.

    >>> table = count_overlaps(np.uint8([1, 1, 2]), np.uint8([1, 1, 0]))
    >>> table.truth.tolist(), table.prediction.tolist(), table.counts.tolist()
    ([0, 1], [2, 1], [1, 2])
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction is {prediction.shape}, truth {truth.shape}: must be the same")
    if prediction.dtype.kind not in "iu" or truth.dtype.kind not in "iu":
        raise ValueError(f"prediction is {prediction.dtype}, truth {truth.dtype}: must be integers")
    from tilekit.compiled_scores import count_byte_pairs, count_runs

    if truth.dtype == prediction.dtype == np.uint8:
        table = count_byte_pairs(np.ascontiguousarray(truth).reshape(-1), np.ascontiguousarray(prediction).reshape(-1))
        t, p = np.nonzero(table)
        return Overlaps(p.astype(np.uint64), t.astype(np.uint64), table[t, p])
    width, row = truth.shape[-1] if truth.ndim and truth.size else 1, 0
    first, second = (np.ascontiguousarray(pixels).reshape(-1, width) for pixels in (truth, prediction))
    parts: list[Overlaps] = []
    while row < len(first) or not parts:
        (t, p, counts), row = count_runs(first, second, row)
        parts.append(_summed(_as(prediction, p), _as(truth, t), counts.astype(np.int64)))
    return sum_overlaps(parts)


def _as(pixels: Array, bits: NDArray[np.uint64]) -> Array:
    return bits.astype(np.int64 if pixels.dtype.kind == "i" else np.uint64)


def sum_overlaps(tables: Iterable[Overlaps]) -> Overlaps:
    """The table of several boxes together; of none, an empty one.

    >>> table = count_overlaps(np.uint8([1, 2]), np.uint8([1, 2]))
    >>> sum_overlaps([table, table]).counts.tolist()
    [2, 2]
    """
    parts = list(tables)
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Overlaps(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int64))
    return _summed(*(np.concatenate([getattr(t, name) for t in parts]) for name in ("prediction", "truth", "counts")))


def _summed(prediction: Array, truth: Array, counts: NDArray[np.int64]) -> Overlaps:
    """Sorted, equal pairs put together."""
    order = _order(prediction, truth)
    prediction, truth, counts = prediction[order], truth[order], counts[order]
    first = np.ones(len(counts), np.bool)
    first[1:] = (prediction[1:] != prediction[:-1]) | (truth[1:] != truth[:-1])
    if first.all():
        return Overlaps(prediction, truth, counts)
    starts = np.flatnonzero(first)
    return Overlaps(prediction[starts], truth[starts], np.add.reduceat(counts, starts))


def _order(prediction: Array, truth: Array) -> NDArray[np.intp]:
    """Positions in the order of truth and then prediction; by one key where both fit, which is three times as fast."""
    small = all(not v.size or (int(v.min()) >= 0 and int(v.max()) < 1 << 32) for v in (prediction, truth))
    if small:
        return np.argsort((truth.astype(np.uint64) << np.uint64(32)) | prediction.astype(np.uint64))
    return np.lexsort((prediction, truth))


def merged(table: Overlaps) -> Overlaps:
    """A table of rows in any order, in which a pair may occur several times, as a table has them."""
    return _summed(table.prediction, table.truth, table.counts)
