"""Loops over pixels that weight maps need: the ridge between objects, and the sweep that finds the two nearest of them.

The sweep is separable and exact: of a column, no object but its two nearest can be among the two nearest of a pixel in
another column. It is the distance transform of Saito and Toriwaki (1994), carrying two objects instead of one.

Its loops run along rows, are short and have no branch, so that the processor does several pixels at once: hence so
many of them, float32 (as wide as an id; squares are exact in it to 2^24) and values taken before they are chosen from.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.compiled import compiled

Array = NDArray[Any]
NONE = np.float32(np.inf)
"""Row and squared distance of what is not there."""
STRIP = 64
"""Rows whose objects below are held at once."""
SEGMENT = 256
"""Columns that are looked at together, as far as the one that must look furthest."""


@compiled
def ridge_pixels(padded: Array, out: Array) -> None:
    """Ids (y, x) less the pixels with another id, not 0, among their 8 neighbors; `padded` has a rim of 1 pixel."""
    for y in range(out.shape[0]):
        upper, own, lower, row = padded[y], padded[y + 1], padded[y + 2], out[y]
        for x in range(row.size):
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
    columns, far = ids.shape[1], max(int(cut) - 1, 0)
    strip = max(STRIP, far)
    above = _no_objects(ids)
    below_ids, below_rows = np.zeros((strip, 2, columns), ids.dtype), np.zeros((strip, 2, columns), np.float32)
    # Of each column, seen from one row: the nearest object, its squared distance and that of the next; with a rim.
    near = np.zeros(columns + 2 * far, ids.dtype)
    squares, others = np.full(near.size, NONE), np.full(near.size, NONE)
    inside = slice(far, far + columns)
    for y in range(max(top - far, 0), top):
        _pass_row(ids[y], y, above[0], above[1])
    for first in range(top, top + height, strip):
        stop = min(first + strip, top + height)
        _look_below(ids, first, stop, far, below_ids, below_rows)
        for y in range(first, stop):
            _pass_row(ids[y], y, above[0], above[1])
            near[inside] = above[0][0]
            _square(above[1][0], y, squares[inside])
            _square(above[1][1], y, others[inside])
            below, rows = below_ids[y - first], below_rows[y - first]
            _join_others(below[0], rows[0], rows[1], y, near[inside], squares[inside], others[inside])
            _join_nearest(below[0], rows[0], y, near[inside], squares[inside])
            for x in range(0, width, SEGMENT):
                segment = out[y - top, x : x + SEGMENT]
                _weigh_segment(left + x + far, near, squares, others, cut, w0, sigma, levels, segment)


@compiled
def _no_objects(ids: Array) -> tuple[Array, Array]:
    """Per column the nearest object in one direction and the nearest other one, and their rows: none yet."""
    return np.zeros((2, ids.shape[1]), ids.dtype), np.full((2, ids.shape[1]), NONE)


@compiled
def _pass_row(row: Array, y: int, held: Array, rows: Array) -> None:
    """Take up a row: where it has an object, that is the nearest, and the one before it the nearest other one."""
    nearest, other, nearest_row, other_row, here = held[0], held[1], rows[0], rows[1], np.float32(y)
    for x in range(row.size):
        id_, before, before_row, old, old_row = row[x], nearest[x], nearest_row[x], other[x], other_row[x]
        is_other = (id_ != 0) & (id_ != before)
        other[x] = before if is_other else old
        other_row[x] = before_row if is_other else old_row
    for x in range(row.size):
        id_, before, before_row = row[x], nearest[x], nearest_row[x]
        nearest[x] = id_ if id_ != 0 else before
        nearest_row[x] = here if id_ != 0 else before_row


@compiled
def _look_below(ids: Array, first: int, stop: int, far: int, below: Array, rows: Array) -> None:
    """For each row from `first` to `stop`: per column the nearest object at or below it, and the nearest other one."""
    held = _no_objects(ids)
    for y in range(min(stop - 1 + far, ids.shape[0] - 1), first - 1, -1):
        _pass_row(ids[y], y, held[0], held[1])
        if y < stop:
            below[y - first], rows[y - first] = held


@compiled
def _square(rows: Array, y: int, out: Array) -> None:
    """Squared distances of rows from row y."""
    here = np.float32(y)
    for x in range(out.size):
        out[x] = (rows[x] - here) * (rows[x] - here)


@compiled
def _join_others(
    ids: Array, rows: Array, other_rows: Array, y: int, near: Array, squares: Array, others: Array
) -> None:
    """Squared distances of each column's second nearest object, once those of the other direction are known too.

    The nearest there is the same object as here, or a nearer one, or one that is further than the nearest here.
    """
    here = np.float32(y)
    for x in range(others.size):
        square = (rows[x] - here) * (rows[x] - here)
        behind = (other_rows[x] - here) * (other_rows[x] - here)
        is_same, is_nearer = ids[x] == near[x], square < squares[x]
        one = squares[x] if is_nearer & (not is_same) else others[x]
        other = behind if is_same | is_nearer else square
        others[x] = one if one < other else other


@compiled
def _join_nearest(ids: Array, rows: Array, y: int, near: Array, squares: Array) -> None:
    """Each column's nearest object and its squared distance, of both directions."""
    here = np.float32(y)
    for x in range(squares.size):
        square = (rows[x] - here) * (rows[x] - here)
        there, id_, old = ids[x], near[x], squares[x]
        near[x] = there if square < old else id_
        squares[x] = square if square < old else old


@compiled
def _weigh_segment(
    x: int, near: Array, squares: Array, others: Array, cut: float, w0: float, sigma: float, levels: Any, out: Array
) -> None:
    """Weights of pixels side by side, of which the first is in column x.

    No column is looked at that cannot matter: d1 counts to half the cut, as d2 is no less; d2 to the cut less d1.
    """
    n, far, background, inside = out.size, max(int(cut) - 1, 0), np.float32(levels[0]), np.float32(levels[1])
    around = slice(x - far, x + n + far)
    first, second, ids = squares[x : x + n].copy(), np.zeros(n, np.float32), near[x : x + n].copy()
    if _are_two_near(near[around], squares[around], others[around], far):
        for k in range(int(cut) // 2 + 1):
            if k % 4 == 0 and not _is_any_above(first, k):
                break
            a, b = slice(x - k, x - k + n), slice(x + k, x + k + n)
            _join_first(near[a], squares[a], near[b], squares[b], k, ids, first)
        least = cut * cut
        for i in range(n):
            if 0 < first[i] <= cut * cut / 4:
                least, second[i] = min(least, first[i]), NONE
        for k in range(int(cut - math.sqrt(least)) + 1):
            if k % 4 == 0 and not _is_any_above(second, k):
                break
            a, b = slice(x - k, x - k + n), slice(x + k, x + k + n)
            _join_second(near[a], squares[a], others[a], near[b], squares[b], others[b], k, ids, second)
    for i in range(n):
        out[i] = inside if first[i] == 0 else background
    for i in range(n):
        if second[i] > 0:
            total = math.sqrt(np.float64(first[i])) + math.sqrt(np.float64(second[i]))
            if total <= cut:
                out[i] += w0 * math.exp(-total * total / (2 * sigma * sigma))


@compiled
def _are_two_near(near: Array, squares: Array, others: Array, far: int) -> bool:
    """Whether these columns see more than one object no further than `far`."""
    limit, n_others, i = np.float32(far * far), 0, 0
    while i < near.size - 1 and squares[i] > limit:
        i += 1
    one = near[i]
    for i in range(near.size):
        n_others += (others[i] <= limit) | ((squares[i] <= limit) & (near[i] != one))
    return n_others > 0


@compiled
def _is_any_above(squares: Array, k: int) -> bool:
    """Whether there is a squared distance that an object k columns further could lower."""
    n, limit = 0, np.float32(k * k)
    for i in range(squares.size):
        n += squares[i] > limit
    return n > 0


@compiled
def _join_first(
    left: Array, left_squares: Array, right: Array, right_squares: Array, k: int, ids: Array, first: Array
) -> None:
    """The nearest objects and their squared distances, with those of the columns k to the left and right."""
    further = np.float32(k * k)
    for i in range(ids.size):
        one, other, here, there, old = left_squares[i], right_squares[i], left[i], right[i], ids[i]
        square = (one if one < other else other) + further
        ids[i] = (here if one < other else there) if square < first[i] else old
    for i in range(first.size):
        one, other, old = left_squares[i], right_squares[i], first[i]
        square = (one if one < other else other) + further
        first[i] = square if square < old else old


@compiled
def _join_second(
    left: Array,
    left_squares: Array,
    left_others: Array,
    right: Array,
    right_squares: Array,
    right_others: Array,
    k: int,
    ids: Array,
    second: Array,
) -> None:
    """Squared distances of the nearest objects but `ids`, with those of the columns k to the left and right."""
    further = np.float32(k * k)
    for i in range(second.size):
        nearest, other = left_squares[i], left_others[i]
        one = other if left[i] == ids[i] else nearest
        nearest, other = right_squares[i], right_others[i]
        two = other if right[i] == ids[i] else nearest
        square, old = (one if one < two else two) + further, second[i]
        second[i] = square if square < old else old
