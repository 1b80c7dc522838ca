"""Networks from elsewhere, as their users have them: a description beside a module, an ONNX file, a package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

MODULE = '''
from torch import nn


class Net(nn.Module):
    """Pools by two, up-samples, ends with a map of each pixel."""

    def __init__(self, width, n, norm=None):
        super().__init__()
        layers = [nn.Conv2d(1, width, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(width, width, 5, padding=2), nn.ReLU()]
        if norm:
            layers.append(getattr(nn, norm)(width))
        layers += [nn.ConvTranspose2d(width, width, 2, stride=2), nn.Conv2d(width, n, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return {"out": self.layers(x)}
'''


def torch_network(folder: Path, name: str = "foreign_net", **changes: Any) -> Path:
    """A TOML, a module and its weights; `changes` are further keys of the description."""
    arguments = {"width": 4, "n": 3, **changes.pop("arguments", {})}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(MODULE)
    scope: dict[str, Any] = {}
    exec(MODULE, scope)
    made: nn.Module = scope["Net"](**arguments)
    save_file(made.state_dict(), folder / "net.safetensors")
    keys = {"import": f"{name}:Net", "weights": "net.safetensors", "in_channels": 1, **changes}
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]  # the same in TOML
    lines += ["[arguments]", *(f"{key} = {json.dumps(value)}" for key, value in arguments.items())]
    (folder / "network.toml").write_text("\n".join(lines) + "\n")
    return folder / "network.toml"


def onnx_network(path: Path, *, fixed: int | None = None, norm: str | None = None, ends: str | None = None) -> Path:
    """The same layers as an ONNX file; `ends` is one more node, Softmax or Sigmoid."""
    draw = np.random.default_rng(0)
    weights: list[Any] = []

    def constant(name: str, *shape: int) -> str:
        weights.append(numpy_helper.from_array(draw.standard_normal(shape).astype(np.float32) / 3, name))
        return name

    def conv(x: str, out: str, n_in: int, n_out: int, k: int) -> Any:
        names = [constant(f"{out}.w", n_out, n_in, k, k), constant(f"{out}.b", n_out)]
        return helper.make_node("Conv", [x, *names], [out], name=out, pads=[k // 2] * 4)

    n = 1 if ends == "Sigmoid" else 3
    nodes = [
        conv("input", "a", 1, 4, 3),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
        conv("b", "c", 4, 4, 5),
        helper.make_node("Relu", ["c"], ["d"]),
    ]
    last = "d"
    if norm == "InstanceNormalization":
        scales = [constant("scale", 4), constant("bias", 4)]
        nodes.append(helper.make_node(norm, ["d", *scales], ["e"], name="norm"))
        last = "e"
    if norm == "GlobalAveragePool":
        nodes += [helper.make_node(norm, ["d"], ["p"], name="pool"), helper.make_node("Mul", ["d", "p"], ["e"])]
        last = "e"
    up = [last, constant("u.w", 4, 4, 2, 2)]
    nodes += [helper.make_node("ConvTranspose", up, ["u"], strides=[2, 2]), conv("u", "f", 4, n, 3)]
    if ends:
        nodes.append(helper.make_node(ends, ["f"], ["g"], **({"axis": 1} if ends == "Softmax" else {})))
    sides: list[Any] = [fixed or "y", fixed or "x"]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["b", 1, *sides])
    out = helper.make_tensor_value_info("g" if ends else "f", TensorProto.FLOAT, ["b", n, *sides])
    graph = helper.make_graph(nodes, "net", [image], [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


FIXED = {"name": "zero_mean_unit_variance", "kwargs": {"mode": "fixed", "axes": "yx", "mean": [100.0], "std": [50.0]}}
RDF_4 = {
    "format_version": "0.4.9",
    "type": "model",
    "name": "net",
    "inputs": [
        {
            "name": "raw", "axes": "bcyx", "data_type": "float32", "preprocessing": [FIXED],
            "shape": {"min": [1, 1, 32, 32], "step": [0, 0, 2, 2]},
        }
    ],
    "outputs": [{"name": "map", "axes": "bcyx", "halo": [0, 0, 8, 8], "postprocessing": [{"name": "softmax"}]}],
    "weights": {"onnx": {"source": "net.onnx"}},
}  # fmt: skip
SPACE = [{"type": "space", "id": a, "size": {"min": 32, "step": 2}} for a in "yx"]
RDF_5 = {
    "format_version": "0.5.3",
    "type": "model",
    "name": "net",
    "inputs": [
        {
            "id": "raw",
            "axes": [{"type": "batch"}, {"type": "channel", "channel_names": ["DAPI"]}, *SPACE],
            "preprocessing": [
                {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
                {"id": "scale_linear", "kwargs": {"gain": 0.02, "offset": -2.0}},
            ],
        }
    ],
    "outputs": [
        {
            "id": "map",
            "axes": [{"type": "batch"}, {"type": "channel"}, *({"type": "space", "id": a, "halo": 4} for a in "yx")],
            "postprocessing": [{"id": "sigmoid"}, {"id": "binarize", "kwargs": {"threshold": 0.4}}],
        }
    ],
    "weights": {"pytorch_state_dict": {"source": "w.pt"}, "onnx": {"source": "net.onnx"}},
}


def package(folder: Path, rdf: dict[str, Any], *, zipped: bool = False, **network: Any) -> Path:
    """A BioImage.IO package, as a folder or a zip archive; JSON is YAML too."""
    onnx_network(folder / "net.onnx", **network)
    (folder / "rdf.yaml").write_text(json.dumps(rdf))
    if not zipped:
        return folder
    with ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in ("net.onnx", "rdf.yaml"):
            archive.write(folder / file, file)
    return folder.with_suffix(".zip")
