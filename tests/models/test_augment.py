"""Augmentation: exact where nothing is interpolated, image and truth alike, within its limits, from the seed alone."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from models.augment import Augmentation, Warp, apply, draw
from tilekit.box import Box
from tilekit.errors import InputError

VOID = 255
STILL = Warp(matrix=np.eye(2), shift=np.zeros(2, np.int64), displacement=np.zeros((3, 3, 2)))
ALL = Augmentation(True, 180, 0.3, 7, 5, 3, 0.3, 0.3, 0.3, 0.1)


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def source(n: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """Random image (2, n, n), truth of four classes and a tenth of void, weights."""
    g = torch.Generator().manual_seed(n)
    truth = torch.randint(0, 4, (n, n), generator=g, dtype=torch.uint8)
    truth[torch.rand(truth.shape, generator=g) < 0.1] = VOID
    return torch.randn((2, n, n), generator=g), truth, 1 + torch.rand(truth.shape, generator=g)


def warped(
    warp: Warp, of: tuple[Tensor, ...], center: tuple[int, int], side: int, core: Box | None = None
) -> tuple[Tensor, ...]:
    """The patch that a warp makes of these pixels around a center: image, truth, weights."""
    y, x = warp.source_box(center, side).slices
    of_core = warp.source_box(center, side, core).slices
    image, truth, weights = of
    assert min(y.start, x.start) >= 0
    assert max(y.stop, x.stop) <= len(truth)
    found = apply([warp], [image[:, y, x]], [truth[of_core]], [weights[of_core]], side, core)
    return tuple(part[0] for part in found)


def places(warp: Warp, center: tuple[int, int], side: int, n: int) -> NDArray[np.float32]:
    """Where the pixels of a patch come from (2, side, side), read off weights that show their own coordinates."""
    image, truth = torch.zeros((1, n, n)), torch.zeros((n, n), dtype=torch.uint8)
    axes = np.indices((n, n), dtype=np.float32)
    return np.stack([warped(warp, (image, truth, torch.from_numpy(axis)), center, side)[2].numpy() for axis in axes])


def expected_places(warp: Warp, center: tuple[int, int], side: int) -> NDArray[np.float64]:
    """The same by the formula in Warp's words, the displacement by Keys' cubic convolution with repeated ends."""
    p = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1) - (side - 1) / 2
    middle = np.array(center) - side // 2 + (side - 1) / 2
    at, n = np.arange(side) * (len(warp.displacement) - 1) / (side - 1), len(warp.displacement)
    kernel = np.zeros((side, n))
    for tap in range(-2, n + 2):
        t = np.abs(at - tap)
        near, far = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
        kernel[:, min(max(tap, 0), n - 1)] += np.where(t <= 1, near, np.where(t < 2, far, 0))
    smooth = np.einsum("yk,klc,xl->yxc", kernel, warp.displacement, kernel)
    return np.moveaxis(middle + p @ warp.matrix.T + warp.shift + smooth, -1, 0)


@pytest.mark.parametrize("side", [60, 61])
def test_what_changes_nothing_gives_the_pixels_themselves(side: int) -> None:
    image, truth, weights = source()
    warp = draw(Augmentation(), generator(1), side)
    box = warp.source_box((90, 100), side)
    assert box == Box((60, 70), (60 + side, 70 + side))
    found = warped(warp, (image, truth, weights), (90, 100), side)
    assert torch.equal(found[0], image[(slice(None), *box.slices)])
    assert torch.equal(found[1], truth[box.slices])
    assert torch.equal(found[2], weights[box.slices].where(truth[box.slices] != VOID, 0))
    assert found[1].dtype == torch.uint8


@pytest.mark.parametrize("side", [60, 61])
def test_a_shift_is_a_crop_elsewhere(side: int) -> None:
    of = source()
    moved = draw(Augmentation(shift=9), generator(5), side)
    assert moved.shift.any()
    here = (100 + int(moved.shift[0]), 100 + int(moved.shift[1]))
    for a, b in zip(warped(moved, of, (100, 100), side), warped(STILL, of, here, side), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("side", [60, 61])
def test_flips_and_quarter_turns_are_those_of_torch_bit_for_bit(side: int) -> None:
    of = source()
    drawn = [draw(Augmentation(flip=True), generator(seed), side) for seed in range(60)]
    unique = {tuple(warp.matrix.ravel()): warp for warp in drawn}
    upright = warped(STILL, of, (100, 100), side)
    group = [
        [turned.flip(-1) if flip else turned for turned in (torch.rot90(part, k, (-2, -1)) for part in upright)]
        for k, flip in itertools.product(range(4), (False, True))
    ]
    matched = set()
    for warp in unique.values():
        found = warped(warp, of, (100, 100), side)
        matched |= {i for i, member in enumerate(group) if all(map(torch.equal, found, member))}
    assert len(unique) == len(matched) == 8


@pytest.mark.parametrize("side", [60, 61])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotation_by_quarters_interpolates_to_the_turned_pixels(side: int, degrees: int) -> None:
    of = source()
    a = math.radians(degrees)  # of which sine or cosine is not quite 0: pixels are interpolated
    turned = replace(STILL, matrix=np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]))
    assert turned.interpolates
    for found, upright in zip(warped(turned, of, (100, 100), side), warped(STILL, of, (100, 100), side), strict=True):
        torch.testing.assert_close(found, torch.rot90(upright, -degrees // 90, (-2, -1)), rtol=0, atol=2e-3)


@given(seed=st.integers(0, 2**40), side=st.integers(24, 90), grid=st.integers(2, 5))
def test_pixels_come_from_where_the_formula_says(seed: int, side: int, grid: int) -> None:
    warp = draw(replace(ALL, grid=grid, elastic=side / 7 / grid), generator(seed), side)
    found = places(warp, (200, 201), side, 400)
    np.testing.assert_allclose(found, expected_places(warp, (200, 201), side), rtol=0, atol=1e-3)


@given(
    seed=st.integers(0, 2**40),
    side=st.integers(24, 90),
    center=st.tuples(st.integers(-500, 500), st.integers(-500, 500)),
    corner=st.tuples(st.integers(0, 10), st.integers(0, 10)),
)
def test_the_box_holds_all_places_with_their_neighbours_and_no_more(
    seed: int, side: int, center: tuple[int, int], corner: tuple[int, int]
) -> None:
    warp = draw(replace(ALL, elastic=side / 13), generator(seed), side)
    for core in (None, Box(corner, (side - 12, side - 5))):
        box = warp.source_box(center, side, core)
        sampled = expected_places(warp, center, side)[(slice(None), *(core or Box.whole((side, side))).slices)]
        low, high = sampled.min((1, 2)), sampled.max((1, 2))
        np.testing.assert_array_equal(box.start, np.floor(low) - 1)
        np.testing.assert_array_equal(box.stop, np.floor(high) + 3)


@given(seed=st.integers(0, 2**40), augmentation=st.sampled_from([ALL, Augmentation(flip=True, shift=5)]))
def test_labels_of_a_core_are_those_of_the_whole_patch(seed: int, augmentation: Augmentation) -> None:
    of, core = source(300), Box((9, 20), (40, 58))
    warp = draw(augmentation, generator(seed), 61)
    whole, part = (warped(warp, of, (150, 150), 61, c) for c in (None, core))
    assert torch.equal(part[0], whole[0])
    same = part[1] == whole[1][core.slices]
    assert same.float().mean() > 0.999  # a place half-way between two pixels may round to either
    torch.testing.assert_close(part[2][same], whole[2][core.slices][same], rtol=0, atol=2e-3)


@given(seed=st.integers(0, 2**40))
def test_truth_stays_integral_void_stays_void_and_has_no_weight(seed: int) -> None:
    image, _, weights = source(300)
    truth = torch.zeros((300, 300), dtype=torch.uint8)
    truth[100:160, 120:170], truth[160:200, 100:200] = 7, VOID
    _, found, weight = warped(draw(ALL, generator(seed), 80), (image, truth, weights), (150, 150), 80)
    assert set(found.unique().tolist()) <= {0, 7, VOID}
    assert found.dtype == torch.uint8
    assert (weight[found == VOID] == 0).all()
    assert (weight[found != VOID] > 0).float().mean() > 0.99
    assert weight.max() <= weights.max()


def test_void_everywhere_and_nowhere_stay_so() -> None:
    image, _, weights = source(300)
    for value in (VOID, 3):
        truth = torch.full((300, 300), value, dtype=torch.uint8)
        assert (warped(draw(ALL, generator(3), 80), (image, truth, weights), (150, 150), 80)[1] == value).all()


@pytest.mark.parametrize("seed", range(5))
def test_image_and_truth_move_alike(seed: int) -> None:
    """A label image warped as an image, then rounded, is the truth, but for pixels on its borders."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(500, 500)), 8)
    labels = torch.from_numpy((noise > 0).astype(np.uint8))
    augmentation = Augmentation(flip=True, rotate=180, scale=0.2, shift=20, elastic=10)
    warp = draw(augmentation, generator(seed), 200)
    image, truth, _ = warped(warp, (labels[None].float(), labels, torch.ones(500, 500)), (250, 250), 200)
    agrees = (image[0] > 0.5).numpy() == truth.numpy()
    border = ndimage.maximum_filter(truth.numpy(), 3) != ndimage.minimum_filter(truth.numpy(), 3)
    assert agrees[~border].mean() >= 0.9999
    assert agrees.mean() >= 0.99
    assert border.any()
    shifted = np.roll(truth.numpy(), 2, axis=1)  # two pixels off would show
    assert ((image[0] > 0.5).numpy() == shifted)[~border].mean() < 0.9999


def test_displacements_have_the_asked_spread_and_are_the_drawn_ones_at_the_points_of_the_grid() -> None:
    side, warps = 201, [draw(Augmentation(elastic=10), generator(7, step), 201) for step in range(2000)]
    drawn = np.stack([warp.displacement for warp in warps])
    assert drawn.std((0, 1, 2)) == pytest.approx([10, 10], rel=0.02)
    assert abs(drawn.mean()) < 0.2
    assert abs(np.corrcoef(drawn.reshape(len(drawn), -1).T) - np.eye(18)).max() < 0.1
    for warp in warps[:5]:
        moved = places(warp, (200, 200), side, 400) - expected_places(STILL, (200, 200), side)
        np.testing.assert_allclose(moved[:, ::100, ::100], np.moveaxis(warp.displacement, -1, 0), rtol=0, atol=1e-3)


def test_displacement_is_smooth() -> None:
    """Its slope has no jumps: those of a bilinear field at the points of the grid are 20 times as large."""
    side = 201
    warp = draw(Augmentation(elastic=10), generator(3), side)
    moved = places(warp, (200, 200), side, 400).astype(np.float64) - expected_places(STILL, (200, 200), side)
    bend = np.abs(np.diff(moved, 2, axis=1)).max()
    corner = np.abs(np.diff(warp.displacement, 2, axis=0)).max() / 100  # slopes of a bilinear field meet so
    assert corner > 0.1
    assert bend < corner / 20


def test_rotation_scale_shift_and_grey_values_fill_their_limits_and_stay_within() -> None:
    a = Augmentation(rotate=20, scale=0.25, shift=6, contrast=0.2, brightness=0.3, gamma=0.4, noise=0.1)
    warps = [draw(a, generator(1, step), 64) for step in range(4000)]
    magnified = np.array([1 / math.sqrt(np.linalg.det(warp.matrix)) for warp in warps])
    angles = np.degrees([math.atan2(warp.matrix[1, 0], warp.matrix[0, 0]) for warp in warps])
    of: dict[str, tuple[NDArray[Any], float, float]] = {
        "rotate": (angles, -20, 20),
        "scale": (magnified, 0.75, 1.25),
        "shift": (np.concatenate([warp.shift for warp in warps]), -6, 6),
        "contrast": (np.array([warp.contrast for warp in warps]), 0.8, 1.2),
        "brightness": (np.array([warp.brightness for warp in warps]), -0.3, 0.3),
        "gamma": (np.array([warp.gamma for warp in warps]), 0.6, 1.4),
        "noise": (np.array([warp.noise for warp in warps]), 0, 0.1),
    }
    for name, (values, low, high) in of.items():
        slack = 0.01 * (high - low)
        assert low - 1e-9 <= values.min() < low + slack, name
        assert high - slack < values.max() <= high + 1e-9, name
    assert np.log(magnified).mean() == pytest.approx((math.log(0.75) + math.log(1.25)) / 2, abs=0.01)


def test_a_larger_scale_shows_things_larger() -> None:
    image = torch.zeros((1, 100, 100))
    image[0, 40:60, 40:60] = 1
    twice = replace(STILL, matrix=np.eye(2) / 2)
    found, *_ = warped(twice, (image, torch.zeros((100, 100), dtype=torch.uint8), torch.ones(100, 100)), (50, 50), 60)
    assert float((found > 0.5).sum()) == 1600


def test_grey_values() -> None:
    image, truth, weights = source()

    def grey(**values: float) -> Tensor:
        return warped(replace(STILL, **values), (image, truth, weights), (100, 100), 60)[0]  # type: ignore[arg-type]

    x = grey()
    torch.testing.assert_close(grey(brightness=0.5), x + 0.5)
    mean, low, high = x.mean((1, 2), keepdim=True), x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
    torch.testing.assert_close(grey(contrast=1.3), mean + 1.3 * (x - mean))
    torch.testing.assert_close(grey(gamma=0.7), low + (high - low) * ((x - low) / (high - low)) ** 0.7)
    noise = grey(noise=0.1, seed=4) - x
    assert float(noise.std()) == pytest.approx(0.1, rel=0.03)
    assert torch.equal(noise, grey(noise=0.1, seed=4) - x)
    assert not torch.equal(noise, grey(noise=0.1, seed=5) - x)


def test_gamma_leaves_a_flat_channel_as_it_is() -> None:
    image = torch.full((1, 100, 100), -0.3)
    flat = (image, torch.zeros((100, 100), dtype=torch.uint8), torch.ones((100, 100)))
    assert (warped(replace(STILL, gamma=0.5), flat, (50, 50), 60)[0] == image[0, 0, 0]).all()


def test_the_same_seed_gives_the_same_patch_whatever_is_beside_it() -> None:
    image, truth, weights = source(300)
    warps = [draw(ALL, generator(2, item), 80) for item in range(3)]
    boxes = [warp.source_box((150, 150), 80).slices for warp in warps]
    assert len({warp.source_box((150, 150), 80).shape for warp in warps}) > 1  # boxes of a batch differ in size
    together = apply(
        warps, [image[:, y, x] for y, x in boxes], [truth[b] for b in boxes], [weights[b] for b in boxes], 80
    )
    assert [tuple(part.shape) for part in together] == [(3, 2, 80, 80), (3, 80, 80), (3, 80, 80)]
    for item in range(3):
        alone = warped(draw(ALL, generator(2, item), 80), (image, truth, weights), (150, 150), 80)
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a, b[item])


def test_turning_one_variation_off_leaves_the_others_as_they_were() -> None:
    full, less = (draw(a, generator(9), 80) for a in (ALL, replace(ALL, rotate=0, noise=0)))
    assert (full.contrast, full.gamma, full.seed) == (less.contrast, less.gamma, less.seed)
    np.testing.assert_array_equal(full.displacement, less.displacement)
    assert not np.array_equal(full.matrix, less.matrix)


def test_pixels_of_another_box_are_refused() -> None:
    image, truth, weights = source()
    with pytest.raises(ValueError, match=r"shape \(200, 200\), but the warp takes \(60, 60\)"):
        apply([STILL], [image], [truth], [weights], 60)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rotate": 181}, "rotate is 181, must be from 0 to 180"),
        ({"scale": 1.0}, "scale is 1.0, must be from 0 to 0.9"),
        ({"noise": -1}, "noise is -1"),
        ({"shift": math.nan}, "shift is nan"),
        ({"grid": 1}, "grid of 1 points a side, must be 2 or more"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Augmentation(**setting)


def test_a_deformation_that_folds_the_patch_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"elastic of 10 pixels folds a patch of 64 pixels on a grid of 3; at most 5\.2"
    ):
        draw(Augmentation(elastic=10), generator(1), 64)
