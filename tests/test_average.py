"""Averages over rotations and flips, and over networks: tiles of them equal the average of whole passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import tilekit
from models import UNet, load, save
from tests.models.foreign import onnx_network
from tests.oracles import structured_image
from tilekit.average import FLIPS, Averaged
from tilekit.errors import InputError


def model(path: Path, seed: int = 0, **settings: object) -> Path:
    torch.manual_seed(seed)
    save(UNet(**{"n_classes": 3, "base": 4, "depth": 2, **settings}), path)  # type: ignore[arg-type]
    return path


def whole_average(p, image: np.ndarray) -> np.ndarray:
    """Probabilities (k, y, x): each pass is over the whole turned image, mirrored around its whole strides."""
    step = p.stride[0]
    (before, _), (after, _) = p.halo.before, p.halo.after
    ny, nx = (-(-n // step) * step for n in image.shape)
    margin = max(before, after)
    big = np.pad(image, [(margin, margin + m - n) for n, m in zip(image.shape, (ny, nx), strict=True)], mode="reflect")
    total = np.zeros((p.n_classes, ny, nx))
    for quarter in range(4):
        for flip in (False, True):
            turned = np.rot90(big, quarter)
            turned = turned[:, ::-1] if flip else turned
            sides = [n - 2 * margin for n in turned.shape]
            cut = turned[margin - before : margin + sides[0] + after, margin - before : margin + sides[1] + after]
            found = p.probabilities(np.ascontiguousarray(cut)[None, None])[0]
            found = found[:, :, ::-1] if flip else found
            total += np.rot90(found, -quarter, (1, 2))
    return (total / 8)[:, : image.shape[0], : image.shape[1]]


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_flips_averaged_by_tiles_equal_the_average_of_whole_passes(padding: str, tmp_path: Path):
    p = load(model(tmp_path / "m", padding=padding, upsampling="bilinear", depth=3), "cpu")
    image = structured_image((1, 101, 77), "uint8")[0]
    wanted = whole_average(p, image)
    out = tmp_path / "out.zarr"
    tilekit.predict(image, p, out, tile=24, block=48, average="flips")
    found, best = zarr.open_array(str(out / "labels/classes/0"), mode="r")[:], np.partition(wanted, -2, 0)
    assert ((found == wanted.argmax(0)) | (best[-1] - best[-2] < 1e-4)).all()
    assert len(np.unique(found)) > 1
    facts = tilekit.verify(out, p, boxes=4, side=40)
    assert (facts["differing_pixels"], facts["max_abs_dp"] < 1e-5) == (0, True)


def test_the_average_does_not_change_with_the_image_s_orientation(tmp_path: Path):
    average = Averaged.of([load(model(tmp_path / "m"), "cpu")], flips=True)
    assert len(set(FLIPS)) == 8
    side = 32 + average.halo.before[0] + average.halo.after[0]
    x = np.random.default_rng(0).random((1, 1, side, side), np.float32)
    here = average.predict(x, probabilities=True)[1]
    there = average.predict(np.rot90(x, 1, (2, 3)).copy(), probabilities=True)[1]
    assert here is not None
    np.testing.assert_allclose(np.rot90(here, 1, (2, 3)), there, atol=1e-6)


def test_networks_of_other_halos_are_averaged(tmp_path: Path):
    one, two = model(tmp_path / "a", depth=1), model(tmp_path / "b", seed=1, depth=2, padding="same")
    both = load(f"{one},{two}", "cpu")
    assert isinstance(both, Averaged)
    first, second = load(one, "cpu"), load(two, "cpu")
    assert (both.stride, both.halo) == (second.stride, second.halo)
    x = np.random.default_rng(0).integers(0, 256, (1, 1, 32 + 48, 24 + 48), dtype=np.uint8)
    found = both.predict(x, probabilities=True)[1]
    inner = 24 - first.halo.before[0]
    own = first.probabilities(x[:, :, inner:-inner, inner:-inner])
    np.testing.assert_allclose(found, (own + second.probabilities(x)) / 2, atol=1e-6)
    assert both.digest not in (first.digest, second.digest)
    image = structured_image((1, 90, 80), "uint8")[0]
    tilekit.predict(image, both, tmp_path / "out.zarr")
    assert tilekit.verify(tmp_path / "out.zarr", both, boxes=3, side=40)["differing_pixels"] == 0
    with pytest.raises(InputError, match="was made by the network"):
        tilekit.verify(tmp_path / "out.zarr", first)


def test_networks_that_differ_in_what_they_give_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="differ in n classes: 3 and 2"):
        load(f"{model(tmp_path / 'a')},{model(tmp_path / 'b', n_classes=2)}", "cpu")


def test_an_average_of_inexact_networks_is_blended(tmp_path: Path):
    onnx_network(tmp_path / "net.onnx", norm="GlobalAveragePool")
    (tmp_path / "net.toml").write_text('onnx = "net.onnx"\nwindow = 64\n')
    p = load(tmp_path / "net.toml", "cpu")
    image = structured_image((1, 90, 80), "uint8")[0]
    with pytest.raises(InputError, match=r"global pooling .*--blend"):
        tilekit.predict(image, p, tmp_path / "out.zarr", average="flips")
    tilekit.predict(image, p, tmp_path / "out.zarr", average="flips", blend=True)
    facts = tilekit.verify(tmp_path / "out.zarr", p, boxes=2, side=40)
    assert (facts["differing_pixels"], facts["blended"]) == (0, 64)
