"""Law 1 on the whole product: what tilekit writes is what ONE pass of the bare network over the whole image gives.

Run with -s to see how many combinations were compared and how far apart the numbers came.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import tilekit
from models import Predictor, UNet, load
from tests.oracles import (
    LOGIT_TOLERANCE,
    PlainFilter,
    Recorder,
    contents,
    random_network,
    saved,
    softmax,
    structured_image,
    ties,
    whole_image_classes,
    whole_image_logits,
)
from tilekit.tiling import Halo

SIZES = [(1, 1), (7, 501), (611, 487), (1024, 1024), (2053, 1531)]
NETWORKS = {
    "valid depth 4 base 4": {"depth": 4, "base": 4, "padding": "valid"},
    "valid depth 4 base 8": {"depth": 4, "base": 8, "padding": "valid"},
    "same depth 3 base 6": {"depth": 3, "base": 6, "padding": "same"},
}
TILES = (200, 384, 1024)
"""Cores of 192 or 200, of 384, and of the whole block: rounded down to the stride."""
BLOCKS = (528, 1024)
CHANNELS = (1, 3)
DTYPES = ("uint8", "uint16")
QUICK = {
    ("valid depth 4 base 4", 1, "uint8", (611, 487)),
    ("same depth 3 base 6", 3, "uint16", (611, 487)),
}
"""Besides the two smallest sizes; the rest of the product is slow."""


@dataclass
class Figures:
    """What the tests of this module have compared so far."""

    combinations: int = 0
    pixels: int = 0
    ties: int = 0
    logits: float = 0.0
    """Largest difference of a logit, over the largest logit of its image."""
    dp: float = 0.0
    """Largest difference of a probability."""


@pytest.fixture(scope="module")
def figures() -> Iterator[Figures]:
    found = Figures()
    yield found
    print(
        f"\nexactness: {found.combinations} combinations, {found.pixels / 1e6:.1f} Mpx; "
        f"0 pixels differ outside ties, {found.ties} within; "
        f"largest difference: logits {found.logits:.1e} of their largest, probabilities {found.dp:.1e}"
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[UNet, Predictor]]:
    """A network and the predictor of its checkpoint, made once per set of options."""
    folder = tmp_path_factory.mktemp("models")

    @lru_cache(maxsize=32)
    def make(**options: Any) -> tuple[UNet, Predictor]:
        net = random_network(**options)
        name = "-".join(f"{k}{v}" for k, v in options.items())
        return net, load(saved(net, folder / f"{name}.safetensors"), device="cpu")

    return make


def classes_of(out: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(str(out / "labels/classes/0"), mode="r")[:])


def assert_same_classes(found: np.ndarray, logits: np.ndarray, figures: Figures | None = None) -> None:
    """Equal to the likeliest class of one pass, outside ties."""
    unlike, close = found != logits.argmax(0), ties(logits)
    assert not (unlike & ~close).any(), f"{(unlike & ~close).sum()} of {unlike.size} class pixels differ"
    if figures is not None:
        figures.ties += int((unlike & close).sum())
        figures.pixels += unlike.size
        figures.combinations += 1


def assert_same_logits(found: np.ndarray, logits: np.ndarray, net: UNet, figures: Figures) -> None:
    """Equal to those of one pass within float32's rounding.

    The bias that balances the classes takes away most of a lone pixel's logits but none of their rounding, so it counts
    as a magnitude too; the figures leave it out.
    """
    distance = float(np.abs(found - logits).max())
    largest = float(np.abs(logits).max())
    assert distance <= LOGIT_TOLERANCE * max(largest, float(net.head.bias.detach().abs().max()))
    figures.logits = max(figures.logits, distance / largest)
    figures.dp = max(figures.dp, float(np.abs(softmax(found) - softmax(logits)).max()))


def product() -> Iterator[Any]:
    for name, channels, dtype, size in itertools.product(NETWORKS, CHANNELS, DTYPES, SIZES):
        slow = max(size) > 501 and (name, channels, dtype, size) not in QUICK
        marks = [pytest.mark.slow, pytest.mark.timeout(900)] if slow else []
        label = f"{name.replace(' ', '-')}-{channels}-{dtype}-{size[0]}x{size[1]}"
        yield pytest.param(name, channels, dtype, size, marks=marks, id=label)


@pytest.mark.parametrize(("name", "channels", "dtype", "size"), list(product()))
def test_the_class_map_is_that_of_one_pass_over_the_whole_image(
    name: str,
    channels: int,
    dtype: str,
    size: tuple[int, int],
    model: Callable[..., tuple[UNet, Predictor]],
    figures: Figures,
    tmp_path: Path,
) -> None:
    net, predictor = model(in_channels=channels, **NETWORKS[name])
    image = structured_image((channels, *size), dtype)
    logits = whole_image_logits(net, image)
    if max(size) > 501:
        assert np.bincount(logits.argmax(0).ravel(), minlength=3).min() > 0.01 * size[0] * size[1]
    out = tmp_path / "out.zarr"
    for tile, block in itertools.product(TILES, BLOCKS):
        recorder = Recorder(predictor)
        record = block == BLOCKS[0] or max(size) < 1024  # the logits of a tile do not hang on the block
        tilekit.predict(image, recorder if record else predictor, out, tile=tile, block=block, overwrite=True)
        assert_same_classes(classes_of(out), logits, figures)
        if record:
            stride = predictor.stride[0]
            core = min(tile // stride * stride, block)
            assert_same_logits(recorder.stitched(size, block, (core, core)), logits, net, figures)


@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_other_upsamplings_and_batch_norm_are_exact_too(
    upsampling: str, padding: str, model: Callable[..., tuple[UNet, Predictor]], figures: Figures, tmp_path: Path
) -> None:
    net, predictor = model(depth=3, padding=padding, upsampling=upsampling, batch_norm=padding == "same")
    image = structured_image((1, 203, 331), np.uint8)
    logits = whole_image_logits(net, image)
    recorder = Recorder(predictor)
    tilekit.predict(image, recorder, tmp_path / "out.zarr", tile=64, block=128)
    assert_same_classes(classes_of(tmp_path / "out.zarr"), logits, figures)
    assert_same_logits(recorder.stitched((203, 331), 128, (64, 64)), logits, net, figures)


# The same bytes whoever computes them.


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """One Dask cluster of worker processes for all tests of this module."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


def check_all_runners(image: Path, predictor: Any, cluster: Any, tmp_path: Path, own: bool, **plan: int) -> np.ndarray:
    """Byte-identical outputs of the plain loop, a cluster by address with 2 workers and with 1, and (own) workers=2."""
    tilekit.predict(image, predictor, tmp_path / "serial.zarr", **plan)
    wanted = contents(tmp_path / "serial.zarr")
    assert sum("labels/classes/0/c/" in name for name in wanted) > 3
    for workers in (2, 1):
        cluster.scale(workers)
        while len(cluster.scheduler_info["workers"]) != workers:
            time.sleep(0.05)
        tilekit.predict(image, predictor, tmp_path / f"{workers}.zarr", scheduler=cluster.scheduler_address, **plan)
        assert contents(tmp_path / f"{workers}.zarr") == wanted
    cluster.scale(2)
    if own:
        tilekit.predict(image, predictor, tmp_path / "own.zarr", workers=2, **plan)
        assert contents(tmp_path / "own.zarr") == wanted
    return classes_of(tmp_path / "2.zarr")


@pytest.mark.parametrize(
    ("name", "channels", "dtype", "size", "tile", "block"),
    [
        ("valid depth 4 base 4", 3, "uint16", (611, 487), 128, 256),
        pytest.param("same depth 3 base 6", 1, "uint8", (7, 501), 32, 64, marks=pytest.mark.slow),
        pytest.param("same depth 3 base 6", 3, "uint8", (2053, 1531), 384, 528, marks=pytest.mark.slow),
        pytest.param("valid depth 4 base 8", 1, "uint16", (1024, 1024), 192, 384, marks=pytest.mark.slow),
    ],
)
def test_workers_write_the_bytes_of_the_plain_loop(
    name: str,
    channels: int,
    dtype: str,
    size: tuple[int, int],
    tile: int,
    block: int,
    model: Callable[..., tuple[UNet, Predictor]],
    cluster: Any,
    figures: Figures,
    tmp_path: Path,
) -> None:
    net, predictor = model(in_channels=channels, **NETWORKS[name])
    image = structured_image((channels, *size), dtype, seed=5)
    np.save(tmp_path / "image.npy", image)
    found = check_all_runners(tmp_path / "image.npy", predictor, cluster, tmp_path, size[0] > 7, tile=tile, block=block)
    assert_same_classes(found, whole_image_logits(net, image), figures)


@pytest.mark.slow
def test_workers_write_the_bytes_of_the_plain_loop_with_a_plain_filter(cluster: Any, tmp_path: Path) -> None:
    image = structured_image((2, 301, 417), np.uint16, seed=6)
    np.save(tmp_path / "image.npy", image)
    predictor = PlainFilter(stride=(8, 4), cells_before=(2, 3), cells_after=(1, 5), in_channels=2)
    found = check_all_runners(tmp_path / "image.npy", predictor, cluster, tmp_path, True, tile=40, block=64)
    assert (found == whole_image_classes(predictor, image)).all()


# What makes it exact is needed: without it the same comparison fails.


class Liar(Recorder):
    """A predictor that says something else of its needs than the truth, and makes do with what it then gets."""

    def __init__(
        self, inner: Any, *, short: tuple[int, int] = (0, 0), shift: int = 0, stride: tuple[int, int] | None = None
    ) -> None:
        super().__init__(inner)
        self._short, self._shift, self._stride = short, shift, stride or inner.stride

    @property
    def halo(self) -> Halo:
        halo, (before, after) = self.inner.halo, self._short
        return Halo(
            tuple(n - before - self._shift for n in halo.before),  # type: ignore[arg-type]
            tuple(n - after + self._shift for n in halo.after),  # type: ignore[arg-type]
        )

    @property
    def stride(self) -> tuple[int, int]:
        return self._stride

    def multiply_adds(self, y: int, x: int) -> float:
        return float(y * x)

    def activation_bytes(self, y: int, x: int) -> int:
        return 1024 * y * x

    def predict(self, x: np.ndarray, probabilities: bool = False) -> Any:
        before, after = self._short
        halo = self.inner.halo
        needs = [a + b for a, b in zip(halo.before, halo.after, strict=True)]
        cores = [n + before + after - need for n, need in zip(x.shape[2:], needs, strict=True)]
        odd = [-n % s for n, s in zip(cores, self.inner.stride, strict=True)]
        x = np.pad(x, [(0, 0), (0, 0), *((before, after + n) for n in odd)], mode="edge")
        self.logits.append(self.inner.logits(x)[0][:, : cores[0], : cores[1]])
        classes, p = self.inner.predict(x, probabilities)
        return classes[:, : cores[0], : cores[1]], p


@dataclass(frozen=True)
class Outcome:
    """How far the product with some predictor is from one pass."""

    logits: float
    differing: int


def distance(net: UNet, predictor: Any, tmp_path: Path, *, tile: int, block: int, size: tuple[int, int]) -> Outcome:
    image = structured_image((1, *size), np.uint8, seed=3)
    logits = whole_image_logits(net, image)
    tilekit.predict(image, predictor, tmp_path / "out.zarr", tile=tile, block=block, overwrite=True)
    stitched = predictor.stitched(size, block, (tile, tile))
    unlike = (classes_of(tmp_path / "out.zarr") != logits.argmax(0)) & ~ties(logits)
    return Outcome(float(np.abs(stitched - logits).max() / np.abs(logits).max()), int(unlike.sum()))


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_halo_of_one_pixel_less_is_not_exact(
    side: str, model: Callable[..., tuple[UNet, Predictor]], tmp_path: Path
) -> None:
    """Of an unpadded network every pixel of the halo counts, with random weights and with ones that look farthest."""
    short = (1, 0) if side == "before" else (0, 1)
    for tap in (None, (0, 0) if side == "before" else (2, 2)):
        net, predictor = model(depth=4, base=4, tap=tap)
        plan: dict[str, Any] = {"tile": 64, "block": 128, "size": (300, 260)}
        honest = distance(net, Liar(predictor), tmp_path, **plan)
        lying = distance(net, Liar(predictor, short=short), tmp_path, **plan)
        print(f"\nhalo - 1 {side}, tap {tap}: {honest} -> {lying}")
        assert honest.logits <= LOGIT_TOLERANCE
        assert honest.differing == 0
        assert lying.logits > 10 * LOGIT_TOLERANCE
        assert lying.differing > 0 or tap is None


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_halo_of_one_stride_less_is_not_exact_for_a_padded_network(
    side: str, model: Callable[..., tuple[UNet, Predictor]], tmp_path: Path
) -> None:
    """Its halo is rounded up to the stride, and not by a whole one."""
    net, predictor = model(depth=3, base=4, padding="same", tap=(0, 0) if side == "before" else (2, 2))
    plan: dict[str, Any] = {"tile": 64, "block": 128, "size": (300, 260)}
    stride = predictor.stride[0]
    honest = distance(net, Liar(predictor), tmp_path, **plan)
    lying = distance(net, Liar(predictor, short=(stride, 0) if side == "before" else (0, stride)), tmp_path, **plan)
    assert honest.logits <= LOGIT_TOLERANCE
    assert honest.differing == 0
    assert lying.differing > 0


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_halo_off_the_phase_by_one_pixel_is_not_exact(
    padding: str, model: Callable[..., tuple[UNet, Predictor]], tmp_path: Path
) -> None:
    """One pixel less before and one more after: every tile sees enough, and pools other cells."""
    net, predictor = model(depth=3, base=4, padding=padding)
    lying = distance(net, Liar(predictor, shift=1), tmp_path, tile=64, block=128, size=(300, 260))
    assert lying.differing > 100


def test_the_papers_own_step_of_388_pixels_is_not_exact_and_384_is(
    model: Callable[..., tuple[UNet, Predictor]], tmp_path: Path
) -> None:
    net, predictor = model(depth=4, base=4)
    size = (800, 430)
    papers = distance(net, Liar(predictor, stride=(4, 4)), tmp_path, tile=388, block=776, size=size)
    ours = distance(net, Liar(predictor), tmp_path, tile=384, block=768, size=size)
    print(f"\nstep 388: {papers}, step 384: {ours}")
    assert papers.differing > 100
    assert ours.differing == 0
    assert ours.logits <= LOGIT_TOLERANCE


def test_verify_finds_an_output_that_is_not_exact(model: Callable[..., tuple[UNet, Predictor]], tmp_path: Path) -> None:
    """tilekit verify says 0 of a run by the honest predictor, and more of one by a predictor off the phase."""
    _, predictor = model(depth=3, base=4)
    image = structured_image((1, 300, 260), np.uint8, seed=3)
    tilekit.predict(image, predictor, tmp_path / "honest.zarr", tile=64, block=128)
    tilekit.predict(image, Liar(predictor, shift=1), tmp_path / "lying.zarr", tile=64, block=128)
    honest = tilekit.verify(tmp_path / "honest.zarr", predictor, boxes=8, side=96)
    lying = tilekit.verify(tmp_path / "lying.zarr", predictor, boxes=8, side=96)
    assert honest["differing_pixels"] == 0
    assert honest["max_abs_dp"] < 1e-4
    assert lying["differing_pixels"] > 0
