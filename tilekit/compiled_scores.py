"""Loops over pixels that scores need: pairs of classes, overlaps of ids, and the topology of boundary maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.compiled import compiled

Array = NDArray[Any]
UInts = NDArray[np.uint64]
Counts = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@compiled
def count_byte_pairs(first: Bytes, second: Bytes) -> Counts:
    """How often each pair of values occurs in two flat maps of bytes, int64 (256, 256).

    Eight equal pairs are counted at once, and runs of those together: adding to one counter again and again waits.
    """
    counts = np.zeros((256, 256), np.int64)
    ones, byte, step = np.uint64(0x0101010101010101), np.uint64(255), np.uint64(8)
    n_words = first.size // 8
    first_words, second_words = first[: 8 * n_words].view(np.uint64), second[: 8 * n_words].view(np.uint64)
    run_a, run_b, run = np.uint64(0), np.uint64(0), 0
    for i in range(n_words):
        a, b = first_words[i], second_words[i]
        if a == run_a and b == run_b:
            run += 8
        elif a == (a & byte) * ones and b == (b & byte) * ones:
            counts[run_a & byte, run_b & byte] += run
            run_a, run_b, run = a, b, 8
        else:
            for _ in range(8):
                counts[a & byte, b & byte] += 1
                a >>= step
                b >>= step
    counts[run_a & byte, run_b & byte] += run
    for i in range(8 * n_words, first.size):
        counts[first[i], second[i]] += 1
    return counts


@compiled
def _mixed(a: Any, b: Any) -> Any:
    """A hash of a pair."""
    mixed = (a * np.uint64(0x9E3779B97F4A7C15)) ^ (b * np.uint64(0xC2B2AE3D27D4EB4F))
    return mixed ^ (mixed >> np.uint64(32))


@compiled
def _add(a: Any, b: Any, count: Any, table: UInts) -> int:
    """Add to the row of a pair in an open-addressing table; 1 where the row is new."""
    mask = np.uint64(table.shape[0] - 1)
    row = _mixed(a, b) & mask
    while table[row, 2] and (table[row, 0] != a or table[row, 1] != b):
        row = (row + np.uint64(1)) & mask
    is_new = table[row, 2] == 0
    table[row, 0], table[row, 1] = a, b
    table[row, 2] += count
    return int(is_new)


@compiled
def _doubled(table: UInts) -> UInts:
    larger = np.zeros((2 * table.shape[0], 4), np.uint64)
    for row in range(table.shape[0]):
        if table[row, 2]:
            _add(table[row, 0], table[row, 1], table[row, 2], larger)
    return larger


@compiled
def _fill(first: Array, second: Array, start: int, small: UInts, table: UInts, used: int) -> tuple[int, int]:
    """Count runs from `start` on until the table is half full or all are; where it stopped, and the rows in use."""
    last = np.uint64(small.shape[0] - 1)
    a, b = np.uint64(first[start]), np.uint64(second[start])
    for i in range(start + 1, first.size + 1):
        if i < first.size and np.uint64(first[i]) == a and np.uint64(second[i]) == b:
            continue
        row = _mixed(a, b) & last
        if small[row, 0] != a or small[row, 1] != b:
            if small[row, 2]:
                used += _add(small[row, 0], small[row, 1], small[row, 2], table)
            small[row, 0], small[row, 1], small[row, 2] = a, b, np.uint64(0)
        small[row, 2] += np.uint64(i - start)
        if i == first.size or 2 * used > table.shape[0]:
            break
        a, b, start = np.uint64(first[i]), np.uint64(second[i]), i
    return i, used


@compiled
def count_runs(first: Array, second: Array) -> UInts:
    """How often each pair of integers occurs in two flat maps: uint64 (n, 4) of first, second, count, 0, in no order.

    Signed values come back as their 64 bits. Pixels are taken run by run, and counted in a small table that stays in
    the core's cache: the next row of pixels meets the same pairs. What another pair drives out of it goes into the
    large table, which doubles when half full.
    """
    small, table = np.zeros((8192, 4), np.uint64), np.zeros((2048, 4), np.uint64)
    used = i = 0
    while i < first.size:
        i, used = _fill(first, second, i, small, table, used)
        if 2 * used > table.shape[0]:
            table = _doubled(table)
    for row in range(small.shape[0]):
        if small[row, 2]:
            used += _add(small[row, 0], small[row, 1], small[row, 2], table)
        if 2 * used > table.shape[0]:
            table = _doubled(table)
    return table[np.flatnonzero(table[:, 2])]


@compiled
def neighborhood(image: Bytes, y: int, x: int) -> int:
    """The 8 neighbors of an inner pixel as bits, in a circle from the upper left one."""
    return int(
        image[y - 1, x - 1]
        | image[y - 1, x] << 1
        | image[y - 1, x + 1] << 2
        | image[y, x + 1] << 3
        | image[y + 1, x + 1] << 4
        | image[y + 1, x] << 5
        | image[y + 1, x - 1] << 6
        | image[y, x - 1] << 7
    )


@compiled
def flip_simple_points(image: Bytes, ys: Counts, xs: Counts, simple: NDArray[np.bool]) -> int:
    """Flip listed pixels of a binary image, in order and again until none is simple any more; how many flipped.

    The image (0 and 1) has a rim of one pixel that is not listed. A flipped pixel is not flipped back.
    """
    done = np.zeros(ys.size, np.bool_)
    flipped, before = 0, -1
    while flipped > before:
        before = flipped
        for i in range(ys.size):
            if not done[i] and simple[neighborhood(image, ys[i], xs[i])]:
                image[ys[i], xs[i]] ^= 1
                done[i] = True
                flipped += 1
    return flipped


@compiled
def thin_background(image: Bytes, simple: NDArray[np.bool]) -> None:
    """Turn 0 into 1 layer by layer where that leaves the topology alone; lines of one pixel are left. Rim as above."""
    height, width = image.shape
    layer = np.empty((height * width, 2), np.int64)
    flipped = 1
    while flipped:
        n = flipped = 0
        for y in range(1, height - 1):
            for x in range(1, width - 1):
                if not image[y, x] and (image[y - 1, x] or image[y + 1, x] or image[y, x - 1] or image[y, x + 1]):
                    layer[n, 0], layer[n, 1] = y, x
                    n += 1
        for i in range(n):
            y, x = layer[i, 0], layer[i, 1]
            if simple[neighborhood(image, y, x)]:
                image[y, x] = 1
                flipped += 1


@compiled
def label_components(image: Bytes, connectivity: int) -> NDArray[np.int32]:
    """Number the components (of 4 or 8 neighbors) of what is not 0 from 1, in row-major order of their first pixels."""
    height, width = image.shape
    labels = np.zeros((height, width), np.int32)
    stack = np.empty((height * width + 1, 2), np.int32)
    found = 0
    for y in range(height):
        for x in range(width):
            if image[y, x] and not labels[y, x]:
                found += 1
                labels[y, x] = found
                stack[0, 0], stack[0, 1] = y, x
                n = 1
                while n:
                    n -= 1
                    v, u = stack[n, 0], stack[n, 1]
                    for b in range(max(v - 1, 0), min(v + 2, height)):
                        for a in range(max(u - 1, 0), min(u + 2, width)):
                            near = connectivity == 8 or b == v or a == u
                            if near and image[b, a] and not labels[b, a]:
                                labels[b, a] = found
                                stack[n, 0], stack[n, 1] = b, a
                                n += 1
    return labels


@compiled
def parts_without(image: Bytes, y: int, x: int, stamp: NDArray[np.int32], mark: int, stack: NDArray[np.int32]) -> int:
    """Into how many 4-connected components the 1-neighbors (of 8) of a pixel fall once the pixel is 0.

    `stamp` (y, x) is scratch that holds no value above `mark`; this writes mark + 1 to mark + 8 into it. Rim as above.
    """
    parts = 0
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            if (dy == 0 and dx == 0) or not image[y + dy, x + dx] or stamp[y + dy, x + dx] > mark:
                continue
            parts += 1
            stamp[y + dy, x + dx] = mark + parts
            stack[0, 0], stack[0, 1] = y + dy, x + dx
            n = 1
            while n:
                n -= 1
                v, u = stack[n, 0], stack[n, 1]
                for sy, sx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                    b, a = v + sy, u + sx
                    if image[b, a] and stamp[b, a] <= mark and not (b == y and a == x):
                        stamp[b, a] = mark + parts
                        stack[n, 0], stack[n, 1] = b, a
                        n += 1
    return parts
