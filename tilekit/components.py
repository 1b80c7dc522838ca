"""Connected components of one block as runs of pixels, and what adds up of them.

Classes are labeled each by itself: two neighbors belong together where they have the same class. Runs of one class in
a row are joined with those they touch in the row above by union-find, so that work and memory follow the runs, not the
pixels. Components are numbered from 1 in row-major order of their first pixels; which of them are one object across
blocks is the business of `seams`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tilekit.compiled import WORD, compiled, places_of_ones

Ints = NDArray[np.int64]
CONNECTIVITIES = (4, 8)


class Runs(NamedTuple):
    """Runs of one class in the rows of a block, in row-major order."""

    rows: Ints
    """Number of the first run of each row, and of all runs at the end, (height + 1,)."""
    start: NDArray[np.int32]
    """First column of each run."""
    stop: NDArray[np.int32]
    """Column after its last."""
    label: NDArray[np.int32]
    """Its component, from 1."""
    first: NDArray[np.int32]
    """First run of each component, (n,)."""


def find_runs(classes: NDArray[Any], connectivity: int, void: int) -> Runs:
    """Runs and components of a block of classes (y, x); 0 and void are background."""
    classes = np.ascontiguousarray(classes)
    rows, start, stop = _cut_runs(classes, void)
    parent = _join_rows(classes, rows, start, stop, 1 if connectivity == 8 else 0)
    label, first = _number(parent)
    return Runs(rows, start, stop, label, first)


@compiled
def _find(parent: NDArray[np.int32], run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


@compiled
def _cut_runs(classes: NDArray[Any], void: int) -> tuple[Ints, NDArray[np.int32], NDArray[np.int32]]:
    """Rows, starts and stops of the runs that are not background."""
    height, width = classes.shape
    differs = np.zeros(-(-width // WORD) * WORD, np.uint8)
    ends = np.empty(differs.size + 1, np.int32)
    start, stop = np.empty(classes.size // 8 + width, np.int32), np.empty(classes.size // 8 + width, np.int32)
    rows = np.zeros(height + 1, np.int64)
    n = 0
    for y in range(height):
        line = classes[y]
        for x in range(np.uint64(1), np.uint64(width)):
            differs[x] = line[x] != line[x - np.uint64(1)]
        count = places_of_ones(differs, ends)
        ends[count] = width
        if n + count >= start.size:
            start, stop = np.append(start, np.empty_like(start)), np.append(stop, np.empty_like(stop))
        first = 0
        for end in ends[: count + 1]:
            start[n], stop[n] = first, end
            n += (line[first] != 0) & (line[first] != void)
            first = end
        rows[y + 1] = n
    return rows, start[:n].copy(), stop[:n].copy()


@compiled
def _join_rows(
    classes: NDArray[Any], rows: Ints, start: NDArray[np.int32], stop: NDArray[np.int32], reach: int
) -> NDArray[np.int32]:
    """For each run the earliest run that it is joined with, or one on the way to that."""
    parent = np.arange(start.size).astype(np.int32)
    for y in range(1, rows.size - 1):
        above, end_above = rows[y - 1], rows[y]
        for run in range(rows[y], rows[y + 1]):
            first, last = start[run] - reach, stop[run] + reach
            while above < end_above and stop[above] <= first:
                above += 1
            other = above
            while other < end_above and start[other] < last:
                if classes[y - 1, start[other]] == classes[y, start[run]]:
                    a, b = _find(parent, run), _find(parent, other)
                    parent[max(a, b)] = min(a, b)
                other += 1
    return parent


@compiled
def _number(parent: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Component of each run, from 1, and the first run of each; parents come before their children."""
    label = np.empty(parent.size, np.int32)
    first = np.empty(parent.size, np.int32)
    n = 0
    for run in range(parent.size):
        if parent[run] == run:
            first[n] = run
            n += 1
            label[run] = n
        else:
            label[run] = label[parent[run]]
    return label, first[:n].copy()


@compiled
def first_pixels(runs: Runs, width: int) -> Ints:
    """Row-major position of the first pixel of each component within a block of this width, (n,)."""
    out = np.empty(runs.first.size, np.int64)
    y = 0
    for i in range(runs.first.size):
        while runs.rows[y + 1] <= runs.first[i]:
            y += 1
        out[i] = y * width + runs.start[runs.first[i]]
    return out


@compiled
def faces(runs: Runs, width: int) -> tuple[Ints, Ints, Ints, Ints]:
    """The component of each pixel of the block's top and bottom row, left and right column; 0 for background."""
    height = runs.rows.size - 1
    top, bottom = np.zeros(width, np.int64), np.zeros(width, np.int64)
    left, right = np.zeros(height, np.int64), np.zeros(height, np.int64)
    for line, y in ((top, 0), (bottom, height - 1)):
        for run in range(runs.rows[y], runs.rows[y + 1]):
            line[runs.start[run] : runs.stop[run]] = runs.label[run]
    for y in range(height):
        a, b = runs.rows[y], runs.rows[y + 1]
        if b > a and runs.start[a] == 0:
            left[y] = runs.label[a]
        if b > a and runs.stop[b - 1] == width:
            right[y] = runs.label[b - 1]
    return top, bottom, left, right


@compiled
def paint(runs: Runs, values: NDArray[Any], out: NDArray[Any], top: int = 0, left: int = 0) -> None:
    """Write the value of each component, `values[label]`, on its pixels; the others stay as they are.

    `out` is the part of the block that begins at (top, left).
    """
    height, width = out.shape
    for y in range(height):
        run, end = runs.rows[top + y], runs.rows[top + y + 1]
        run += np.searchsorted(runs.stop[run:end], left, side="right")
        while run < end and runs.start[run] < left + width:
            out[y, max(runs.start[run] - left, 0) : min(runs.stop[run] - left, width)] = values[runs.label[run]]
            run += 1


@compiled
def areas(runs: Runs) -> Ints:
    """Pixels of each component, (n,)."""
    out = np.zeros(runs.first.size, np.int64)
    for run in range(runs.label.size):
        out[runs.label[run] - 1] += runs.stop[run] - runs.start[run]
    return out


PLACES = ("area", "y_sum", "x_sum", "y_min", "y_max", "x_min", "x_max")
"""Columns of `places`."""


@compiled
def places(runs: Runs, top: int, left: int) -> Ints:
    """Sums over each component's pixels, in image coordinates, int64 (n, 7), columns as in PLACES."""
    out = np.zeros((runs.first.size, 7), np.int64)
    out[:, 3] = out[:, 5] = 1 << 62
    out[:, 4] = out[:, 6] = -1
    for y in range(runs.rows.size - 1):
        for run in range(runs.rows[y], runs.rows[y + 1]):
            row = out[runs.label[run] - 1]
            start, last = left + runs.start[run], left + runs.stop[run] - 1
            length = last - start + 1
            row[0] += length
            row[1] += length * (top + y)
            row[2] += (start + last) * length // 2
            row[3] = min(row[3], top + y)
            row[4] = max(row[4], top + y)
            row[5] = min(row[5], start)
            row[6] = max(row[6], last)
    return out


VALUES = ("n", "sum", "min", "max")
"""Columns of `values`."""


@compiled
def values(runs: Runs, pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Sums over the values of a channel (y, x) in each component, float64 (n, 4), columns as in VALUES, without NaN."""
    out = np.zeros((runs.first.size, 4), np.float64)
    out[:, 2] = np.inf
    out[:, 3] = -np.inf
    for y in range(runs.rows.size - 1):
        for run in range(runs.rows[y], runs.rows[y + 1]):
            row = out[runs.label[run] - 1]
            for x in range(runs.start[run], runs.stop[run]):
                value = np.float64(pixels[y, x])
                if value == value:
                    row[0] += 1
                    row[1] += value
                    row[2] = min(row[2], value)
                    row[3] = max(row[3], value)
    return out


@compiled
def beside(runs: Runs, around: NDArray[Any], value: int) -> NDArray[np.bool_]:
    """True for each component with a pixel beside one of this value (4 neighbors), (n,); `around` as below."""
    out = np.zeros(runs.first.size, np.bool_)
    for y in range(runs.rows.size - 1):
        for run in range(runs.rows[y], runs.rows[y + 1]):
            first, last = runs.start[run] + 1, runs.stop[run]
            met = around[y + 1, first - 1] == value or around[y + 1, last + 1] == value
            for x in range(first, last + 1):
                met |= around[y, x] == value or around[y + 2, x] == value
            out[runs.label[run] - 1] |= met
    return out


@compiled
def lowest_and_highest_beside(runs: Runs, around: NDArray[Any], background: int) -> tuple[Ints, Ints]:
    """Lowest and highest class beside each component (4 neighbors), each (n,), `background` not counted.

    `around` has the classes of the block with one more pixel on every side.
    """
    low = np.full(runs.first.size, 1 << 62, np.int64)
    high = np.full(runs.first.size, -1, np.int64)
    for y in range(runs.rows.size - 1):
        for run in range(runs.rows[y], runs.rows[y + 1]):
            i = runs.label[run] - 1
            for x in range(runs.start[run], runs.stop[run]):
                for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
                    value = np.int64(around[y + dy, x + dx])
                    if value != background:
                        low[i] = min(low[i], value)
                        high[i] = max(high[i], value)
    return low, high
