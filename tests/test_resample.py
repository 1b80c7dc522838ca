"""A network sees every image at the pixel size that it was trained at: one grid for the image, whatever the tiles.

Compared with the image resampled whole, by a dense matrix of weights written here (and by Pillow), and predicted in one
forward pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import tilekit
import tilekit.resample
from models import Predictor, UNet, load, save
from tests.oracles import contents, random_network, structured_image, ties, whole_image_logits
from tests.test_exact import Liar, classes_of
from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.jobs.segment import Options, prepare
from tilekit.resample import Grid

SIZE = 0.25
"""Micrometers per pixel of the images."""
SHAPE = (611, 487)
PLAN: dict[str, Any] = {"tile": 64, "block": 160, "pixel_size": SIZE}
FACTORS = [2.0, 1.37, 3.3, 0.7]


def halved(image: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels of integers (c, y, x), halves up; an odd edge counted twice."""
    even = np.pad(image, [(0, 0), *((0, n % 2) for n in image.shape[1:])], mode="edge").astype(np.int64)
    return ((even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2] + 2) // 4).astype(
        image.dtype
    )


def weights(n: int, s: float) -> np.ndarray:
    """The dense matrix (network pixels, pixels) of one axis."""
    m = max(1, round(n / s))
    centers = (np.arange(m)[:, None] + 0.5) * s - 0.5
    matrix = np.clip(1 - np.abs(np.arange(n) - centers) / max(s, 1), 0, None)
    return matrix / matrix.sum(1, keepdims=True)


def resampled_whole(image: np.ndarray, s: float) -> np.ndarray:
    """An image (c, y, x) of which one pixel is s of this one's."""
    found = np.stack(
        [weights(image.shape[1], s) @ plane.astype(np.float64) @ weights(image.shape[2], s).T for plane in image]
    )
    return found.astype(image.dtype) if image.dtype.kind == "f" else np.floor(found + 0.5).astype(image.dtype)


def as_seen(image: np.ndarray, factor: float) -> np.ndarray:
    """What the network is to see of an image whose pixels are `factor` times smaller than its own."""
    halvings = 0
    while factor >= 2 ** (halvings + 1) and max(image.shape[1:]) > 512:
        image, halvings = halved(image), halvings + 1
    s = factor / 2**halvings
    return image if abs(s - 1) <= 0.01 else resampled_whole(image, s)


def mapped_back(seen: np.ndarray, factor: float, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Values (y, x) of network pixels on the image's pixels."""
    y, x = (
        np.minimum(np.floor((np.arange(n) + 0.5) / factor).astype(int), m - 1)
        for n, m in zip(shape, seen.shape, strict=True)
    )
    return seen[y[:, None], x]


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network, and the predictor of its checkpoint, trained at `factor` times the images' pixel size."""
    folder = tmp_path_factory.mktemp("nets")

    def make(factor: float | None, **options: Any) -> tuple[UNet, Predictor]:
        net = random_network(**{"depth": 3, "base": 4, **options})
        path = folder / f"{factor}-{len(list(folder.iterdir()))}.safetensors"
        size = None if factor is None else (factor * SIZE, factor * SIZE)
        save(net, path, class_names=["a", "b", "c"], pixel_size=size)
        return net, load(str(path), device="cpu")

    return make


def differing(found: np.ndarray, net: UNet, image: np.ndarray, factor: float) -> int:
    """Pixels of a class map unlike the whole image's, outside ties."""
    logits = whole_image_logits(net, as_seen(image, factor))
    wanted = mapped_back(logits.argmax(0), factor, image.shape[1:])
    return int(((found != wanted) & ~mapped_back(ties(logits), factor, image.shape[1:])).sum())


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("factor", FACTORS)
def test_the_classes_are_those_of_the_image_resampled_whole_and_predicted_in_one_pass(
    factor: float, padding: str, nets: Any, tmp_path: Path
) -> None:
    net, predictor = nets(factor, padding=padding)
    image = structured_image((1, *SHAPE), np.uint8, seed=4)
    result = tilekit.predict(image, predictor, tmp_path / "out.zarr", **PLAN)
    found = classes_of(tmp_path / "out.zarr")
    assert result["blocks"] == 16
    assert found.shape == SHAPE
    assert np.bincount(found.ravel(), minlength=3).min() > 0.01 * found.size
    assert differing(found, net, image, factor) == 0
    proof = tilekit.verify(tmp_path / "out.zarr", predictor, boxes=8, side=96)
    assert proof["differing_pixels"] == 0
    assert proof["max_abs_dp"] < 1e-4
    other = tmp_path / "other.zarr"
    tilekit.predict(image, predictor, other, tile=200, block=411, pixel_size=SIZE)
    assert differing(classes_of(other), net, image, factor) == 0


def test_other_dtypes_channels_and_sides_of_pixels_are_resampled_too(nets: Any, tmp_path: Path) -> None:
    net, predictor = nets(None, in_channels=2)
    image = structured_image((2, *SHAPE), np.uint16, seed=5)
    save(net, tmp_path / "net.safetensors", class_names=["a", "b", "c"], pixel_size=(SIZE, SIZE * 1.6))
    predictor = load(str(tmp_path / "net.safetensors"), device="cpu")
    for kind in (np.uint16, np.float32):
        pixels = image if kind is np.uint16 else (image / np.float32(65535)).astype(np.float32)
        out = tmp_path / f"{np.dtype(kind)}.zarr"
        tilekit.predict(pixels, predictor, out, **PLAN)
        seen = np.stack([p.astype(np.float64) @ weights(SHAPE[1], 1.6).T for p in pixels])
        seen = seen.astype(kind) if kind is np.float32 else np.floor(seen + 0.5).astype(kind)
        logits = whole_image_logits(net, seen)
        x = np.minimum(np.floor((np.arange(SHAPE[1]) + 0.5) / 1.6).astype(int), seen.shape[2] - 1)
        unlike = classes_of(out) != logits.argmax(0)[:, x]
        assert not (unlike & ~ties(logits)[:, x]).any()
        assert tilekit.verify(out, predictor, boxes=4, side=96)["differing_pixels"] == 0


@pytest.mark.slow
def test_workers_write_the_bytes_of_the_plain_loop(nets: Any, tmp_path: Path) -> None:
    net, predictor = nets(1.37)
    image = structured_image((1, *SHAPE), np.uint8, seed=6)
    np.save(tmp_path / "image.npy", image)
    for name, workers in (("serial", 0), ("two", 2)):
        tilekit.predict(tmp_path / "image.npy", predictor, tmp_path / f"{name}.zarr", workers=workers, **PLAN)
    assert contents(tmp_path / "serial.zarr") == contents(tmp_path / "two.zarr")
    assert differing(classes_of(tmp_path / "two.zarr"), net, image, 1.37) == 0


def test_labels_added_to_a_store_are_those_of_one_made_anew(nets: Any, tmp_path: Path) -> None:
    net, predictor = nets(3.3)
    image = structured_image((1, *SHAPE), np.uint8, seed=7)
    tilekit.ingest(image, tmp_path / "image.zarr", pixel_size=(SIZE, SIZE))
    tilekit.predict(tmp_path / "image.zarr", predictor, tmp_path / "image.zarr", tile=64, block=160)
    assert differing(classes_of(tmp_path / "image.zarr"), net, image, 3.3) == 0


# What makes it exact is needed.


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_halo_of_one_pixel_less_is_not_exact(side: str, nets: Any, tmp_path: Path) -> None:
    net, predictor = nets(1.37, tap=(0, 0) if side == "before" else (2, 2))
    image = structured_image((1, *SHAPE), np.uint8, seed=3)
    for short, wrong in (((0, 0), False), ((1, 0) if side == "before" else (0, 1), True)):
        out = tmp_path / f"{wrong}.zarr"
        tilekit.predict(image, Liar(predictor, short=short), out, **PLAN)
        assert (differing(classes_of(out), net, image, 1.37) > 0) == wrong


@pytest.mark.parametrize("factor", [1.37, 3.3, 0.7])
def test_a_grid_that_begins_with_each_block_is_not_exact(
    factor: float, nets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, predictor = nets(factor)
    image = structured_image((1, *SHAPE), np.uint8, seed=3)
    true = tilekit.resample.taps

    def from_its_own_origin(start: int, stop: int, s: float, n: int, origin: int = 0) -> Any:
        indices, shares = true(0, stop - start, s, 10**6, 0)
        moved = indices + min(max(round(start * s), 0), n - 1) - origin
        return np.clip(moved, 0, n - 1 - origin), shares

    monkeypatch.setattr(tilekit.resample, "taps", from_its_own_origin)
    tilekit.predict(image, predictor, tmp_path / "out.zarr", **PLAN)
    assert differing(classes_of(tmp_path / "out.zarr"), net, image, factor) > 100


def test_verify_finds_an_output_off_the_grid(nets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, predictor = nets(1.37)
    image = structured_image((1, *SHAPE), np.uint8, seed=3)
    original = tilekit.resample.taps
    with monkeypatch.context() as patch:
        patch.setattr(tilekit.resample, "taps", lambda a, b, s, n, o=0: original(a, b, s * 1.001, n, o))
        tilekit.predict(image, predictor, tmp_path / "out.zarr", **PLAN)
    assert tilekit.verify(tmp_path / "out.zarr", predictor, boxes=8, side=96)["differing_pixels"] > 0


# The resampling itself.


@st.composite
def boxes_of_grids(draw: Any) -> tuple[np.ndarray, Grid, Box]:
    shape = draw(st.tuples(st.integers(1, 150), st.integers(1, 150)))
    ratio = st.sampled_from([1.0, 2.0, 0.5]) | st.floats(0.25, 5.0)
    grid = Grid.fitted(shape, shape, (1.0, 1.0), (draw(ratio), draw(ratio)))
    start = tuple(draw(st.integers(0, n - 1)) for n in grid.shape)
    stop = tuple(draw(st.integers(a + 1, n)) for a, n in zip(start, grid.shape, strict=True))
    dtype = draw(st.sampled_from([np.uint8, np.int16, np.float32, np.uint64]))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    pixels = random.integers(0, 255, (1, *shape)) if dtype != np.float32 else random.normal(size=(1, *shape))
    return pixels.astype(dtype), grid, Box(start, stop)


@given(boxes_of_grids())
def test_any_box_has_the_bits_of_the_whole(case):
    pixels, grid, box = case

    def read(part: Box) -> np.ndarray:
        return grid.resample(pixels[(slice(None), *grid.source_box(part).slices)], part)

    whole = read(Box.whole(grid.shape))
    assert whole.dtype == pixels.dtype
    assert read(box).tobytes() == np.ascontiguousarray(whole[(slice(None), *box.slices)]).tobytes()


@given(boxes_of_grids())
def test_the_whole_is_the_product_with_dense_weights(case):
    pixels, grid, _ = case
    found = grid.resample(pixels, Box.whole(grid.shape))
    y, x = (np.eye(n) if s == 1 else weights(n, s) for n, s in zip(grid.level, grid.ratio, strict=True))
    wanted = y @ pixels[0].astype(np.float64) @ x.T
    assert found[0].shape == wanted.shape
    assert np.abs(found[0] - wanted).max() <= (1e-5 if pixels.dtype.kind == "f" else 0.5 + 1e-9)


@pytest.mark.parametrize(("n", "m"), [(300, 219), (300, 91), (210, 300), (300, 150)])
def test_it_is_pillows_antialiased_bilinear(n: int, m: int):
    """To Pillow's float32, and where its box can be the grid's: for ratios that divide the image evenly."""
    image = np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)
    grid = Grid.fitted((n, n), (n, n), (1.0, 1.0), (n / m, n / m))
    wanted = np.asarray(Image.fromarray(image).resize((m, m), Image.Resampling.BILINEAR))
    assert np.abs(grid.resample(image[None], Box.whole(grid.shape))[0] - wanted).max() < 1e-5


def test_the_largest_and_smallest_integers_stay_themselves():
    for dtype in (np.uint8, np.int16, np.uint32, np.int64, np.uint64):
        for value in (np.iinfo(dtype).min, np.iinfo(dtype).max):
            grid = Grid.fitted((9, 9), (9, 9), (1.0, 1.0), (1.3, 0.6))
            found = grid.resample(np.full((1, 9, 9), value, dtype), Box.whole(grid.shape))
            slack = 8192 if np.dtype(dtype).itemsize == 8 else 0  # what a float64 tells apart there
            assert all(abs(int(extreme) - int(value)) <= slack for extreme in (found.min(), found.max()))


# Which level, and what is refused.


@pytest.mark.parametrize(
    ("factor", "level", "ratio"),
    [
        (1.0, 0, 1.0),
        (1.009, 0, 1.0),  # within 1%
        (1.5, 0, 1.5),
        (1.99, 1, 1.0),  # within 1% of level 1
        (1.97, 0, 1.97),  # level 1 would be coarser than the network
        (2.0, 1, 1.0),
        (3.0, 1, 1.5),
        (4.0, 2, 1.0),
        (11.0, 3, 1.375),
        (40.0, 3, 5.0),  # the coarsest level
        (0.5, 0, 0.5),
        (0.25, 0, 0.25),
    ],
)
def test_the_level_is_the_nearest_that_is_not_coarser(
    factor: float, level: int, ratio: float, nets: Any, tmp_path: Path
):
    _, predictor = nets(factor)
    image = np.zeros((3000, 2500), np.uint8)
    plan = prepare(image, predictor, tmp_path / "out.zarr", Options(pixel_size=(SIZE, SIZE))).plan
    told = plan.to_json()
    assert told["level"] == level
    assert told["resampling"] == pytest.approx([ratio, ratio])
    side = 2**level * ratio
    assert told["network_shape"] == pytest.approx([3000 / side, 2500 / side], abs=1)
    assert plan.block == 1024


def test_an_unknown_or_far_too_large_pixel_is_refused_and_a_named_level_is_taken_as_it_is(nets: Any, tmp_path: Path):
    net, predictor = nets(2.0)
    image = structured_image((1, 600, 530), np.uint8)
    out = tmp_path / "out.zarr"
    with pytest.raises(InputError, match=r"has no pixel size, .* trained at 0\.5 .*--pixel-size"):
        tilekit.predict(image, predictor, out)
    with pytest.raises(InputError, match="4 times finer"):
        tilekit.predict(image, predictor, out, pixel_size=2.1)
    with pytest.raises(InputError, match=r"0\.25 micrometres per pixel, .* trained at 0\.5; .*--pixel-size"):
        tilekit.predict(image, predictor, out, pixel_size=SIZE, level=0)
    tilekit.predict(image, predictor, out, level=0)
    logits = whole_image_logits(net, image)
    assert not ((classes_of(out) != logits.argmax(0)) & ~ties(logits)).any()


def test_probabilities_are_mapped_back_too(nets: Any, tmp_path: Path):
    net, predictor = nets(1.37)
    image = structured_image((1, *SHAPE), np.uint8, seed=8)
    tilekit.predict(image, predictor, tmp_path / "out.zarr", probabilities="float16", **PLAN)
    logits = whole_image_logits(net, as_seen(image, 1.37)).astype(np.float64)
    wanted = np.exp(logits - logits.max(0))
    wanted /= wanted.sum(0)
    found = np.asarray(zarr.open_array(str(tmp_path / "out.zarr/probabilities/0"), mode="r")[:])
    assert np.abs(found - np.stack([mapped_back(p, 1.37) for p in wanted])).max() < 1e-3


# Nodata.


@pytest.mark.parametrize("factor", [1.0, 1.37, 3.3])
@pytest.mark.parametrize("kind", ["value", "nan"])
def test_nodata_is_void_and_changes_nothing_beyond_the_halo(kind: str, factor: float, nets: Any, tmp_path: Path):
    _, predictor = nets(factor)
    image = np.maximum(structured_image((1, *SHAPE), np.uint8, seed=9), 1)
    pixels = image.astype(np.float32) / 255 if kind == "nan" else image
    hole = np.zeros(SHAPE, bool)
    hole[250:301, 200:233] = True
    spoiled = np.where(hole, np.nan if kind == "nan" else 0, pixels).astype(pixels.dtype)
    found = {}
    for name, some in (("whole", pixels), ("hole", spoiled)):
        tilekit.predict(some, predictor, tmp_path / name, nodata=None if kind == "nan" else 0, **PLAN)
        found[name] = classes_of(tmp_path / name)
    assert ((found["hole"] == 255) == hole).all()
    assert not (found["whole"] == 255).any()
    changed = np.argwhere((found["whole"] != found["hole"]) & ~hole)
    assert len(changed)  # the network sees the mean there, and near it
    reach = (max(*predictor.halo.before, *predictor.halo.after) + predictor.stride[0] + 2) * factor
    assert ((changed >= (250 - reach, 200 - reach)) & (changed <= (301 + reach, 233 + reach))).all()
    assert tilekit.verify(tmp_path / "hole", predictor, boxes=6, side=96)["differing_pixels"] == 0
