"""Loops over pixels that weight maps need: the ridge between objects, and the sweep that finds the two nearest of them.

The sweep is separable and exact: of a column, no object but its two nearest can be among the two nearest of a pixel in
another column. It is the distance transform of Saito and Toriwaki (1994), carrying two objects instead of one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.compiled import compiled

Array = NDArray[Any]
NONE = 1 << 30
"""A squared distance beyond all others."""
NOWHERE = 1 << 29
"""A row beyond all others."""
STRIP = 64
"""Rows whose objects below are held at once."""


@compiled
def ridge_pixels(padded: Array, out: Array) -> None:
    """Ids (y, x) less the pixels with another id, not 0, among their 8 neighbors; `padded` has a rim of 1 pixel."""
    for y in range(out.shape[0]):
        upper, own, lower, row = padded[y], padded[y + 1], padded[y + 2], out[y]
        for x in range(row.size):  # without a branch, so that several pixels are done at once
            id_ = own[x + 1]
            differs = (upper[x] != id_) & (upper[x] != 0)
            differs |= (upper[x + 1] != id_) & (upper[x + 1] != 0)
            differs |= (upper[x + 2] != id_) & (upper[x + 2] != 0)
            differs |= (own[x] != id_) & (own[x] != 0)
            differs |= (own[x + 2] != id_) & (own[x + 2] != 0)
            differs |= (lower[x] != id_) & (lower[x] != 0)
            differs |= (lower[x + 1] != id_) & (lower[x + 1] != 0)
            differs |= (lower[x + 2] != id_) & (lower[x + 2] != 0)
            row[x] = 0 if differs else id_


@compiled
def weigh_pixels(
    ids: Array, corner: tuple[int, int], cut: float, w0: float, sigma: float, levels: Any, out: Array
) -> None:
    """Weights (y, x) of the box of `ids` (uint32 or uint64) that begins at `corner`: float32 `out`.

    `levels` are the weights of background and object. The border term is left out where d1 + d2 > cut.
    """
    (top, left), (height, width) = corner, out.shape
    far, half = max(int(cut) - 1, 0), int(cut) // 2
    strip = max(STRIP, far)
    columns = ids.shape[1]
    # Per column the nearest object and the nearest other one, and their rows: on the way down, and below each row.
    above, above_rows = np.zeros((2, columns), ids.dtype), np.full((2, columns), -NOWHERE, np.int32)
    below, below_rows = np.zeros((strip, 2, columns), ids.dtype), np.zeros((strip, 2, columns), np.int32)
    # The two nearest within each column, as seen from one row; padded, so that no neighbor lies outside.
    near, squares = np.zeros((2, columns + 2 * far), ids.dtype), np.full((2, columns + 2 * far), NONE, np.int32)
    seen = np.zeros(columns + 2 * far + 1, np.int32)
    for y in range(max(top - far, 0), top):
        _pass_row(ids[y], y, above, above_rows, above, above_rows)
    for first in range(top, top + height, strip):
        _look_below(ids, first, min(first + strip, top + height), far, below, below_rows)
        for y in range(first, min(first + strip, top + height)):
            _pass_row(ids[y], y, above, above_rows, above, above_rows)
            i = y - first
            _merge_columns(y, far, above, above_rows, below[i], below_rows[i], near, squares)
            n_seen = 0
            for x in range(squares.shape[1]):
                n_seen += squares[0, x] != NONE
                seen[x + 1] = n_seen
            row, weights = ids[y], out[y - top]
            for x in range(width):
                c = left + x + far
                if row[left + x] != 0:
                    weights[x] = levels[1]
                elif seen[c + half + 1] == seen[c - half]:
                    weights[x] = levels[0]
                else:
                    weights[x] = levels[0] + _border(c, near, squares, cut, half, w0, sigma)


@compiled
def _look_below(ids: Array, first: int, stop: int, far: int, below: Array, below_rows: Array) -> None:
    """For each row from `first` to `stop`: per column the nearest object at or below it, and the nearest other one."""
    held, held_rows = below[stop - 1 - first], below_rows[stop - 1 - first]
    held[:], held_rows[:] = 0, NOWHERE
    for y in range(min(stop - 1 + far, ids.shape[0] - 1), stop - 2, -1):
        _pass_row(ids[y], y, held, held_rows, held, held_rows)
    for y in range(stop - 2, first - 1, -1):
        i = y - first
        _pass_row(ids[y], y, below[i + 1], below_rows[i + 1], below[i], below_rows[i])


@compiled
def _pass_row(row: Array, y: int, held: Array, held_rows: Array, ids: Array, rows: Array) -> None:
    """Take up a row: where it has an object, that is the nearest, and the one before it the nearest other one."""
    for x in range(row.size):  # without a branch, as above
        nearest, nearest_row = held[0, x], held_rows[0, x]
        is_object = row[x] != 0
        is_other = is_object & (row[x] != nearest)
        ids[1, x] = nearest if is_other else held[1, x]
        rows[1, x] = nearest_row if is_other else held_rows[1, x]
        ids[0, x] = row[x] if is_object else nearest
        rows[0, x] = y if is_object else nearest_row


@compiled
def _merge_columns(
    y: int, far: int, above: Array, above_rows: Array, below: Array, below_rows: Array, near: Array, squares: Array
) -> None:
    """The two nearest objects of each column and their squared distances from row y, NONE beyond `far`."""
    for x in range(above.shape[1]):
        up, down = y - above_rows[0, x], below_rows[0, x] - y
        is_up = up <= down
        nearest = above[0, x] if is_up else below[0, x]
        distance = up if is_up else down
        # The other one is the nearest of the other direction, unless that is the same, or the next of this direction.
        across, across_distance = (below[0, x], down) if is_up else (above[0, x], up)
        behind, behind_distance = (below[1, x], below_rows[1, x] - y) if is_up else (above[1, x], y - above_rows[1, x])
        along, along_distance = (above[1, x], y - above_rows[1, x]) if is_up else (below[1, x], below_rows[1, x] - y)
        other = behind if across == nearest else across
        other_distance = behind_distance if across == nearest else across_distance
        other = along if along_distance < other_distance else other
        other_distance = min(along_distance, other_distance)
        near[0, far + x], near[1, far + x] = nearest, other
        squares[0, far + x] = distance * distance if distance <= far else NONE
        squares[1, far + x] = other_distance * other_distance if other_distance <= far else NONE


@compiled
def _border(x: int, near: Array, squares: Array, cut: float, half: int, w0: float, sigma: float) -> float:
    """w0 exp(-(d1 + d2)^2 / (2 sigma^2)) of a background pixel, 0 where d1 + d2 > cut.

    Columns are looked at outwards, until no column further out can be nearer than what was found, or near enough:
    either d1 is known and d2 <= cut - d1, or both are further than that column and cannot be beyond half the cut.
    """
    id1, square1, square2 = near[0, x], NONE, NONE
    k, last = 0, half
    while k <= last and k * k < square2:
        for column in (x - k, x + k):
            for i in range(2):
                square = squares[i, column] + k * k
                if square >= square2:
                    break
                if near[i, column] == id1 or square < square1:
                    if square < square1:
                        if near[i, column] != id1:
                            square2, id1 = square1, near[i, column]
                        square1 = square
                        last = max(half, int(cut - math.sqrt(square1)))
                else:
                    square2 = square
        k += 1
    total = math.sqrt(square1) + math.sqrt(square2)
    return w0 * math.exp(-total * total / (2 * sigma * sigma)) if total <= cut else 0.0
