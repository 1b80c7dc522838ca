"""The predictor: tiles equal the whole, raw values in, classes and probabilities out of one pass."""

from __future__ import annotations

import pickle
from itertools import product

import numpy as np
import pytest
import torch

import tilekit
from models import UNet, load, save
from models.compute import Opened, classes, probabilities
from models.header import Header
from tilekit.errors import InputError

RULES = {
    "range": {"kind": "range"},
    "none": {"kind": "none"},
    "mean_std": {"kind": "mean_std", "mean": [40.0, 7.5], "std": [20.0, 3.0]},
    "percentile": {"kind": "percentile", "low": [1.0, 2.0], "high": [200.0, 90.0]},
}


def make(path, *args, seed=0, normalization=None, head=None, thresholds=None, **settings):
    """A saved network whose every parameter, batch norm's too, is random; opened on the CPU."""
    torch.manual_seed(seed)
    net = UNet(*args, **settings)
    for name, tensor in net.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            tensor.normal_(std=0.1)
    save(net, path, normalization=normalization, head=head, thresholds=thresholds)
    return net.eval(), load(path, "cpu")


def difference(a, b):
    return np.abs(a - b).max() / np.abs(a).max()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("upsampling", ["learned", "bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("depth", [2, 3])
def test_tiles_equal_one_pass_over_the_whole(tmp_path, depth, padding, upsampling, batch_norm):
    _, p = make(tmp_path / "m", 1, 3, 4, depth, padding, upsampling=upsampling, batch_norm=batch_norm)
    (before, _), (after, _), (step, _) = p.halo.before, p.halo.after, p.stride
    image = np.random.default_rng(1).integers(0, 256, (1, 6 * step, 8 * step)).astype(np.uint8)
    big = np.pad(image, ((0, 0), (before, after), (before, after)), mode="reflect")[None]
    whole = p.logits(big)[0]
    for core in (step, 2 * step):
        tiles = np.full_like(whole, np.nan)
        for y, x in product(range(0, 6 * step, core), range(0, 8 * step, core)):
            tiles[:, y : y + core, x : x + core] = p.logits(
                big[..., y : y + before + core + after, x : x + before + core + after]
            )[0]
        assert difference(whole, tiles) <= 1e-5


@pytest.mark.parametrize(
    "settings", [{"padding": "same"}, {"upsampling": "bilinear"}, {"padding": "same", "batch_norm": True}]
)
def test_one_stride_less_than_the_halo_fails(tmp_path, settings):
    """The rim that the halo covers is really contaminated; a network fed less sees the tile's edge."""
    net, p = make(tmp_path / "m", 1, 2, 4, 2, **settings)
    (before, _), (after, _), (step, _) = p.halo.before, p.halo.after, p.stride
    x = torch.rand(1, 1, before + 8 * step + after, before + 8 * step + after)
    with torch.no_grad():
        whole, short = net(x), net(x[..., step:, step:])
    inner = slice(0, step * 4)
    assert not torch.allclose(whole[..., step:, step:][..., inner, inner], short[..., inner, inner], atol=1e-6)
    wide = net(torch.nn.functional.pad(x, (step,) * 4, mode="reflect")).detach()[..., step:-step, step:-step]
    skipped = -(-(wide.shape[-1] - 8 * step) // 2 // step) * step
    core = slice(skipped, skipped + 6 * step)
    torch.testing.assert_close(wide[..., core, core], whole[..., core, core], rtol=0, atol=1e-5)


def test_off_the_stride_tiles_differ_from_the_whole(tmp_path):
    _, p = make(tmp_path / "m", 1, 2, 4, 2)
    x = np.random.default_rng(0).random((1, 1, 40 + 64, 40 + 64), dtype=np.float32)
    whole = p.logits(x)
    assert difference(whole[..., 4:, 4:], p.logits(x[..., 4:, 4:])) <= 1e-5
    assert difference(whole[..., 2:-2, 2:-2], p.logits(x[..., 2:-2, 2:-2])) > 1e-3


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float16", "bool", ">u2"])
@pytest.mark.parametrize("rule", RULES)
def test_raw_values_are_normalised_by_the_stored_rule(tmp_path, rule, dtype):
    net, p = make(tmp_path / "m", 2, 2, 4, 1, normalization=RULES[rule])
    x = np.random.default_rng(0).integers(0, 100, (1, 2, 32, 32)).astype(dtype)
    if rule in ("range", "none"):
        top = np.iinfo(x.dtype).max if rule == "range" and x.dtype.kind in "iu" else 1
        wanted = x.astype(np.float32) / np.float32(top)
    else:
        first, second = (np.array(RULES[rule][k], np.float32).reshape(2, 1, 1) for k in list(RULES[rule])[1:])
        wanted = (x.astype(np.float32) - first) / (second if rule == "mean_std" else second - first)
    with torch.no_grad():
        logits = net(torch.from_numpy(wanted)).numpy()[..., :16, :16]
    assert difference(logits, p.logits(x)) <= 1e-5
    np.testing.assert_allclose(p.header.normalization.apply(x, axis=1), wanted, rtol=1e-6)


def test_outputs_agree_and_have_the_promised_types(tmp_path):
    for k in (2, 3, 5):
        _, p = make(tmp_path / f"m{k}", 1, k, 4, 2)
        x = np.random.default_rng(0).integers(0, 256, (2, 1, 72, 88), dtype=np.uint8)
        ids, chances = p.predict(x, probabilities=True)
        assert (ids.shape, ids.dtype, chances.shape, chances.dtype) == (
            (2, 32, 48),
            np.uint8,
            (2, k, 32, 48),
            np.float32,
        )
        assert (ids == chances.argmax(1)).all()
        np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-5)
        np.testing.assert_array_equal(p.classes(x), ids)
        np.testing.assert_array_equal(p.probabilities(x), chances)
        assert p.predict(x)[1] is None
        assert len(np.unique(ids)) > 1


def test_read_only_and_strided_input_is_taken(tmp_path):
    _, p = make(tmp_path / "m", 1, 2, 4, 1)
    x = np.random.default_rng(0).integers(0, 256, (1, 1, 32, 64), dtype=np.uint8)
    frozen = np.frombuffer(x[..., ::-2].tobytes(), np.uint8).reshape(1, 1, 32, 32)
    np.testing.assert_array_equal(p.logits(x[..., ::-2]), p.logits(frozen))


def header(**changes):
    stored = {"format_version": 1, "architecture": "UNet", "config": {}, "class_names": [], "head": "softmax"}
    return Header.of(stored | {"normalization": {"kind": "range"}} | changes)


def test_ties_go_to_the_lower_class():
    for k in (2, 4):
        logits = torch.zeros(1, k, 3, 3)
        assert not classes(logits, header(config={"n_classes": k}, class_names=list("abcd")[:k])).any()


def test_one_sigmoid_channel_is_two_classes_by_threshold():
    h = header(config={"n_classes": 1}, class_names=["no", "yes"], head="sigmoid", thresholds=[0.8])
    logits = torch.tensor([-3.0, 0.5, 1.3, 1.4, 3.0]).reshape(1, 1, 1, 5)
    assert classes(logits, h).flatten().tolist() == [0, 0, 0, 1, 1]  # logit(0.8) = 1.386
    p = probabilities(logits, h)
    torch.testing.assert_close(p[0, 1, 0], torch.sigmoid(logits.flatten()))
    torch.testing.assert_close(p.sum(1), torch.ones(1, 1, 5))


@pytest.mark.parametrize("thresholds", [[0.7, 0.3], [0.2, 0.5, 0.4]])
def test_softmax_thresholds_weigh_the_classes(thresholds):
    k = len(thresholds)
    names = [f"class {i}" for i in range(k)]
    h = header(config={"n_classes": k}, class_names=names, thresholds=thresholds)
    logits = torch.randn(2, k, 40, 50, generator=torch.Generator().manual_seed(k)) * 2
    p = torch.softmax(logits.double(), 1).numpy()
    expected = (p / np.array(thresholds).reshape(-1, 1, 1)).argmax(1)
    assert np.array_equal(classes(logits, h).numpy(), expected)
    assert (expected != p.argmax(1)).any()
    if k == 2:
        assert np.array_equal(expected, p[:, 1] > 0.3)


def test_several_sigmoid_channels_are_classes_from_1_over_their_thresholds():
    h = header(config={"n_classes": 2}, class_names=["none", "a", "b"], head="sigmoid", thresholds=[0.5, 0.9])
    logits = torch.tensor([[-1.0, 1.0, 1.0, 1.0, -1.0], [-2.0, 0.0, 2.0, 3.0, 2.0]]).reshape(1, 2, 1, 5)
    assert classes(logits, h).flatten().tolist() == [0, 1, 1, 2, 0]  # logit(0.9) = 2.197
    assert probabilities(logits, h).shape == (1, 3, 1, 5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 73, 72), "side of 73 pixels, not 40 [+] 4 times n; use 72 or 76"),
        ((1, 1, 40, 72), "side of 40 pixels, .* use 44"),
        ((1, 2, 72, 72), r"x has shape \(1, 2, 72, 72\), must be \(b, 1, y, x\)"),
        ((72, 72), "must be"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tmp_path, shape, message):
    _, p = make(tmp_path / "m", 1, 2, 2, 2)
    with pytest.raises(ValueError, match=message):
        p.classes(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="a core of 30 pixels is not a multiple of the stride 4; use 28 or 32"):
        p.activation_bytes(32, 30)
    with pytest.raises(ValueError, match="must be integers or floats"):
        p.classes(np.zeros((1, 1, 72, 72), complex))


def test_unknown_device_and_precision_are_refused(tmp_path):
    make(tmp_path / "m", 1, 2, 2, 1)
    with pytest.raises(InputError, match="precision 'float8' is unknown; use float32 or bfloat16"):
        load(tmp_path / "m", precision="float8")
    with pytest.raises(InputError, match="device 'tpu' is unknown"):
        load(tmp_path / "m", "tpu")


def test_a_changed_file_is_refused_where_the_pickle_is_opened(tmp_path):
    _, p = make(tmp_path / "m", 1, 2, 2, 1)
    pickled = pickle.dumps(p)
    assert len(pickled) < 500
    assert pickle.loads(pickled) == p
    make(tmp_path / "m", 1, 2, 2, 1, seed=1)
    with pytest.raises(InputError, match="has changed since the run was planned"):
        pickle.loads(pickled)
    with pytest.raises(InputError, match="has changed since the run was planned"):
        p.classes(np.zeros((1, 1, 32, 32), np.uint8))


def test_the_network_is_opened_once_per_process(tmp_path):
    _, p = make(tmp_path / "m", 1, 2, 2, 1, batch_norm=True)
    assert p.network is pickle.loads(pickle.dumps(p)).network
    assert p.network.config["batch_norm"] is False
    assert not p.network.training


def test_instance_norm_is_not_exact(tmp_path):
    _, p = make(tmp_path / "m", 1, 2, 2, 1, instance_norm=True)
    assert (p.exact, p.inexact_reason) == (False, "instance norm looks at the whole tile")
    assert make(tmp_path / "n", 1, 2, 2, 1)[1].inexact_reason is None


def test_bfloat16_stays_near_float32(tmp_path):
    _, p = make(tmp_path / "m", 1, 2, 8, 2)
    x = np.random.default_rng(0).integers(0, 256, (1, 1, 104, 104), dtype=np.uint8)
    assert 0 < difference(p.logits(x), load(tmp_path / "m", "cpu", "bfloat16").logits(x)) < 0.1


def test_no_room_is_a_memory_error(tmp_path, monkeypatch):
    _, p = make(tmp_path / "m", 1, 2, 2, 1)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore")

    network = p.network
    monkeypatch.setattr("models.compute.opened", lambda *_: Opened(network, torch.device("cpu"), torch.float32))
    monkeypatch.setattr(network, "forward", full)
    with pytest.raises(MemoryError, match=r"out of device memory: CUDA out of memory\. Tried to allocate 9 GiB"):
        p.classes(np.zeros((1, 1, 32, 32), np.uint8))


@pytest.mark.parametrize(
    ("normalization", "factor", "warned"),
    [
        ({"kind": "mean_std", "mean": [20.0], "std": [12.0]}, 1, False),
        ({"kind": "mean_std", "mean": [20.0], "std": [12.0]}, 60, True),
        ({"kind": "percentile", "low": [0.0], "high": [40.0]}, 60, True),
        ({"kind": "range"}, 60, False),
    ],
)
def test_an_image_in_other_units_than_the_training_is_told(tmp_path, caplog, normalization, factor, warned):
    _, net = make(tmp_path / "net.safetensors", base=2, depth=1, normalization=normalization)
    pixels = np.random.default_rng(0).integers(0, 40, (50, 60), dtype=np.uint16) * factor
    tilekit.predict(pixels, net, tmp_path / "out.zarr")
    said = [record.getMessage() for record in caplog.records if "spread" in record.getMessage()]
    assert len(said) == warned, caplog.text
    assert all(str(tmp_path / "out.zarr") in text and f"{pixels.mean():.4g}" in text for text in said)
