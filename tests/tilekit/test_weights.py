"""Weights of pixels: against one distance transform per object, and the same from any box that carries its halo."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.oracle_weights import naive_border, naive_ridge
from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.weights import MAX_REACH, TOLERANCE, border_weights, class_weights, reach, ridge, weigh

Array = NDArray[Any]
SMALLEST = 3e-7
"""Float32 rounds a weight of 10 by no more than half of this."""


def blobs(seed: int, shape: tuple[int, int], n: int, grain: int = 5, dtype: str = "u4") -> Array:
    """Patches of up to n objects that touch, background between some; an object may be in several pieces."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, n + 1, (-(-shape[0] // grain), -(-shape[1] // grain)))
    small[rng.random(small.shape) < 0.6] = 0
    return small.repeat(grain, 0).repeat(grain, 1)[: shape[0], : shape[1]].astype(dtype)


@given(
    seed=st.integers(0, 9999),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    n=st.integers(0, 12),
    grain=st.integers(1, 9),
    w0=st.sampled_from([0.0, 1e-9, 0.5, 10.0, 1000.0]),
    sigma=st.sampled_from([0.1, 1.0, 3.3, 5.0, 20.0]),
    dtype=st.sampled_from(["u1", "u2", "u4", "u8", "i4", "i8"]),
)
def test_weights_are_those_of_a_distance_transform_per_object(seed, shape, n, grain, w0, sigma, dtype):
    ids = blobs(seed, shape, n, grain, dtype)
    ridged = ridge(ids)
    np.testing.assert_array_equal(ridged, naive_ridge(ids))
    found = border_weights(ridged, w0, sigma)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive_border(ridged, w0, sigma), rtol=1e-6, atol=TOLERANCE + SMALLEST)


@given(
    seed=st.integers(0, 9999),
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    side=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    sigma=st.sampled_from([0.4, 2.0, 5.0]),
)
def test_every_box_with_its_halo_has_the_bits_of_the_whole(seed, shape, side, sigma):
    ids = blobs(seed, shape, 8)
    whole = weigh(ridge(ids), Box.whole(shape), (0.7, 1.9), sigma=sigma)
    halo = reach(sigma) + 1
    rng = np.random.default_rng(seed)
    start = [int(rng.integers(0, n)) for n in shape]
    core = Box(tuple(start), tuple(min(a + n, m) for a, n, m in zip(start, side, shape, strict=True)))
    around = core.grow((halo, halo), (halo, halo)).intersect(Box.whole(shape))
    found = weigh(ridge(ids[around.slices]), core.relative_to(around), (0.7, 1.9), sigma=sigma)
    np.testing.assert_array_equal(found, whole[core.slices])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("is_before", [False, True])
def test_a_halo_that_is_one_short_misses_an_object(axis: int, is_before: bool) -> None:
    halo = reach(sigma=5, w0=10)
    assert halo == 27
    line = np.zeros(2 * halo + 1, np.uint32)
    line[halo - 1], line[-1] = 1, 2  # 1 and 27 pixels from the middle
    line = line[::-1] if is_before else line
    ids = np.tile(line, (5, 1)) if axis else np.tile(line[:, None], (1, 5))
    middle = Box((2, halo), (3, halo + 1)) if axis else Box((halo, 2), (halo + 1, 3))
    expected = 10 * np.exp(-(28**2) / 50)
    assert weigh(ids, middle, (0, 0))[0, 0] == pytest.approx(expected, rel=1e-6)
    less = 0 if is_before else ids.shape[axis] - 1
    assert weigh(np.delete(ids, less, axis), middle.shift([-is_before * (a == axis) for a in (0, 1)]), (0, 0)) == 0


def test_a_halo_that_is_much_too_short_is_seen() -> None:
    x = np.arange(200)
    ids = np.tile(np.where(x % 22 < 3, x // 22 + 1, 0), (200, 1))  # bands of 3 pixels, 19 apart
    core = Box((64, 64), (128, 128))
    whole = weigh(ids, core, (0, 0))
    # Of the core's first pixel the bands are 18 and 2 away; without the one, the next is 24 away.
    lacking = 10 * np.exp(-(20**2) / 50) - 10 * np.exp(-(26**2) / 50)
    for halo, lack in ((28, 0), (18, 0), (17, lacking)):
        around = core.grow((halo, halo), (halo, halo))
        found = weigh(ids[around.slices], core.relative_to(around), (0, 0))
        assert np.abs(found - whole).max() == pytest.approx(lack, rel=1e-5)


@given(w0=st.floats(1e-3, 1e4), sigma=st.floats(0.1, 100), tolerance=st.floats(1e-9, 1e-2))
def test_what_the_reach_leaves_out_is_within_the_tolerance(w0, sigma, tolerance):
    pixels = reach(sigma, w0, tolerance)
    assert w0 * np.exp(-((1 + pixels + 1) ** 2) / (2 * sigma**2)) <= tolerance


def test_two_pixels_in_every_place_have_the_weight_of_their_distances() -> None:
    for dy, dx in np.ndindex(20, 20):
        ids = np.zeros((41, 41), np.uint64)
        ids[20 - dy, 20 + dx], ids[20, 19] = 2**63 + 1, 2**63
        if ids[20, 20] == 0:
            total = np.hypot(dy, dx) + 1
            assert border_weights(ids)[20, 20] == pytest.approx(10 * np.exp(-(total**2) / 50), rel=1e-6)


def test_an_object_in_pieces_is_one_object() -> None:
    ids = np.zeros((9, 30), np.uint8)
    ids[:, :5] = ids[:, 9:12] = 4
    assert not border_weights(ids).any()
    ids[4, 25] = 7
    assert border_weights(ids)[4, 12:25].all()


def test_a_wide_sigma_has_its_tail() -> None:
    ids = np.zeros((40, 500), np.uint8)
    ids[10, 3], ids[30, 490] = 1, 2
    found = border_weights(ids, w0=10, sigma=100)
    np.testing.assert_allclose(found, naive_border(ids, 10, 100), atol=TOLERANCE + SMALLEST)
    assert found.max() > 1e-5


def test_class_weights_balance_counts() -> None:
    assert class_weights([75, 25]) == (100 / 150, 2.0)
    assert class_weights([0, 25]) == (0.0, 0.5)
    assert class_weights([0, 0]) == (0.0, 0.0)
    counts = [10, 20, 70]
    assert sum(n * w for n, w in zip(counts, class_weights(counts), strict=True)) == pytest.approx(100)


@pytest.mark.parametrize(
    ("ids", "options", "said"),
    [
        (np.zeros((3, 3)), {}, "object ids of type float64, must be integers"),
        (np.full((3, 3), -4), {}, "object id -4 is below 0"),
        (np.zeros((3, 3), int), {"sigma": 0}, "sigma 0: must be above 0"),
        (np.zeros((3, 3), int), {"sigma": float("nan")}, "sigma nan: must be above 0"),
        (np.zeros((3, 3), int), {"w0": -1}, "w0 -1: must be 0 or more"),
        (np.zeros((3, 3), int), {"sigma": 500}, f"looks 2837 pixels far, at most {MAX_REACH} can be"),
    ],
)
def test_bad_input_is_one_line(ids: Array, options: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        border_weights(ids, **options)
    assert "\n" not in str(caught.value)
