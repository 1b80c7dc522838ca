"""DOOR numba: loops over pixels that numpy would take several passes for. Imported by the first block, not before.

Compiled once per machine and kept beside this file, or in the user's cache folder where that cannot be written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]
Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """A loop that is compiled when it is first called with arguments of these types."""
    try:
        return cast(Loop, njit(cache=True, nogil=True)(loop))
    except RuntimeError:  # no folder can be written: compiled anew in every process
        return cast(Loop, njit(nogil=True)(loop))


WORD = 64
"""Bytes that `places_of_ones` takes at once; its argument is a multiple long."""
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
BIT = np.array([i for _, i in sorted(((0x03F79D71B4CB0A89 << i) % (1 << 64) >> 58, i) for i in range(64))], np.uint64)
"""The number of the only bit of a word, by the upper six bits of its product with the de Bruijn sequence."""


@compiled
def places_of_ones(ones: NDArray[np.uint8], places: NDArray[np.int32]) -> int:
    """Where the ones lie among zeros, written to `places` (as long as `ones`); how many there are.

    Each byte is a bit of a word, of which the lowest is taken away until none is left: time goes with the ones. Places
    are unsigned, as numba looks whether others are negative.
    """
    one, eight, gather = np.uint64(1), np.uint64(8), np.uint64(0x0102040810204080)
    words, n = ones.view(np.uint64), np.uint64(0)
    for i in range(np.uint64(0), np.uint64(words.size), eight):
        bits = np.uint64(0)
        for k in range(eight):
            bits |= ((words[i + k] * gather) >> np.uint64(56)) << (k * eight)
        while bits:
            places[n] = i * eight + BIT[((bits & (~bits + one)) * DE_BRUIJN) >> np.uint64(58)]
            n += one
            bits &= bits - one
    return int(n)


@compiled
def count_words(words: NDArray[np.uint16]) -> NDArray[np.int64]:
    """How often each of the 65,536 values occurs in at most 2^32 words; two tables, as equal neighbors would wait."""
    even = np.zeros(1 << 16, np.uint32)
    odd = np.zeros(1 << 16, np.uint32)
    for i in range(words.size // 2):
        even[words[2 * i]] += np.uint32(1)
        odd[words[2 * i + 1]] += np.uint32(1)
    counts = even.astype(np.int64) + odd
    if words.size % 2:
        counts[words[-1]] += 1
    return counts


@compiled
def mean_cells(pixels: Array, out: Array) -> None:
    """Integers of at most 32 bits (n, y, x) halved to their cells' means, halves rounded up."""
    n, height, width = pixels.shape
    for i in range(n):
        for y in range(out.shape[1]):
            upper, lower = pixels[i, 2 * y], pixels[i, min(2 * y + 1, height - 1)]
            for x in range(width // 2):
                left = np.int64(upper[2 * x]) + np.int64(lower[2 * x])
                right = np.int64(upper[2 * x + 1]) + np.int64(lower[2 * x + 1])
                out[i, y, x] = (left + right + 2) >> 2
            if width % 2:
                out[i, y, -1] = (np.int64(upper[-1]) + np.int64(lower[-1]) + 1) >> 1


@compiled
def valid_mean_cells(pixels: Array, nodata: float, whole: bool, out: Array) -> None:
    """Pixels (n, y, x) halved to the means of what is neither NaN nor nodata; `whole` rounds them, halves up.

    Nodata stands where a cell has nothing valid. Sums are float64, in row-major order.
    """
    n, height, width = pixels.shape
    for i in range(n):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                total, count = 0.0, 0
                for v in (2 * y, min(2 * y + 1, height - 1)):
                    for u in (2 * x, min(2 * x + 1, width - 1)):
                        value = pixels[i, v, u]
                        if value == value and value != nodata:
                            total += value
                            count += 1
                if count == 0:
                    out[i, y, x] = nodata
                elif whole:
                    out[i, y, x] = np.floor(total / count + 0.5)
                else:
                    out[i, y, x] = total / count


@compiled
def label_cells(labels: Array, out: Array) -> None:
    """Labels (n, y, x) halved to the commonest of each cell, of equals the first in row-major order."""
    n, height, width = labels.shape
    for i in range(n):
        for y in range(out.shape[1]):
            upper, lower = labels[i, 2 * y], labels[i, min(2 * y + 1, height - 1)]
            for x in range(width // 2):  # without a branch, so that several cells are done at once
                a, b, c, d = upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1]
                other = c if c == d else a
                other = b if (b == c) | (b == d) else other
                out[i, y, x] = a if (a == b) | (a == c) | (a == d) else other
            if width % 2:
                out[i, y, -1] = upper[-1]
