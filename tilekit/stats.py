"""Whole-image statistics as numbers that add exactly: the same for every block size, order and worker count.

A histogram has one bin per value for 8-bit pixels, and bins of 8 significant bits (1/128 of the value) for all others;
sums are exact rationals, so that no rounding depends on the order in which blocks arrive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
PERCENTILES = (0.1, 1, 2, 5, 25, 50, 75, 95, 98, 99, 99.9)


@dataclass
class ChannelStats:
    """Addable statistics of one channel; nodata is left out."""

    count: int = 0
    total: Fraction = Fraction(0)
    squares: Fraction = Fraction(0)
    low: float = float("inf")
    high: float = float("-inf")
    bins: dict[int, int] = field(default_factory=dict)
    """Number of pixels by bin; `bin_value` gives a bin's lowest value."""

    def add(self, other: ChannelStats) -> None:
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        for key, n in other.bins.items():
            self.bins[key] = self.bins.get(key, 0) + n

    @property
    def mean(self) -> float:
        return float(self.total / self.count) if self.count else float("nan")

    @property
    def std(self) -> float:
        if not self.count:
            return float("nan")
        return sqrt(float(self.squares / self.count - (self.total / self.count) ** 2))

    def percentile(self, q: float) -> float:
        """Lowest value of the bin in which q percent of the pixels are reached; exact for 8-bit pixels."""
        if not self.count:
            return float("nan")
        reached, target = 0, q / 100 * self.count
        for key in sorted(self.bins):
            reached += self.bins[key]
            if reached >= target:
                break
        return min(max(bin_value(key), self.low), self.high)

    def to_json(self) -> dict[str, Any]:
        keys = sorted(self.bins)
        return {
            "count": self.count,
            "total": str(self.total),
            "squares": str(self.squares),
            "range": [self.low, self.high] if self.count else None,
            "bins": keys,
            "counts": [self.bins[k] for k in keys],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ChannelStats:
        low, high = data["range"] or (float("inf"), float("-inf"))
        bins = dict(zip(data["bins"], data["counts"], strict=True))
        return cls(data["count"], Fraction(data["total"]), Fraction(data["squares"]), low, high, bins)

    def summary(self) -> dict[str, Any]:
        """What a person asks for: count, mean, std, min, max, percentiles; None where there is no valid pixel."""
        if not self.count:
            return {"count": 0, "mean": None, "std": None, "min": None, "max": None, "percentiles": {}}
        return {
            "count": self.count,
            "mean": self.mean,
            "std": self.std,
            "min": self.low,
            "max": self.high,
            "percentiles": {str(q): self.percentile(q) for q in PERCENTILES},
        }


def channel_stats(pixels: Array, nodata: float | None = None) -> ChannelStats:
    """Statistics of the pixels of one channel (any shape)."""
    if pixels.dtype == np.uint8:
        return _byte_stats(pixels, nodata)
    flat = pixels.ravel()
    if flat.dtype.kind == "f":
        flat = flat[np.isfinite(flat)]
    if nodata is not None and nodata == nodata:
        flat = flat[flat != nodata]
    if not flat.size:
        return ChannelStats()
    keys, counts = np.unique(_bin_keys(flat), return_counts=True)
    if flat.dtype.kind in "iu" and flat.dtype.itemsize <= 2:
        exact = flat.astype(np.int64)
        total, squares = Fraction(int(exact.sum())), Fraction(int(np.dot(exact, exact)))
    else:
        wide = flat.astype(np.float64)
        total, squares = Fraction(float(wide.sum())), Fraction(float(np.dot(wide, wide)))
    bins = dict(zip(keys.tolist(), counts.tolist(), strict=True))
    return ChannelStats(flat.size, total, squares, float(flat.min()), float(flat.max()), bins)


def _byte_stats(pixels: Array, nodata: float | None) -> ChannelStats:
    """Counts of 8-bit pixels, two at a time (half the work of one at a time)."""
    flat = np.ascontiguousarray(pixels).ravel()
    pairs = np.zeros(1 << 16, np.int64)
    step = 1 << 20
    for i in range(0, flat.size - flat.size % 2, step):
        pairs += np.bincount(flat[i : min(i + step, flat.size - flat.size % 2)].view(np.uint16), minlength=1 << 16)
    square = pairs.reshape(256, 256)
    counts = square.sum(0) + square.sum(1)
    if flat.size % 2:
        counts[flat[-1]] += 1
    if nodata is not None and 0 <= nodata <= 255 and nodata == int(nodata):
        counts[int(nodata)] = 0
    values = np.flatnonzero(counts)
    if not values.size:
        return ChannelStats()
    n = counts[values]
    total, squares = int((values * n).sum()), int((values * values * n).sum())
    bins = dict(zip(_bin_keys(values.astype(np.uint8)).tolist(), n.tolist(), strict=True))
    return ChannelStats(int(n.sum()), Fraction(total), Fraction(squares), float(values[0]), float(values[-1]), bins)


def _bin_keys(values: Array) -> NDArray[np.int32]:
    """Upper 16 bits of the value as float32 (sign, exponent, 7 bits of mantissa), in the order of the values."""
    bits = values.astype(np.float32).view(np.int32) >> 16
    return np.where(bits < 0, -(bits & 0x7FFF), bits).astype(np.int32)


def bin_value(key: int) -> float:
    """The value nearest to zero in a bin.

    >>> bin_value(int(_bin_keys(np.array([200], np.uint8))[0]))
    200.0
    """
    magnitude = float(np.array([abs(key) << 16], np.int32).view(np.float32)[0])
    return -magnitude if key < 0 else magnitude
