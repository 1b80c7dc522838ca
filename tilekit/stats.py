"""Whole-image statistics as numbers that add exactly: the same for every order in which blocks arrive.

A histogram has one bin per value below 256, and bins of 8 significant bits (1/128 of the value) above; sums are exact
rationals. For pixels of 8 and 16 bits the sums are those of the pixels, whatever the blocks; for larger integers and
floats each block's mean is rounded to float64 once, so that other blocks may change its last digits.
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
    flat = np.ascontiguousarray(pixels).ravel()
    if flat.dtype.kind in "iu" and flat.dtype.itemsize <= 2:
        return _small_integer_stats(flat, nodata)
    if flat.dtype.kind == "f":
        flat = flat[np.isfinite(flat)]
    if nodata is not None and nodata == nodata:
        flat = flat[flat != nodata]
    if not flat.size:
        return ChannelStats()
    counts = _count((_bin_keys(flat) + (1 << 15)).astype(np.uint16))
    keys = np.flatnonzero(counts)
    bins = dict(zip((keys - (1 << 15)).tolist(), counts[keys].tolist(), strict=True))
    wide = flat.astype(np.float64)
    mean = wide.mean()
    wide -= mean  # squares of what is left: large values of small spread keep their digits, and no variance is negative
    exact = Fraction(float(mean))
    total, squares = exact * flat.size, Fraction(float(np.dot(wide, wide))) + exact * exact * flat.size
    return ChannelStats(flat.size, total, squares, float(flat.min()), float(flat.max()), bins)


def _small_integer_stats(flat: Array, nodata: float | None) -> ChannelStats:
    """Counts of every value of 8 or 16 bits, and from them all the rest, exactly."""
    counts = count_bytes(flat) if flat.dtype.itemsize == 1 else _count(flat.view(np.uint16))
    values = np.arange(counts.size, dtype=f"u{flat.dtype.itemsize}").view(flat.dtype).astype(np.int64)
    if nodata is not None:
        counts[values == nodata] = 0
    present = np.flatnonzero(counts)
    if not present.size:
        return ChannelStats()
    values, counts = values[present], counts[present]
    bins: dict[int, int] = {}
    for key, n in zip(_bin_keys(values).tolist(), counts.tolist(), strict=True):
        bins[key] = bins.get(key, 0) + n
    pairs = list(zip(values.tolist(), counts.tolist(), strict=True))
    total, squares = sum(v * n for v, n in pairs), sum(v * v * n for v, n in pairs)
    low, high = float(values.min()), float(values.max())
    return ChannelStats(int(counts.sum()), Fraction(total), Fraction(squares), low, high, bins)


def count_bytes(pixels: Array) -> NDArray[np.int64]:
    """How often each of the 256 values of 8-bit pixels occurs; two pixels at a time is half the work."""
    flat = np.ascontiguousarray(pixels).ravel().view(np.uint8)
    even = flat.size - flat.size % 2
    square = _count(flat[:even].view(np.uint16)).reshape(256, 256)
    counts: NDArray[np.int64] = square.sum(0) + square.sum(1)
    counts[flat[even:]] += 1
    return counts


def _count(words: NDArray[np.uint16]) -> NDArray[np.int64]:
    """How often each value of 16 bits occurs."""
    from tilekit.compiled import count_words

    return count_words(words)


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
