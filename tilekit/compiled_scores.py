"""Loops over pixels that scores need: pairs of classes, overlaps of ids, and the topology of boundary maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.compiled import compiled, places_of_ones

Array = NDArray[Any]
UInts = NDArray[np.uint64]
Counts = NDArray[np.int64]
Bytes = NDArray[np.uint8]
PAIRS = 512
"""Pixels that are counted at once."""
HEIGHT, WIDTH = 64, 1024
"""Sides of the tiles in which pairs of ids are counted: of few pairs, and with rows that are long enough for speed."""
SMALL_BITS = 12
"""Of the places of the table for a tile, which stays in the core's nearest caches."""
FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)
"""Odd numbers that spread pairs over the table."""
MOST = 1 << 20
"""Pairs of tiles that are listed before they are added up."""


@compiled
def count_byte_pairs(first: Bytes, second: Bytes) -> Counts:
    """How often each pair of values occurs in two flat maps of bytes, int64 (256, 256)."""
    counts = np.zeros(1 << 16, np.int64)
    for start in range(0, first.size, 1 << 31):  # what tables of 32 bits can count
        counts += _count_words(first[start : start + (1 << 31)], second[start : start + (1 << 31)])
    return counts.reshape(256, 256)


@compiled
def _count_words(first: Bytes, second: Bytes) -> Counts:
    """Both values as one word of 16 bits, eight pixels at a time: once where all are equal, else by four tables.

    Adding to one counter again and again waits. The words of PAIRS pixels stay in the core's nearest cache, and so do
    tables of 32 bits.
    """
    tables = np.zeros(
        (4, (1 << 16) + 64), np.uint32
    )  # at 2^16 apart, equal pairs would compete for places of the cache
    a, b, c, d = tables[0], tables[1], tables[2], tables[3]
    words = np.empty(PAIRS, np.uint16)
    fours, low, ones = words.view(np.uint64), np.uint64(0xFFFF), np.uint64(0x0001000100010001)
    one, eight, n = np.uint32(1), np.uint32(8), first.size // PAIRS * PAIRS
    for start in range(0, n, PAIRS):
        upper, lower = first[start : start + PAIRS], second[start : start + PAIRS]
        for i in range(PAIRS):
            words[i] = np.uint16(upper[i]) << np.uint16(8) | np.uint16(lower[i])
        for i in range(0, PAIRS // 4, 2):
            if fours[i] == fours[i + 1] and fours[i] == (fours[i] & low) * ones:
                a[fours[i] & low] += eight
                continue
            for k in range(i, i + 2):
                four = fours[k]
                a[four & low] += one
                b[(four >> np.uint64(16)) & low] += one
                c[(four >> np.uint64(32)) & low] += one
                d[four >> np.uint64(48)] += one
    for i in range(n, first.size):
        a[np.uint64(first[i]) << np.uint64(8) | np.uint64(second[i])] += one
    counts: Counts = tables[:, : 1 << 16].astype(np.int64).sum(0)
    return counts


@compiled
def _find_runs(
    first: Array, second: Array, top: int, left: int, differs: Bytes, starts: NDArray[np.int32]
) -> tuple[int, int]:
    """Where runs begin in a tile of both maps whose rows are counted as WIDTH long; how many, and how long they are."""
    height, width = min(first.shape[0] - top, HEIGHT), min(first.shape[1] - left, WIDTH)
    if width < WIDTH:
        differs[:] = 0
    for y in range(height):
        upper, lower = first[top + y][left : left + width], second[top + y][left : left + width]
        out = differs[y * WIDTH : (y + 1) * WIDTH]
        out[0] = 1
        for x in range(np.uint64(1), np.uint64(width)):
            before = x - np.uint64(1)
            out[x] = (upper[x] != upper[before]) | (lower[x] != lower[before])
    n = places_of_ones(differs[: height * WIDTH], starts)
    starts[n] = height * WIDTH
    return n, width


@compiled
def _add_runs(
    first: Array,
    second: Array,
    starts: NDArray[np.int32],
    width: int,
    small: tuple[UInts, UInts, Counts],
    run: int,
    n: int,
) -> int:
    """Add runs of a tile, from number `run` to n, to a small table until it is half full; the first that is left.

    Places are unsigned, as numba looks whether others are negative.
    """
    values, others, counts = small
    one, length, row_length, used = np.uint64(1), np.uint64(WIDTH), np.uint64(width), 0
    for i in range(np.uint64(run), np.uint64(n)):
        if 2 * used == counts.size:
            return int(i)
        start, stop = np.uint64(starts[i]), np.uint64(starts[i + one])
        y, x = start // length, start % length
        a, b = np.uint64(first[y, x]), np.uint64(second[y, x])
        place = (a * FACTORS[0] + b * FACTORS[1]) >> np.uint64(64 - SMALL_BITS)
        while counts[place] and ((values[place] != a) | (others[place] != b)):
            place = (place + one) % np.uint64(counts.size)
        used += counts[place] == 0
        values[place], others[place] = a, b
        counts[place] += np.int64(min(stop - start, row_length - x))
    return n


@compiled
def _move(small: tuple[UInts, UInts, Counts], table: UInts, n: int) -> tuple[UInts, int]:
    """Append the pairs of a small table to the n rows of a list, and empty it; the list, and its length."""
    values, others, counts = small
    if n + counts.size > table.shape[0]:
        longer = np.empty((2 * table.shape[0], 3), np.uint64)
        longer[:n] = table[:n]
        table = longer
    for place in range(np.uint64(0), np.uint64(counts.size)):
        table[n, 0], table[n, 1], table[n, 2] = values[place], others[place], counts[place]
        n += counts[place] > 0
    counts[:] = 0
    return table, n


@compiled
def count_runs(first: Array, second: Array, top: int) -> tuple[UInts, int]:
    """How often each pair of integers occurs in two maps (y, x), from a row on until MOST pairs are listed.

    uint64 (3, n): first, second, count, in no order, a pair once for each tile that has it; and the row to go on from.
    Signed values come back as their 64 bits.
    """
    size = 1 << SMALL_BITS
    small = np.zeros(size, np.uint64), np.zeros(size, np.uint64), np.zeros(size, np.int64)
    table, listed = np.empty((4 * size, 3), np.uint64), 0
    differs, starts = np.zeros(HEIGHT * WIDTH, np.uint8), np.empty(HEIGHT * WIDTH + 1, np.int32)
    while top < first.shape[0] and listed < MOST:
        for left in range(0, first.shape[1], WIDTH):
            box = slice(top, top + HEIGHT), slice(left, left + WIDTH)
            n, width = _find_runs(first, second, top, left, differs, starts)
            run = 0
            while run < n:
                run = _add_runs(first[box], second[box], starts, width, small, run, n)
                table, listed = _move(small, table, listed)
        top += HEIGHT
    return table[:listed].T.copy(), top


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
