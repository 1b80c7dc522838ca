"""Overlap tables: against a dictionary filled pixel by pixel, for every dtype; that they add; what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilekit.overlaps import Overlaps, count_overlaps, merged, sum_overlaps

DTYPES = ["u1", "u2", "u4", "u8", "i2", "i4", "i8"]


def blobs(seed: int, shape: tuple[int, int], dtype: str, n: int) -> NDArray[Any]:
    """Flat patches of ids of this dtype, the largest of the dtype among them."""
    generator = np.random.default_rng(seed)
    values = generator.integers(0, min(n, np.iinfo(dtype).max), n).astype(dtype)
    values[-1], values[0] = np.iinfo(dtype).max, np.iinfo(dtype).min
    small = generator.integers(0, n, (-(-shape[0] // 3), -(-shape[1] // 5)))
    return values[small.repeat(3, 0).repeat(5, 1)[: shape[0], : shape[1]]]


def as_counter(table: Overlaps) -> Counter[tuple[int, int]]:
    keys = list(zip(table.truth.tolist(), table.prediction.tolist(), strict=True))
    assert keys == sorted(set(keys)), "a pair occurs twice, or pairs are out of order"
    return Counter(dict(zip(keys, table.counts.tolist(), strict=True)))


def brute_force(prediction: NDArray[Any], truth: NDArray[Any]) -> Counter[tuple[int, int]]:
    return Counter(zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True))


@given(
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(0, 25), st.integers(0, 25)),
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    n=st.integers(2, 60),
)
def test_the_table_is_that_of_a_loop_over_pixels(seed, shape, dtypes, n):
    prediction, truth = (blobs(seed + k, shape, dtype, n) for k, dtype in enumerate(dtypes))
    assert as_counter(count_overlaps(prediction, truth)) == brute_force(prediction, truth)


def test_more_pairs_than_are_listed_at_once_are_all_counted_once():
    shape = (2100, 1030)
    truth = np.arange(shape[0] * shape[1], dtype=np.uint32).reshape(shape)
    truth[1500:] = truth[: shape[0] - 1500]
    table = count_overlaps(truth[::-1].copy(), truth)
    pairs, counts = np.unique((truth.astype(np.uint64) << 32 | truth[::-1]).ravel(), return_counts=True)
    assert len(table) > 1 << 20
    assert np.array_equal(table.truth << 32 | table.prediction, pairs)
    assert np.array_equal(table.counts, counts)


def test_noise_of_many_pairs_fills_the_small_table():
    prediction, truth = np.random.default_rng(0).integers(0, 1 << 40, (2, 100, 200))
    table = count_overlaps(prediction, truth)
    assert len(table) == 20_000
    assert as_counter(table) == brute_force(prediction, truth)


@given(n=st.integers(1, 1200), seed=st.integers(0, 50), flat=st.sampled_from([1, 3, 20]))
def test_bytes_are_counted_alike_at_every_length_and_offset(n, seed, flat):
    prediction, truth = np.random.default_rng(seed).integers(0, 3, (2, n), dtype=np.uint8).repeat(flat, 1)
    for start in range(3):
        assert as_counter(count_overlaps(prediction[start:], truth[start:])) == brute_force(
            prediction[start:], truth[start:]
        )


@given(side=st.integers(1, 40), dtype=st.sampled_from(["u1", "u4", "i8"]))
def test_tables_of_boxes_add_to_that_of_the_whole(side, dtype):
    prediction, truth = blobs(1, (33, 47), dtype, 20), blobs(2, (33, 47), dtype, 20)
    boxes = [(slice(y, y + side), slice(x, x + side)) for y in range(0, 33, side) for x in range(0, 47, side)]
    parts = sum_overlaps(count_overlaps(prediction[box], truth[box]) for box in boxes)
    assert as_counter(parts) == brute_force(prediction, truth)


def test_a_table_survives_its_bytes():
    table = count_overlaps(blobs(1, (20, 20), "i2", 9), blobs(2, (20, 20), "u8", 9))
    again = Overlaps.from_bytes(table.to_bytes())
    assert as_counter(again) == as_counter(table)
    assert (again.prediction.dtype, again.truth.dtype) == (np.int64, np.uint64)


def test_rows_that_become_equal_are_put_together():
    table = Overlaps(np.array([2, 1, 2]), np.array([1, 1, 1]), np.array([3, 4, 5]))
    assert as_counter(merged(table)) == {(1, 1): 4, (1, 2): 8}
    assert len(sum_overlaps([])) == 0


def test_maps_of_other_shape_or_of_floats_are_refused():
    with pytest.raises(ValueError, match=r"prediction is \(2,\), truth \(3,\)"):
        count_overlaps(np.zeros(2, int), np.zeros(3, int))
    with pytest.raises(ValueError, match="prediction is float32"):
        count_overlaps(np.zeros(2, np.float32), np.zeros(2, int))
