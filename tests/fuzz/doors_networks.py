"""Networks: checkpoints and what they say of themselves, descriptions, BioImage.IO packages, ONNX, training states."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from models import UNet, save
from models import load as load_predictor
from models.described import describe
from models.foreign import _onnx_bytes
from models.geometry import Geometry, stored_geometry
from models.meaning import Meaning
from models.onnx_network import as_function, channels, parse, whole_tile_node
from models.state import Progress, read_state, write_state
from tests.fuzz.doors import Door, room
from tests.models.foreign import onnx_network
from tilekit.errors import InputError


@cache
def checkpoint() -> bytes:
    """Of a network of 3 layers and 1 kB."""
    path = room() / "seed.safetensors"
    save(UNet(in_channels=1, n_classes=2, base=1, depth=1), path, ["background", "cell"], pixel_size=(0.5, 0.5))
    return path.read_bytes()


def _split() -> tuple[dict[str, Any], bytes]:
    data = checkpoint()
    n = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def _described(facts: bytes) -> bytes:
    """The checkpoint with other words about itself."""
    entries, weights = _split()
    entries["__metadata__"] = {"tilekit": facts.decode("utf-8", "replace")}
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + weights


def _facts() -> list[bytes]:
    return [json.dumps(json.loads(_split()[0]["__metadata__"]["tilekit"]), separators=(",", ":")).encode()]


def _at(name: str, data: bytes) -> Path:
    path = room() / name
    path.write_bytes(data)
    return path


def load(data: bytes) -> str:
    """A checkpoint, as all commands load it."""
    return repr(load_predictor(_at("network.safetensors", data)))


@cache
def onnx_bytes() -> bytes:
    return onnx_network(room() / "seed.onnx").read_bytes()


def read_onnx(data: bytes) -> object:
    """All but the computation."""
    model = parse("network.onnx", data)
    channels("network.onnx", model)
    return whole_tile_node(model)


def open_onnx(data: bytes) -> object:
    """By onnxruntime."""
    read_onnx(data)
    return as_function("network.onnx", data)


def described(name: str) -> Callable[[bytes], object]:
    """A description under this name, beside an ONNX file; digested, and its words on classes and channels read."""

    def read(data: bytes) -> object:
        _at("weights.onnx", onnx_bytes())
        _at("weights.safetensors", checkpoint())
        path = _at(name, data)
        found = describe(path)
        if found is None:
            return None
        found.digest()
        if found.kind != "torch":
            _onnx_bytes(found)
        try:
            return Meaning.of(found.stored, 1, 2)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None

    return read


TOML = b"""import = "torch.nn:Identity"
weights = "weights.safetensors"
in_channels = 1
arguments = {a = 1}
halo = [4, 4]
stride = 2
head = "softmax"
classes = ["background", "cell"]
normalization = {kind = "mean_std", mean = [1.5], std = [2.0]}
pixel_size = [0.5, 0.5]
window = 64
"""
AXES = (
    "[{type: batch}, {type: channel, channel_names: [DAPI]}, {type: space, id: y, size: {min: 16, step: 2}, halo: 8}, "
    "{type: space, id: x, size: {min: 16, step: 2}, halo: 8}]"
)
STEPS = "[{id: fixed_zero_mean_unit_variance, kwargs: {mean: [1.0], std: [2.0]}}]"
NEW_YAML = f"""type: model
format_version: 0.5.3
inputs: [{{id: raw, axes: {AXES}, preprocessing: {STEPS}}}]
outputs: [{{id: out, axes: {AXES}, data: {{range: [0, 1]}}, postprocessing: [{{id: sigmoid}}]}}]
weights: {{onnx: {{source: weights.onnx}}}}
""".encode()
OLD_YAML = b"""type: model
format_version: 0.4.10
inputs:
- {name: raw, axes: bcyx, data_range: [-.inf, .inf], shape: {min: [1, 1, 16, 16], step: [0, 0, 2, 2]},
   preprocessing: [{name: scale_linear, kwargs: {gain: 0.1, offset: 3}}]}
outputs:
- {name: out, axes: bcyx, halo: [0, 0, 8, 8], postprocessing: [{name: binarize, kwargs: {threshold: 0.5}}]}
weights: {onnx: {source: weights.onnx}}
"""
LAUGHS = b"\n".join(
    [b"a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    + [f"a{i + 1}: &a{i + 1} [{','.join([f'*a{i}'] * 9)}]".encode() for i in range(9)]
    + [b"type: *a9", b"inputs: [1]", b"outputs: [1]"]
)
"""10^9 entries in 1 kB, all of them references."""


def _zipped() -> bytes:
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        archive.writestr("rdf.yaml", NEW_YAML)
        archive.writestr("weights.onnx", b"x" * 9)
    return file.getvalue()


GEOMETRY = b"""{"format": 1, "digest": "d", "geometry": {"reach": [{"before": 4, "after": 4, "stride": 2, "skipped": 0},
{"before": 4, "after": 4, "stride": 2, "skipped": 0}], "in_channels": 1, "out_channels": 2, "reason": null,
"source": "measured", "costs": {"parameters": 9, "multiply_adds": 1.5, "activation_bytes": 2.5}}}"""


def read_probe(data: bytes) -> Geometry | None:
    _at("probed.onnx.probe.json", data)
    return stored_geometry(room() / "probed.onnx", "d")


def _learner() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    network = torch.nn.Conv2d(1, 1, 1)
    return network, torch.optim.SGD(network.parameters(), 0.1)


def _state() -> list[bytes]:
    network, optimizer = _learner()
    path = room() / "state.safetensors"
    write_state(path, network, {}, optimizer, Progress(step=3), {"seed": 1})
    return [path.read_bytes()]


def resume(data: bytes) -> object:
    network, optimizer = _learner()
    return read_state(_at("state.safetensors", data), network, {}, optimizer, {"seed": 1})


DOORS = (
    Door("checkpoint", lambda: [checkpoint()], load),
    Door("facts", _facts, lambda facts: load(_described(facts))),
    Door("toml", lambda: [TOML, b'onnx = "weights.onnx"\n'], described("network.toml")),
    Door("json", lambda: [b'{"onnx":"weights.onnx","classes":["a","b"]}'], described("network.json")),
    Door("yaml", lambda: [NEW_YAML, OLD_YAML, LAUGHS], described("rdf.yaml")),
    Door("zip", lambda: [_zipped()], described("package.zip")),
    Door("onnx", lambda: [onnx_bytes()], read_onnx),
    Door("onnx-opened", lambda: [onnx_bytes()], open_onnx),
    Door("probe", lambda: [GEOMETRY], read_probe),
    Door("state", _state, resume),
)
