"""A network that cannot be exact, blended: equal bytes whatever tiles, blocks and workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import tilekit
from models import Predictor, UNet, load, save
from tests.models.foreign import onnx_network, torch_network
from tests.oracles import structured_image
from tilekit.blend import Blended
from tilekit.errors import InputError
from tilekit.predictor import decide


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save(UNet(1, 3, base=4, depth=2, padding="same", instance_norm=True), tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def classes_of(out: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(str(out / "labels/classes/0"), mode="r")[:])


def oracle(p: Predictor, image: np.ndarray, step: int) -> np.ndarray:
    """Probabilities (k, y, x): every window of the whole image, weighed and divided by the sum of weights."""
    (before, _), (after, _) = p.halo.before, p.halo.after
    ny, nx = (-(-n // step) * step for n in image.shape)
    pads = [(step + before, step + after + m - n) for n, m in zip(image.shape, (ny, nx), strict=True)]
    mirrored = np.pad(image, pads, mode="reflect")
    total, weight = np.zeros((p.n_classes, ny + 2 * step, nx + 2 * step)), np.zeros((ny + 2 * step, nx + 2 * step))
    place = np.sin(np.pi * (np.arange(2 * step) + 0.5) / (2 * step)) ** 2
    taper = np.outer(place, place)
    for y in range(0, ny + step, step):
        for x in range(0, nx + step, step):
            side = before + 2 * step + after
            window = p.probabilities(mirrored[None, None, y : y + side, x : x + side])[0]
            total[:, y : y + 2 * step, x : x + 2 * step] += window * taper
            weight[y : y + 2 * step, x : x + 2 * step] += taper
    here = slice(step, step + image.shape[0]), slice(step, step + image.shape[1])
    np.testing.assert_allclose(weight[here], 1)
    return (total / weight)[:, *here]


def test_a_blended_map_is_the_sum_of_all_windows_of_the_image(model: Path, tmp_path: Path):
    p = load(model, "cpu")
    image = structured_image((1, 101, 77), "uint8")[0]
    blended = Blended.of(p, 32)
    assert (blended.step, blended.stride, blended.halo.before) == (16, (16, 16), tuple(16 + n for n in p.halo.before))
    wanted = oracle(p, image, 16)
    tilekit.predict(image, blended, tmp_path / "out.zarr", tile=48, block=96)
    found, best = classes_of(tmp_path / "out.zarr"), np.partition(wanted, -2, 0)
    assert ((found == wanted.argmax(0)) | (best[-1] - best[-2] < 1e-5)).all()
    assert len(np.unique(found)) > 1


def test_bytes_depend_on_neither_tiles_nor_blocks(model: Path, tmp_path: Path):
    blended = Blended.of(load(model, "cpu"), 32)
    image = structured_image((1, 131, 117), "uint8")[0]
    maps, stored = [], []
    for tile, block in ((16, 48), (64, 64), (None, None)):
        out = tmp_path / f"{tile}-{block}.zarr"
        tilekit.predict(image, blended, out, tile=tile, block=block, probabilities="float16")
        maps.append(classes_of(out))
        stored.append(np.asarray(zarr.open_array(str(out / "probabilities/0"), mode="r")[:]))
    for found, chances in zip(maps, stored, strict=True):
        assert found.tobytes() == maps[-1].tobytes()
        assert chances.tobytes() == stored[-1].tobytes()


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers(tmp_path: Path):
    p = Blended.of(load(onnx_network(tmp_path / "net.onnx", norm="GlobalAveragePool"), "cpu"), 32)
    image = structured_image((1, 150, 130), "uint8")[0]
    for workers in (0, 2):
        tilekit.predict(image, p, tmp_path / f"{workers}.zarr", tile=32, block=64, workers=workers)
    assert classes_of(tmp_path / "0.zarr").tobytes() == classes_of(tmp_path / "2.zarr").tobytes()


def test_blending_is_asked_for_recorded_and_verified(tmp_path: Path):
    p = load(torch_network(tmp_path / "net", window=40, arguments={"norm": "InstanceNorm2d"}), "cpu")
    image = structured_image((1, 150, 130), "uint8")[0]
    out = tmp_path / "out.zarr"
    with pytest.raises(InputError, match=r"instance norm .* or blend windows of this one with --blend"):
        tilekit.predict(image, p, out)
    tilekit.predict(image, p, out, blend=True)
    attributes = json.loads((out / "zarr.json").read_text())["attributes"]["tilekit"]
    assert attributes["parameters"]["blend"] == 40
    facts = tilekit.verify(out, p, boxes=5, side=60)
    assert (facts["differing_pixels"], facts["blended"], facts["max_abs_dp"]) == (0, 40, 0)
    array = zarr.open_array(str(out / "labels/classes/0"), mode="r+")
    array[:] = (array[:] + 1) % 3
    assert tilekit.verify(out, p, boxes=5, side=60)["differing_pixels"] > 0


def test_an_exact_network_is_not_blended(tmp_path: Path):
    p = load(onnx_network(tmp_path / "net.onnx"), "cpu")
    image = structured_image((1, 90, 80), "uint8")[0]
    for blend in (False, True):
        tilekit.predict(image, p, tmp_path / f"{blend}.zarr", blend=blend)
    assert classes_of(tmp_path / "True.zarr").tobytes() == classes_of(tmp_path / "False.zarr").tobytes()
    assert "blended" not in tilekit.verify(tmp_path / "True.zarr", p, boxes=2)


@pytest.mark.slow
def test_the_command_line_plans_segments_and_verifies_blended(model: Path, tmp_path: Path):
    image = tmp_path / "image.npy"
    np.save(image, structured_image((1, 90, 80), "uint8")[0])

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.main", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    refused = run("segment", image, model, tmp_path / "out.zarr", "--workers", "0")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--blend" in refused.stderr
    planned = json.loads(run("plan", image, model, "--blend", "--json").stdout)
    assert (planned["blend"], planned["stride"]) == (512, [256, 256])
    assert run("segment", image, model, tmp_path / "out.zarr", "--blend", "--workers", "0").returncode == 0
    assert json.loads(run("verify", tmp_path / "out.zarr", model, "--json").stdout)["blended"] == 512


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
@pytest.mark.parametrize("given", [False, True])
def test_classes_decided_from_probabilities_are_the_network_s_own(head: str, given: bool, tmp_path: Path):
    torch.manual_seed(1)
    thresholds = [0.3, 0.5, 0.2] if given else None
    save(UNet(1, 3, base=4, depth=1), tmp_path / "m", head=head, thresholds=thresholds)
    p = load(tmp_path / "m", "cpu")
    x = np.random.default_rng(0).integers(0, 256, (1, 1, 80, 80), dtype=np.uint8)
    ids, chances = p.predict(x, probabilities=True)
    assert chances is not None
    assert (p.decide(chances) == ids).mean() > 0.999  # float32 probabilities may tie where logits do not
    assert len(np.unique(ids)) > 1
    assert not decide(np.full((1, 3, 2, 2), 0.25, np.float32), "sigmoid", (0.5, 0.5)).any()
