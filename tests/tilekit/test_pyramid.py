"""Halving against definitions written pixel by pixel, and the same whichever blocks it is done in."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tilekit.box import Box, grid_boxes
from tilekit.pyramid import halve_labels, halve_mean

shapes = st.tuples(st.integers(1, 2), st.integers(1, 23), st.integers(1, 23))
integers = st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64])


def cells(pixels: np.ndarray) -> list[tuple[tuple[int, ...], list]]:
    """Place and pixels of each cell in row-major order; those that an odd edge lacks are not there."""
    n, ny, nx = pixels.shape
    return [
        ((i, y, x), [pixels[i, v, u] for v in (2 * y, 2 * y + 1) for u in (2 * x, 2 * x + 1) if v < ny and u < nx])
        for i in range(n)
        for y in range(-(-ny // 2))
        for x in range(-(-nx // 2))
    ]


@given(integers.flatmap(lambda dtype: hnp.arrays(dtype, shapes)))
def test_an_integer_cell_is_its_mean_rounded_half_up(pixels):
    found = halve_mean(pixels)
    assert found.dtype == pixels.dtype
    for place, values in cells(pixels):
        total, n = sum(map(int, values)), len(values)
        assert int(found[place]) == (2 * total + n) // (2 * n)


@given(hnp.arrays(np.uint8, shapes, elements=st.sampled_from([0, 0, 7, 8, 200, 255])), st.sampled_from([0, 8, 255]))
def test_nodata_is_left_out_of_a_cells_mean(pixels, nodata):
    found = halve_mean(pixels, nodata)
    for place, values in cells(pixels):
        # an odd edge counts its last row twice: the same mean where all or none of it is valid
        ny, nx = pixels.shape[1:]
        y, x = 2 * place[1], 2 * place[2]
        four = [pixels[place[0], min(v, ny - 1), min(u, nx - 1)] for v in (y, y + 1) for u in (x, x + 1)]
        valid = [int(v) for v in four if v != nodata]
        assert found[place] == (int(sum(valid) / len(valid) + 0.5) if valid else nodata)
        assert {v for v in values if v != nodata} == {v for v in four if v != nodata}


finite = st.floats(-1000, 1000, width=32)


@given(hnp.arrays(np.float32, shapes, elements=st.one_of(finite, st.just(np.nan), st.just(-9999.0))), st.booleans())
def test_nan_and_nodata_are_left_out_of_a_float_cells_mean(pixels, with_nodata):
    nodata = -9999.0 if with_nodata else None
    found = halve_mean(pixels, nodata)
    assert found.dtype == np.float32
    for place, values in cells(pixels):
        valid = [float(v) for v in values if not np.isnan(v) and v != nodata]
        if valid:
            assert found[place] == pytest.approx(np.mean(valid), rel=1e-5, abs=1e-4)
        else:
            assert np.isnan(found[place]) if nodata is None else found[place] == nodata


@given(hnp.arrays(np.uint16, shapes, elements=st.integers(0, 3)))
def test_a_label_cell_has_its_commonest_label_the_first_of_equals(labels):
    found = halve_labels(labels)
    for place, values in cells(labels):
        ny, nx = labels.shape[1:]
        y, x = 2 * place[1], 2 * place[2]
        four = [int(labels[place[0], min(v, ny - 1), min(u, nx - 1)]) for v in (y, y + 1) for u in (x, x + 1)]
        most = max(Counter(four).values())
        assert found[place] == next(v for v in four if four.count(v) == most)
        assert found[place] in values


@given(hnp.arrays(np.uint8, shapes), st.integers(1, 3))
def test_halving_never_makes_a_new_label(labels, times):
    found = labels
    for _ in range(times):
        found = halve_labels(found)
    assert set(np.unique(found)) <= set(np.unique(labels))


@given(hnp.arrays(np.uint8, shapes), st.integers(1, 3), st.integers(1, 3), st.sampled_from([None, 0, 3]))
def test_halving_by_blocks_is_halving_the_whole(pixels, times, cells_per_block, nodata):
    """On every level that a block owns, wherever the image ends."""
    side = cells_per_block << times

    for halve in (halve_labels, lambda p: halve_mean(p, nodata)):
        whole = pixels
        for _ in range(times):
            whole = halve(whole)
        found = np.full_like(whole, 99)
        for box in grid_boxes(Box.whole(pixels.shape[1:]), (side, side)):
            part = pixels[(slice(None), *box.slices)]
            for _ in range(times):
                part = halve(part)
            found[(slice(None), *box.coarser(1 << times).slices)] = part
        assert (found == whole).all()


def numpy_mean(pixels: np.ndarray, nodata: float | None) -> np.ndarray:
    """The same arithmetic by numpy, in as many passes as it takes."""
    pad = [(0, 0)] * (pixels.ndim - 2) + [(0, n % 2) for n in pixels.shape[-2:]]
    whole = np.pad(pixels, pad, mode="edge")
    parts = [whole[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
    valid = [(p == p) & (np.True_ if nodata is None else p != nodata) for p in parts]
    total = np.sum([np.where(v, p, 0).astype(np.float64) for p, v in zip(parts, valid, strict=True)], axis=0)
    count = np.sum(valid, axis=0)
    mean = total / np.maximum(count, 1)
    if pixels.dtype.kind != "f":
        mean = np.floor(mean + 0.5)
    return np.where(count == 0, np.nan if nodata is None else nodata, mean).astype(pixels.dtype)


@pytest.mark.parametrize("nodata", [None, 3, -100])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
def test_large_blocks_have_numpys_bits(dtype, nodata):
    """Also where pixels are not next to each other in memory, and where their planes are several."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(-100, 100, (2, 301, 517)).astype(dtype)
    if pixels.dtype.kind == "f":
        pixels /= np.array(7, dtype)
        pixels[rng.random(pixels.shape) < 0.3] = np.nan
        nodata = nodata and float(pixels.dtype.type(nodata))
    elif pixels.dtype.kind == "u" and nodata == -100:
        nodata = 255
    pixels[rng.random(pixels.shape) < 0.3] = 3
    for view in (pixels, pixels[:, ::-1, ::3], np.moveaxis(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)), -1, 0)):
        assert halve_mean(view, nodata).tobytes() == numpy_mean(view, nodata).tobytes()


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_integers_of_64_bits_are_exact_beside_nodata(dtype):
    big = 2**62 + 1
    cell = np.array([[big, big + 2], [big + 4, 0]], dtype)
    assert halve_mean(cell, 0).tolist() == [[big + 2]]
    assert halve_mean(np.zeros((2, 2), dtype), 0).tolist() == [[0]]
