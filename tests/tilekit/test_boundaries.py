"""Scores of boundary maps: warping against brute force, every neighborhood, hand-made cases, and the empty ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cc3d
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.metrics import adapted_rand_error

from tilekit.boundaries import (
    CIRCLE,
    THRESHOLDS,
    boundary_scores,
    count_slice,
    label,
    simple_points,
    splits_and_mergers,
    thin,
    warp,
)
from tilekit.sources import open_image

Binary = NDArray[np.uint8]


def picture(text: str) -> Binary:
    """A slice drawn with # for membrane and anything else for inside."""
    return np.array([[c != "#" for c in line.strip()] for line in text.split()], np.uint8)


def topology(image: Binary) -> tuple[int, int]:
    """4-connected objects and 8-connected parts of the membrane, which reaches around the slice."""
    padded = np.pad(image, 1)
    return int(cc3d.connected_components(padded, connectivity=4).max()), int(
        cc3d.connected_components(1 - padded, connectivity=8).max()
    )


def is_simple(image: Binary, y: int, x: int) -> bool:
    """True where flipping a pixel changes neither number, in the 3 x 3 about it alone: the pixel's own topology."""
    numbers = []
    for value in (0, 1):
        small = np.pad(image, 1)[y : y + 3, x : x + 3].copy()
        small[1, 1] = value
        objects = cc3d.connected_components(small, connectivity=4)
        membranes = cc3d.connected_components(1 - small, connectivity=8)
        numbers.append((_near(objects, 4), _near(membranes, 8)))
    return numbers[0][0] == 1 and numbers[1][1] == 1


def _near(labels: Any, connectivity: int) -> int:
    """Components of a 3 x 3 that touch its center, which is not of them."""
    around = [labels[1 + dy, 1 + dx] for dy, dx in CIRCLE if connectivity == 8 or 0 in (dy, dx)]
    return len({int(v) for v in around if v})


def brute_force_warp(truth: Binary, prediction: Binary) -> int:
    """The fewest pixels that differ from the prediction in anything reachable from the truth by simple flips to it."""
    best, seen, front = truth.size, {truth.tobytes()}, [truth]
    while front:
        image = front.pop()
        differing = np.argwhere(image != prediction)
        best = min(best, len(differing))
        for y, x in differing:
            if is_simple(image, y, x):
                following = image.copy()
                following[y, x] ^= 1
                if following.tobytes() not in seen:
                    seen.add(following.tobytes())
                    front.append(following)
    return best


def greedy_warp(truth: Binary, prediction: Binary, order: Any) -> Binary:
    """Fiji's warping in slow words: the differing pixels by order, columns first, round after round."""
    image = truth.copy()
    while True:
        before = image.copy()
        points = sorted(
            ((y, x) for y, x in np.argwhere(image != prediction)), key=lambda p: (-order[p[0], p[1]], p[1], p[0])
        )
        for y, x in points:
            if is_simple(image, y, x):
                image[y, x] ^= 1
        if (image == before).all():
            return image


def random_slices(seed: int, shape: tuple[int, int], noise: float) -> tuple[Binary, Binary]:
    """A drawing of cells, and one that differs."""
    generator = np.random.default_rng(seed)
    truth = (generator.random(shape) < 0.6).astype(np.uint8)
    return truth, np.where(generator.random(shape) < noise, 1 - truth, truth).astype(np.uint8)


def test_a_neighborhood_is_simple_where_flipping_its_center_leaves_the_topology_alone() -> None:
    for bits in range(256):
        image = np.zeros((3, 3), np.uint8)
        for k, (dy, dx) in enumerate(CIRCLE):
            image[1 + dy, 1 + dx] = bits >> k & 1
        assert simple_points()[bits] == is_simple(image, 1, 1), bin(bits)
    assert simple_points().sum() == 116, "the number that the literature gives"


@given(seed=st.integers(0, 10_000), shape=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_warping_is_the_slow_one_and_keeps_the_topology(seed: int, shape: tuple[int, int]) -> None:
    truth, prediction = random_slices(seed, shape, 0.4)
    order = np.random.default_rng(seed).integers(0, 3, shape).astype(float)
    warped = warp(truth, prediction, order)
    assert warped.tolist() == greedy_warp(truth, prediction, order).tolist()
    assert topology(warped) == topology(truth)


def test_warping_is_never_below_the_fewest_changes_and_mostly_at_them() -> None:
    n_equal, n = 0, 40
    for seed in range(n):
        truth, prediction = random_slices(seed, (4, 4), 0.5)
        fewest = brute_force_warp(truth, prediction)
        found = int((warp(truth, prediction, np.zeros(truth.shape)) != prediction).sum())
        assert found >= fewest
        n_equal += found == fewest
    assert n_equal >= 0.8 * n


TWO = picture("""...#... ...#... ...#... ...#... ...#...""")
MERGED = picture("""...#... ...#... ....... ...#... ...#...""")
SHIFTED = picture("""....#.. ....#.. ....#.. ....#.. ....#..""")
ONE = picture("""....... ....... ....... ....... .......""")
HOLE = picture("""....... ....... ...#... ....... .......""")


@pytest.mark.parametrize(
    ("truth", "prediction", "pixels", "splits", "mergers"),
    [
        (TWO, TWO, 0, 0, 0),
        (TWO, SHIFTED, 0, 0, 0),  # a border may move
        (TWO, MERGED, 1, 0, 1),  # one pixel of the gap joins two objects
        (TWO, ONE, 1, 0, 1),  # a wall that is missing is one merger, however long
        (ONE, TWO, 1, 1, 0),
        (ONE, HOLE, 1, 0, 0),  # a hole is neither split nor merger
    ],
)
def test_hand_made_warpings(truth: Binary, prediction: Binary, pixels: int, splits: int, mergers: int) -> None:
    warped = warp(truth, prediction, np.zeros(truth.shape))
    differing = int((warped != prediction).sum())
    assert splits_and_mergers(warped, prediction) == (splits, mergers)
    assert differing >= pixels
    assert (differing == 0) == (pixels == 0)


def test_warping_by_hand_counts_the_pixels_of_a_gap() -> None:
    assert (warp(TWO, MERGED, np.zeros(TWO.shape)) != MERGED).sum() == 1


@given(seed=st.integers(0, 10_000), shape=st.tuples(st.integers(1, 15), st.integers(1, 15)))
def test_thinning_keeps_the_topology_and_leaves_nothing_to_thin(seed: int, shape: tuple[int, int]) -> None:
    image = random_slices(seed, shape, 0)[0]
    thinned = thin(image)
    assert topology(thinned) == topology(image)
    assert (thinned >= image).all()
    assert (thin(thinned) == thinned).all()


def test_a_thick_wall_becomes_a_line() -> None:
    assert thin(picture("""..####.. ..####.. ..####..""")).sum(1).tolist() == [7, 7, 7]


@given(seed=st.integers(0, 1000), shape=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_components_are_those_of_cc3d(seed: int, shape: tuple[int, int]) -> None:
    image = random_slices(seed, shape, 0)[0]
    ours, theirs = label(image), cc3d.connected_components(image, connectivity=4)
    assert len(set(zip(ours.ravel().tolist(), theirs.ravel().tolist(), strict=True))) == ours.max() + 1 - (image.all())
    assert ours.max() == theirs.max()


def rand_by_pairs(prediction: Any, truth: Any) -> float:
    """1 - F-score over all pairs of pixels of the truth's objects; predicted membrane makes no pair."""
    both = wanted = found = 0
    pixels = [(t, p) for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True) if t]
    for i, (t, p) in enumerate(pixels):
        for u, q in pixels[:i]:
            wanted += t == u
            found += p == q and p > 0
            both += t == u and p == q and p > 0
    return 1 - 2 * both / (wanted + found)


@given(seed=st.integers(0, 200))
def test_rand_isbi2012_is_the_best_of_eleven_thresholds_over_pairs_of_pixels(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = random_slices(seed, (6, 7), 0)[0]
    probability = np.clip(truth * 0.6 + generator.random(truth.shape) * 0.5, 0, 1)
    errors = []
    for k in range(11):
        cut = (probability > THRESHOLDS[k]).astype(np.uint8)
        objects = [cc3d.connected_components(image, connectivity=4) for image in (cut, truth)]
        if objects[1].max():
            errors.append(rand_by_pairs(*objects))
    if errors and any(np.bincount(label(truth).ravel())[1:] > 1):
        found = boundary_scores(count_slice(probability, truth))
        assert found["rand_isbi2012"] == pytest.approx(min(errors), abs=1e-12)


def test_pixel_error_and_squared_distance_by_hand() -> None:
    truth = picture("..##")
    found = boundary_scores(count_slice(np.array([[1, 0.55, 0.45, 0]]), truth))
    assert found["pixel_error"] == 0, "at the threshold of a half"
    assert found["pixel_error_squared"] == pytest.approx((0.45**2 + 0.45**2) / 4)


def test_thin_borders_forgive_a_wide_membrane_and_isbi_does_not() -> None:
    truth = picture("\n".join(["....#...."] * 9))
    wide = picture("\n".join(["...###..."] * 9))
    found = boundary_scores(count_slice(wide, truth))
    assert found["v_rand_thin"] == 0
    assert found["rand_isbi2012"] > 0.1
    assert found["warping_error"] == 0


def test_a_truth_against_itself_is_perfect_and_slices_add() -> None:
    slices = [random_slices(k, (20, 30), 0)[0] for k in range(3)]
    found = boundary_scores(sum((count_slice(s, s) for s in slices[1:]), start=count_slice(slices[0], slices[0])))
    assert found.pop("slices") == 3
    assert set(found.values()) == {0}


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        ([0, 0], [0, 0], {"pixel_error": None, "rand_isbi2012": None, "v_rand_thin": None, "warping_error": 0}),
        ([0, 0], [1, 1], {"pixel_error": 1, "rand_isbi2012": 1, "warping_isbi2012": 0}),
        ([1, 1], [0, 0], {"pixel_error": 1, "rand_isbi2012": None, "pixel_error_squared": 1}),
    ],
)
def test_empty_cases(prediction: Sequence[int], truth: Sequence[int], expected: dict[str, float | None]) -> None:
    found = boundary_scores(count_slice(np.array([prediction]), np.array([truth])))
    for name, value in expected.items():
        assert math.isnan(found[name]) if value is None else found[name] == value, name


def test_real_membranes_against_themselves_and_a_shifted_copy(shared_data) -> None:
    truth = open_image(shared_data / "isbi2012-em" / "label" / "00.png", as_labels=True).read([])
    itself = boundary_scores(count_slice(truth / 255.0, truth))
    assert {v for k, v in itself.items() if k != "slices"} == {0}
    shifted = np.roll(truth, 3, 1)
    found = boundary_scores(count_slice(shifted / 255.0, truth))
    objects = [cc3d.connected_components(image > 0, connectivity=4).astype(int) for image in (truth, shifted)]
    assert found["adapted_rand"] == pytest.approx(adapted_rand_error(*objects)[0], abs=1e-12)
    inside = int((truth > 0).sum())
    both = int(((truth > 0) & (shifted > 0)).sum())
    assert found["pixel_error"] == pytest.approx(1 - 2 * both / (2 * inside))
