"""What --confidence stores: the highest probability, the entropy, and the blocks that are least sure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import tilekit
from models import UNet, load, save
from tests.oracles import structured_image


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.parametrize("probabilities", [None, "float16"])
def test_the_stored_figures_are_those_of_the_probabilities(dtype: str, probabilities: str | None, tmp_path: Path):
    torch.manual_seed(0)
    save(UNet(1, 3, base=4, depth=1), tmp_path / "m.safetensors")
    p = load(tmp_path / "m.safetensors", "cpu")
    image = structured_image((1, 100, 76), "uint8")[0]
    out = tmp_path / "out.zarr"
    result = tilekit.predict(
        image, p, out, block=32, box=((0, 90), (0, 70)), confidence=dtype, probabilities=probabilities
    )
    (before, _), (after, _) = p.halo.before, p.halo.after
    chances = p.probabilities(np.pad(image, [(before, after)] * 2, mode="reflect")[None, None])[0]
    wanted = np.stack([chances.max(0), -(chances * np.log(chances)).sum(0) / np.log(3)])
    wanted[:, 90:], wanted[:, :, 70:] = 0, 0
    stored = zarr.open_array(str(out / "confidence/0"), mode="r")[:]
    assert (stored.shape, stored.dtype) == ((2, 100, 76), np.dtype(dtype))
    np.testing.assert_allclose(stored / (255 if dtype == "uint8" else 1), wanted, atol=0.5 / 255 + 1e-5)
    assert (out / "probabilities/0").exists() == (probabilities is not None)
    boxes = [(y, min(y + 32, 90), x, min(x + 32, 70)) for y in range(0, 90, 32) for x in range(0, 70, 32)]
    means = sorted(wanted[0, a:b, c:d].mean() for a, b, c, d in boxes)
    listed = result["lowest_confidence"]
    assert [entry["mean"] for entry in listed] == pytest.approx(means, abs=3e-3)
    assert listed[0]["box"].count(":") == 2


def test_nothing_is_listed_where_nothing_was_asked(tmp_path: Path):
    save(UNet(1, 2, base=4, depth=1), tmp_path / "m.safetensors")
    result = tilekit.predict(np.zeros((40, 40), np.uint8), load(tmp_path / "m.safetensors", "cpu"), tmp_path / "o.zarr")
    assert "lowest_confidence" not in result
    assert not (tmp_path / "o.zarr/confidence").exists()


def test_stacks_have_the_figures_of_each_slice(tmp_path: Path):
    torch.manual_seed(0)
    save(UNet(1, 2, base=4, depth=1), tmp_path / "m.safetensors")
    p = load(tmp_path / "m.safetensors", "cpu")
    stack = structured_image((2, 40, 44), "uint8")
    source = tilekit.open_image(stack, axes="zyx")
    tilekit.predict(source, p, tmp_path / "o.zarr", confidence="float16")
    stored = zarr.open_array(str(tmp_path / "o.zarr/confidence/0"), mode="r")[:]
    assert stored.shape == (2, 2, 40, 44)  # channels, slices
    (before, _), (after, _) = p.halo.before, p.halo.after
    for z in range(2):
        chances = p.probabilities(np.pad(stack[z], [(before, after)] * 2, mode="reflect")[None, None])[0]
        np.testing.assert_allclose(stored[0, z], chances.max(0), atol=1e-3)
