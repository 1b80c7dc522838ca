"""Checkpoints: what is written comes back, and what is not a checkpoint is refused in one line."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models import UNet, load, save
from models.checkpoint import read_header
from tilekit.errors import InputError

STORED = {
    "format_version": 1,
    "architecture": "UNet",
    "config": UNet(base=2, depth=1).config,
    "class_names": ["background", "cell"],
    "normalization": {"kind": "range"},
    "head": "softmax",
}


def write(path, *, tensors=None, **changes):
    """A checkpoint whose description is `STORED` with these changes."""
    tensors = UNet(base=2, depth=1).state_dict() if tensors is None else tensors
    save_file(tensors, path, metadata={"tilekit": json.dumps(STORED | changes)})
    return path


def refusal(path):
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_all_that_is_saved_comes_back(tmp_path):
    net = UNet(2, 3, 4, 2, "same", batch_norm=True, upsampling="bilinear", dropout=0.1)
    rule = {"kind": "mean_std", "mean": [1.5, 2], "std": [3, 4]}
    save(
        net, tmp_path / "m.safetensors", class_names=["a", "b", "c"], normalization=rule, pixel_size=(0.5, 0.25),
        channel_names=["DAPI", "GFP"],
    )  # fmt: skip
    header = read_header(tmp_path / "m.safetensors")
    assert header.config.as_dict() == net.config
    assert header.normalization.as_dict() == rule
    assert (header.class_names, header.pixel_size) == (("a", "b", "c"), (0.5, 0.25))
    assert (header.channel_names, header.head, header.thresholds) == (("DAPI", "GFP"), "softmax", ())
    stored = load_file(tmp_path / "m.safetensors")
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in stored.items())
    assert not list(tmp_path.glob(".*"))


def test_one_channel_is_two_classes(tmp_path):
    save(UNet(n_classes=1, base=2, depth=1), tmp_path / "m", class_names=["background", "cell"])
    header = read_header(tmp_path / "m")
    assert (header.head, header.thresholds, header.n_classes) == ("sigmoid", (0.5,), 2)


def test_planning_needs_no_torch(tmp_path):
    save(UNet(base=2, depth=2), tmp_path / "m.safetensors")
    code = """
import pickle, sys
import models
from models import load
from models.checkpoint import read_header
read_header(sys.argv[1])
p = pickle.loads(pickle.dumps(load(sys.argv[1])))
p.halo, p.stride, p.n_classes, p.exact, p.activation_bytes(64, 64), p.multiply_adds(64, 64), p.multiply_adds_per_pixel
assert "torch" not in sys.modules
assert p.network is not None
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code, tmp_path / "m.safetensors"], check=True)


def test_pickles_are_never_read(tmp_path):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("a pickle was run",)

    for protocol in (2, 5):
        (tmp_path / "p.pt").write_bytes(pickle.dumps(Bomb(), protocol=protocol))
        (tmp_path / "p").write_bytes(pickle.dumps(Bomb(), protocol=protocol))
        for name in ("p.pt", "p"):
            assert "is a pickle" in refusal(tmp_path / name)
            assert "nothing is unpickled: export it with torch.onnx.export" in refusal(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Bomb()))
    assert "is a pickle" in refusal(tmp_path / "z.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert "is a pickle" in refusal(tmp_path / "old.pt")


def test_torn_files_show_both_numbers(tmp_path):
    whole = write(tmp_path / "m").read_bytes()
    n_header = int.from_bytes(whole[:8], "little")
    weights = len(whole) - 8 - n_header
    (tmp_path / "torn").write_bytes(whole[:-100])
    assert f"is torn, holds {weights - 100} bytes of weights, its header says {weights}" in refusal(tmp_path / "torn")
    (tmp_path / "head").write_bytes(whole[:50])
    assert f"its header claims {n_header} bytes, the file has 50" in refusal(tmp_path / "head")
    (tmp_path / "long").write_bytes(whole + b"more")
    assert "is torn" in refusal(tmp_path / "long")
    (tmp_path / "huge").write_bytes((1 << 60).to_bytes(8, "little") + whole[8:])
    assert f"its header claims {1 << 60} bytes, the file has {len(whole)}" in refusal(tmp_path / "huge")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"abc", "is torn, 3 bytes"),
        (b"\x89HDF\r\n\x1a\n" + b"0" * 99, "is no safetensors file"),
        ((5).to_bytes(8, "little") + b"{oops", "description is damaged"),
        ((9).to_bytes(8, "little") + b'{"a": []}', "tensor a is not float32"),
        ((2).to_bytes(8, "little") + b"{}", "no tilekit description"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, message):
    (tmp_path / "m").write_bytes(content)
    assert message in refusal(tmp_path / "m")


def test_missing_files_and_directories_are_refused(tmp_path):
    assert "there is no such file" in refusal(tmp_path / "none.safetensors")
    assert "is a directory" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format version 2 is unknown, this tilekit reads 1"),
        ({"format_version": True}, "format version True is unknown"),
        ({"architecture": "Transformer"}, "architecture 'Transformer' is unknown"),
        ({"architecture": []}, "architecture \\[\\] is unknown"),
        ({"config": 3}, "config is 3, must be an object"),
        ({"config": {"base": 10**9}}, "base is 1000000000, must be a whole number"),
        ({"config": {"wings": 2}}, "UNet has no setting 'wings'"),
        ({"class_names": ["a", "b", "c"]}, "class_names holds 3 names, the network has 2"),
        ({"class_names": "ab"}, "class_names is 'ab', must be a list"),
        ({"normalization": {"kind": "magic"}}, "must be one of range, none, mean_std, percentile"),
        ({"normalization": {"kind": "mean_std", "mean": [1, 2], "std": [1, 1]}}, "mean has 2 numbers, .* 1 channels"),
        ({"normalization": {"kind": "mean_std", "mean": [1], "std": [0]}}, "scale that is not above 0"),
        ({"normalization": {"kind": "mean_std", "mean": [1]}}, "must have"),
        ({"normalization": {"kind": "percentile", "low": [2], "high": [1]}}, "scale that is not above 0"),
        ({"normalization": {"kind": "percentile", "low": [float("nan")], "high": [1]}}, "must hold finite numbers"),
        ({"head": "tree"}, "head is 'tree', must be one of softmax, sigmoid"),
        ({"thresholds": [0.5]}, "the network has 2 channels; give one per channel"),
        ({"pixel_size": [0, 1]}, "pixel_size is \\[0, 1\\], must be two micrometres above 0"),
        ({"config": {"base": 4, "depth": 1}}, r"has shape .*, its architecture \(4,\)"),
        ({"config": {"base": 2, "depth": 2}}, "lacks tensor"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        load(write(tmp_path / "m", **changes))


def test_strange_tensors_are_refused(tmp_path):
    tensors = UNet(base=2, depth=1).state_dict()
    extra = tensors | {"wing.weight": torch.zeros(3)}
    assert "has a tensor that its architecture does not, wing.weight" in refusal(write(tmp_path / "a", tensors=extra))
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    assert "is not float32" in refusal(write(tmp_path / "b", tensors=halves))


def test_save_refuses_what_load_would(tmp_path):
    net = UNet(base=2, depth=1)
    with pytest.raises(InputError, match="class_names holds 1 names, the network has 2"):
        save(net, tmp_path / "m", class_names=["only"])
    with pytest.raises(InputError, match="use head='sigmoid'"):
        save(UNet(n_classes=1, base=2, depth=1), tmp_path / "m", head="softmax")
    net.get_parameter("head.bias").data[0] = np.nan
    with pytest.raises(InputError, match=r"head\.bias is not finite; training diverged"):
        save(net, tmp_path / "m")
    assert not list(tmp_path.iterdir())
