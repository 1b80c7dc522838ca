"""Halo and stride of every family: what the probe measures is what arithmetic says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

import tilekit
from models import load, save
from models.families import build
from models.probing import probe_model
from tests.models.test_families import SMALL, randomised, small
from tests.oracles import structured_image
from tilekit.blend import Blended


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_the_probe_finds_what_arithmetic_says(kind: str, tmp_path: Path) -> None:
    save(randomised(build(small(kind))), tmp_path / "m.safetensors", class_names=["a", "b", "c"])
    found = probe_model(tmp_path / "m.safetensors")
    assert found["exact"], found["reason"]
    assert {"halo": found["halo"], "stride": found["stride"]} == found["stated"]


def test_the_probe_names_the_mean_of_the_whole_tile(tmp_path: Path) -> None:
    network = build(small("deeplab vgg16", image_pool=True))
    save(randomised(network), tmp_path / "m.safetensors", class_names=["a", "b", "c"])
    found = probe_model(tmp_path / "m.safetensors")
    assert not found["exact"]
    assert found["reason"] == "global pooling looks at the whole tile"


def test_blended_it_hangs_on_neither_tiles_nor_blocks(tmp_path: Path) -> None:
    network = build(small("deeplab vgg16", image_pool=True))
    save(randomised(network), tmp_path / "m.safetensors", class_names=["a", "b", "c"])
    p = Blended.of(load(tmp_path / "m.safetensors", "cpu"), 64)
    image = structured_image((1, 131, 77), "uint8")[0]
    maps = []
    for tile, block in ((32, 64), (64, 128)):
        out = tmp_path / f"{tile}.zarr"
        tilekit.predict(image, p, out, tile=tile, block=block, probabilities="float16")
        maps.append(np.asarray(zarr.open_array(str(out / "probabilities/0"), mode="r")[:]))
    assert maps[0].std() > 1e-3
    np.testing.assert_array_equal(*maps)


@pytest.mark.slow
def test_blended_it_hangs_on_no_workers(tmp_path: Path) -> None:
    network = build(small("deeplab vgg16", image_pool=True))
    save(randomised(network), tmp_path / "m.safetensors", class_names=["a", "b", "c"])
    p = Blended.of(load(tmp_path / "m.safetensors", "cpu"), 64)
    image = structured_image((1, 131, 77), "uint8")[0]
    maps = []
    for workers in (0, 2):
        out = tmp_path / f"{workers}.zarr"
        tilekit.predict(image, p, out, tile=32, block=64, probabilities="float16", workers=workers)
        maps.append(np.asarray(zarr.open_array(str(out / "probabilities/0"), mode="r")[:]))
    np.testing.assert_array_equal(*maps)
