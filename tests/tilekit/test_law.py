"""Law 1 with a plain filter of known reach and stride: blocks in memory, hundreds of shapes, compared with one call.

No network and no store: what is tried is jobs.predict and its arithmetic of halo, stride, core, block and mirror.
Run with -s to see how many combinations were tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import PlainFilter, whole_image_classes
from tilekit.box import Box
from tilekit.jobs.area import ImageMask
from tilekit.jobs.input import Input
from tilekit.jobs.predict import Layout, PredictConfig, class_pyramids, compute_block
from tilekit.plan import ImageFacts, make_plan
from tilekit.predictor import VOID
from tilekit.sources import open_image
from tilekit.tiling import Halo

tried: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def figures() -> Iterator[None]:
    yield
    print(f"\nplain filters: {dict(tried)}, 0 pixels differ")


def configure(
    image: np.ndarray, predictor: Any, *, tile: int, block: int, nodata: float | None = None, **options: Any
) -> PredictConfig:
    """The configuration of a prediction of an array (c, y, x), as tilekit.predict would make it."""
    source = open_image(image, nodata=nodata)
    plan = make_plan(
        ImageFacts((), image.shape[0], image.shape[1:], image.dtype.itemsize), predictor, tile=tile, block=block
    )
    seen = Input.of(source, tuple(range(image.shape[0])), tuple(float(i + 3) for i in range(image.shape[0])))
    out = Path("nowhere.zarr")
    pyramids = class_pyramids(seen, plan, predictor, Layout(out, "0.5", True, None))
    return PredictConfig(
        input=seen,
        predictor=predictor,
        plan=plan,
        pyramids=pyramids,
        boxes=options.get("boxes", ()),
        area=options.get("area"),
        folder=out,
    )


def by_blocks(config: PredictConfig) -> np.ndarray:
    """The class map (y, x), block by block; blocks go backwards, since their order must not matter."""
    found = np.full(config.plan.image.shape, 200, np.uint8)
    for block in reversed(list(config.plan.grid)):
        results, _ = compute_block(config, block)
        found[block.box.slices] = results[0]
    return found


@st.composite
def cases(draw: Any, channels: int = 2) -> tuple[np.ndarray, PlainFilter, int, int]:
    """An image, a filter, a tile and a block; the image often smaller than the halo."""
    stride = draw(st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([1, 2, 4, 6])))
    cells = st.tuples(st.integers(0, 3), st.integers(0, 3))
    predictor = PlainFilter(
        stride=stride, cells_before=draw(cells), cells_after=draw(cells), in_channels=draw(st.integers(1, channels))
    )
    side = st.one_of(st.integers(1, 12), st.integers(1, 70))
    shape = (predictor.in_channels, draw(side), draw(side))
    unit = int(np.lcm(*stride))
    block = unit * draw(st.integers(1, max(1, 48 // unit)))
    tile = draw(st.integers(1, 60))
    seed = draw(st.integers(0, 2**32 - 1))
    image = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return image, predictor, tile, block


@settings(max_examples=500)
@given(cases())
def test_blocks_of_tiles_are_one_call_over_the_whole_mirrored_image(case):
    image, predictor, tile, block = case
    found = by_blocks(configure(image, predictor, tile=tile, block=block))
    assert (found == whole_image_classes(predictor, image)).all()
    tried["whole image"] += 1


@settings(max_examples=150)
@given(cases(), st.data())
def test_a_box_is_predicted_as_in_the_whole_image_and_the_rest_is_void(case, data):
    image, predictor, tile, block = case
    start = tuple(data.draw(st.integers(0, n - 1)) for n in image.shape[1:])
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, image.shape[1:], strict=True))
    box = Box(start, stop)
    found = by_blocks(configure(image, predictor, tile=tile, block=block, boxes=(box,)))
    wanted = np.full(image.shape[1:], VOID, np.uint8)
    wanted[box.slices] = whole_image_classes(predictor, image)[box.slices]
    assert (found == wanted).all()
    tried["box"] += 1


@settings(max_examples=100)
@given(cases(), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 0.6, 1.0]))
def test_a_mask_is_void_where_it_is_zero_and_changes_nothing_elsewhere(case, seed, share):
    image, predictor, tile, block = case
    mask = (np.random.default_rng(seed).random(image.shape[1:]) < share).astype(np.uint8)
    area = ImageMask.of(open_image(mask), mask.shape)
    found = by_blocks(configure(image, predictor, tile=tile, block=block, area=area))
    assert (found == np.where(mask, whole_image_classes(predictor, image), VOID)).all()
    tried["mask"] += 1


@settings(max_examples=150)
@given(cases(), st.sampled_from([0.05, 0.5, 0.97]), st.integers(0, 2**32 - 1))
def test_nodata_is_void_and_seen_by_the_network_as_the_channels_mean(case, share, seed):
    image, predictor, tile, block = case
    image = np.where(np.random.default_rng(seed).random(image.shape[1:]) < share, 0, np.maximum(image, 1))
    image = image.astype(np.uint8)
    means = np.arange(3, 3 + len(image), dtype=np.uint8).reshape(-1, 1, 1)
    found = by_blocks(configure(image, predictor, tile=tile, block=block, nodata=0))
    wanted = whole_image_classes(predictor, np.where(image == 0, means, image))
    assert (found == np.where((image == 0).all(0), VOID, wanted)).all()
    tried["nodata"] += 1


class OutOfMemory:
    """A predictor on a device that holds only small tiles."""

    def __init__(self, inner: PlainFilter, most: int) -> None:
        self.inner, self.most = inner, most

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def predict(self, x: np.ndarray, probabilities: bool = False) -> Any:
        if x.shape[2] * x.shape[3] > self.most:
            raise MemoryError
        return self.inner.predict(x, probabilities)


@settings(max_examples=100)
@given(cases())
def test_tiles_halved_for_want_of_memory_give_the_same(case):
    image, predictor, tile, block = case
    smallest = [
        s + a + b for s, a, b in zip(predictor.stride, predictor.halo.before, predictor.halo.after, strict=True)
    ]
    poor = OutOfMemory(predictor, 2 * smallest[0] * smallest[1])
    found = by_blocks(configure(image, poor, tile=tile, block=block))
    assert (found == whole_image_classes(predictor, image)).all()
    tried["halved tiles"] += 1


# What the law asks for is needed.


class Short:
    """A predictor that states a halo of one cell less than it looks at, and is filled up with zeros."""

    def __init__(self, inner: PlainFilter, side: str) -> None:
        self.inner, self.side = inner, side

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    @property
    def halo(self) -> Halo:
        halo = self.inner.halo
        return replace(halo, **{self.side: tuple(n - 1 for n in getattr(halo, self.side))})

    def predict(self, x: np.ndarray, probabilities: bool = False) -> Any:
        pad = (1, 0) if self.side == "before" else (0, 1)
        return self.inner.predict(np.pad(x, [(0, 0), (0, 0), pad, pad]), probabilities)


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_halo_of_one_pixel_less_fails(side):
    predictor = PlainFilter(stride=(1, 1), cells_before=(2, 2), cells_after=(2, 2))
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 40), np.uint8)
    wanted = whole_image_classes(predictor, image)
    assert (by_blocks(configure(image, predictor, tile=8, block=16)) == wanted).all()
    assert (by_blocks(configure(image, Short(predictor, side), tile=8, block=16)) != wanted).any()


class AnyStride:
    """A predictor that says that its stride is 1: every core is then off the phase of its cells."""

    stride = (1, 1)

    def __init__(self, inner: PlainFilter) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def predict(self, x: np.ndarray, probabilities: bool = False) -> Any:
        odd = [-n % s for n, s in zip(x.shape[2:], self.inner.stride, strict=True)]
        classes, _ = self.inner.predict(np.pad(x, [(0, 0), (0, 0), *((0, n) for n in odd)], mode="edge"))
        y, x_ = (n - a - b for n, a, b in zip(x.shape[2:], self.halo.before, self.halo.after, strict=True))
        return classes[:, :y, :x_], None


def test_a_step_that_is_not_a_multiple_of_the_stride_fails():
    predictor = PlainFilter(stride=(4, 4))
    image = np.random.default_rng(0).integers(0, 256, (1, 60, 60), np.uint8)
    wanted = whole_image_classes(predictor, image)
    assert (by_blocks(configure(image, AnyStride(predictor), tile=12, block=24)) == wanted).all()
    assert (by_blocks(configure(image, AnyStride(predictor), tile=10, block=20)) != wanted).any()
    assert (by_blocks(configure(image, predictor, tile=10, block=20)) == wanted).all()  # rounded down to 8


def test_the_phase_decides_the_answer_of_a_filter():
    """The oracle is no weakling: of an image moved by one pixel, a filter that pools gives another map."""
    image = np.random.default_rng(0).integers(0, 256, (1, 60, 60), np.uint8)
    for stride in ((2, 1), (1, 2), (8, 4)):
        predictor = PlainFilter(stride=stride)
        moved = whole_image_classes(predictor, np.roll(image, (1, 1), (1, 2)))
        still = whole_image_classes(predictor, image)
        assert (moved[21:-19, 21:-19] != still[20:-20, 20:-20]).any()
