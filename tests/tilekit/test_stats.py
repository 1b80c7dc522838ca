"""Statistics that add: the same in any order and blocking, and what numpy says of the whole."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tilekit.box import Box, grid_boxes
from tilekit.compiled import count_words
from tilekit.stats import PERCENTILES, ChannelStats, channel_stats, count_bytes

shapes = st.tuples(st.integers(1, 30), st.integers(1, 30))
dtypes = st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64])


def images() -> st.SearchStrategy[np.ndarray]:
    def of(dtype: type) -> st.SearchStrategy[np.ndarray]:
        if np.dtype(dtype).kind != "f":
            return hnp.arrays(dtype, shapes)
        values = st.one_of(st.integers(-4096, 4096).map(lambda n: n / 8), st.just(np.nan))
        return hnp.arrays(dtype, shapes, elements=values)

    return dtypes.flatmap(of)


def folded(parts: list[ChannelStats]) -> ChannelStats:
    total = ChannelStats()
    for part in parts:
        total.add(ChannelStats.from_json(part.to_json()))
    return total


def is_small(pixels: np.ndarray) -> bool:
    """Integers of 8 or 16 bits: their sums are exact in any blocking; of wider pixels only per block, rounded once."""
    return pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2


def assert_same(found: ChannelStats, wanted: ChannelStats, exact: bool) -> None:
    """Equal in every number; the sums within float64's rounding where they are not exact."""
    one, other = found.to_json(), wanted.to_json()
    for name in ("total", "squares"):
        if exact:
            assert one[name] == other[name]
        else:
            assert float(Fraction(one[name])) == pytest.approx(float(Fraction(other[name])), rel=1e-12, abs=1e-9)
        del one[name], other[name]
    assert one == other


@settings(max_examples=60)
@given(images(), st.integers(6, 30), st.integers(6, 30), st.randoms(use_true_random=False))
def test_statistics_do_not_hang_on_blocks_or_their_order(pixels, height, width, random):
    parts = [channel_stats(pixels[box.slices]) for box in grid_boxes(Box.whole(pixels.shape), (height, width))]
    wanted = folded(parts)
    random.shuffle(parts)
    assert folded(parts).to_json() == wanted.to_json()
    assert_same(wanted, channel_stats(pixels), exact=is_small(pixels))


@example(np.array([[94906267]], np.uint32), None)  # its square does not fit float64: the variance was negative
@given(images(), st.sampled_from([None, 0, 1, 255]))
def test_count_mean_std_and_range_are_numpys(pixels, nodata):
    valid = pixels[np.isfinite(pixels)].astype(np.float64)
    if nodata is not None:
        valid = valid[valid != nodata]
    found = channel_stats(pixels, nodata)
    assert found.count == valid.size
    if not valid.size:
        assert found.summary()["mean"] is None
        return
    scale = max(1.0, float(np.abs(valid).max()))
    assert found.mean == pytest.approx(valid.mean(), abs=1e-9 * scale)
    assert found.std == pytest.approx(valid.std(), abs=1e-5 * scale)
    assert (found.low, found.high) == (valid.min(), valid.max())


@given(hnp.arrays(st.sampled_from([np.uint8, np.int8]), shapes), st.sampled_from(PERCENTILES))
def test_percentiles_of_bytes_are_exact(pixels, q):
    """The smallest value that q percent of the pixels do not exceed."""
    wanted = np.percentile(pixels, q, method="inverted_cdf")
    assert channel_stats(pixels).percentile(q) == wanted


@given(images(), st.sampled_from(PERCENTILES))
def test_percentiles_of_wider_pixels_are_right_to_one_part_in_128(pixels, q):
    valid = pixels[np.isfinite(pixels)].astype(np.float64)
    assume(valid.size)
    wanted = float(np.percentile(valid, q, method="inverted_cdf"))
    assert channel_stats(pixels).percentile(q) == pytest.approx(wanted, rel=1 / 128, abs=1e-30)


@given(hnp.arrays(np.uint8, st.integers(0, 300)))
def test_bytes_are_counted_as_bincount_does(pixels):
    assert (count_bytes(pixels) == np.bincount(pixels, minlength=256)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_million_pixels_in_any_blocking_give_the_same_numbers(dtype):
    rng = np.random.default_rng(0)
    pixels = (rng.normal(100, 30, (1000, 1000)).clip(0, 255)).astype(dtype)
    for side in (1000, 333, 64):
        parts = [channel_stats(pixels[box.slices]) for box in grid_boxes(Box.whole(pixels.shape), (side, side))]
        found = folded(parts[::-1])
        assert found.count == 10**6
        assert found.mean == pytest.approx(pixels.astype(np.float64).mean(), rel=1e-12)
        assert found.std == pytest.approx(pixels.astype(np.float64).std(), rel=1e-9)
        assert_same(found, channel_stats(pixels), exact=is_small(pixels))


@pytest.mark.parametrize("n", [0, 1, 2, 7, 100_001])
def test_words_are_counted_as_bincount_does(n):
    words = np.random.default_rng(n).integers(0, 1 << 16, n, dtype=np.uint16)
    assert (count_words(words) == np.bincount(words, minlength=1 << 16)).all()
    same = np.full(n, 7, np.uint16)
    assert count_words(same)[7] == n
    assert count_words(same).sum() == n


def test_where_no_folder_can_be_written_loops_are_compiled_anew():
    """In a process of its own, where numba finds no place for its cache."""
    code = "import numpy as np; from tilekit.compiled import count_words; print(count_words(np.ones(5, np.uint16))[1])"
    nowhere = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "ZipCacheLocator"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=nowhere, check=False)
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr
