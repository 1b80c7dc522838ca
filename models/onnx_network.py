"""ONNX networks, computed by onnxruntime. The one door to onnx and onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.geometry import Costs
from models.probe import Function
from tilekit.errors import InputError

DYNAMIC = "torch.onnx.export(..., dynamic_axes={'input': {2: 'y', 3: 'x'}, 'output': {2: 'y', 3: 'x'}})"
_WHOLE = {
    "GlobalAveragePool": "global pooling",
    "GlobalMaxPool": "global pooling",
    "InstanceNormalization": "instance norm",
    "GroupNormalization": "group norm",
    "Attention": "attention",
    "MultiHeadAttention": "attention",
    "LayerNormalization": "layer norm",
    "ReduceMean": "global pooling",
    "ReduceMax": "global pooling",
    "MatMul": "attention",
}
"""Kinds of nodes that may look at a whole tile, in the order of suspicion."""
MAX_MODEL = 1 << 31


def parse(path: str, data: bytes) -> Any:
    """The checked model (onnx.ModelProto) of a file; InputError where it is none."""
    onnx = _imported(path)[0]
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
    except MemoryError:
        raise
    except Exception as error:  # protobuf's and onnx's own
        line = (str(error).strip().splitlines() or ["damaged"])[0]
        raise InputError(f"{path}: is no whole ONNX file ({line}); export it again") from None
    return model


def _imported(path: str) -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise InputError(f"{path}: ONNX needs onnxruntime and onnx; pip install 'tilekit[onnx]'") from None
    onnxruntime.set_default_logger_severity(4)
    return onnx, onnxruntime


def channels(path: str, model: Any) -> int | None:
    """Channels of its input, None where they are not fixed; InputError where it takes something else than an image."""
    constants = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1:
        raise InputError(f"{path}: has {len(inputs)} inputs, must have one image; export it with one")
    kind = inputs[0].type.tensor_type
    sides = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    if kind.elem_type != 1:
        raise InputError(f"{path}: its input is not float32; export it with float32 inputs")
    if len(sides) != 4:
        raise InputError(f"{path}: its input has {len(sides)} axes, must have four: (b, c, y, x)")
    if sides[2] or sides[3]:
        raise InputError(f"{path}: takes inputs of {sides[2]} x {sides[3]} pixels alone; export it with {DYNAMIC}")
    return sides[1]


def as_function(path: str, data: bytes, device: str = "cpu") -> Function:
    """Arrays (1, c, y, x) float32 in, the first output (1, k, y', x') float32 out; one thread."""
    ort = _imported(path)[1]
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    providers = ["CPUExecutionProvider"]
    if device != "cpu" and "CUDAExecutionProvider" in ort.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    try:
        session = ort.InferenceSession(data, options, providers=providers)
    except Exception as error:  # onnxruntime's own, of no common base
        line = (str(error).strip().splitlines() or ["unknown"])[0]
        raise InputError(f"{path}: onnxruntime does not take it ({line}); export it for another opset") from None
    name, out = session.get_inputs()[0].name, session.get_outputs()[0].name

    def run(x: NDArray[Any]) -> NDArray[Any]:
        parts = [session.run([out], {name: np.ascontiguousarray(part[None], np.float32)})[0] for part in x]
        return np.concatenate(parts) if len(parts) > 1 else np.asarray(parts[0])

    return run


def whole_tile_node(model: Any) -> str | None:
    """The node that most likely makes every output depend on the whole tile; None where there is no such kind."""
    fixed = {t.name for t in model.graph.initializer}
    for kind, told in _WHOLE.items():
        for node in model.graph.node:
            if node.op_type == kind and not (kind == "MatMul" and fixed & set(node.input)):
                return f"{told} (node {node.name or node.op_type}) looks at the whole tile"
    for node in model.graph.node:
        if any(a.name == "coordinate_transformation_mode" and a.s == b"align_corners" for a in node.attribute):
            return f"up-sampling with align_corners (node {node.name or node.op_type}) scales with the tile"
    return None


def costs(path: str, model: Any, n_channels: int, y: int, x: int) -> Costs:
    """Of a pass over an input of y by x pixels, from the shapes of everything between its nodes."""
    sizes = _shapes(path, model, n_channels, y, x)
    weights = {t.name: tuple(t.dims) for t in model.graph.initializer}
    last = {name: i for i, node in enumerate(model.graph.node) for name in node.input}
    multiply_adds, alive, peak = 0.0, 0, 0
    for i, node in enumerate(model.graph.node):
        alive += sum(prod(sizes.get(name, ())) for name in node.output if name in sizes)
        peak = max(peak, alive)
        alive -= sum(prod(sizes[name]) for name in set(node.input) if name in sizes and last[name] == i)
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in weights:
            shape = weights[node.input[1]]
            pixels = sizes[node.output[0] if node.op_type == "Conv" else node.input[0]][2:]
            multiply_adds += prod(shape) * prod(pixels)
    return Costs(sum(map(prod, weights.values())), multiply_adds / (y * x), 4 * 2 * peak / (y * x))


def _shapes(path: str, model: Any, n_channels: int, y: int, x: int) -> dict[str, tuple[int, ...]]:
    """Shapes of all that flows between the nodes: run once with everything as an output."""
    onnx, ort = _imported(path)
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    names = list(_flowing(model))
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = np.zeros((1, n_channels, y, x), np.float32)
    found = session.run(names, {session.get_inputs()[0].name: image})
    return {name: np.shape(value) for name, value in zip(names, found, strict=True)}


def _flowing(model: Any) -> Iterator[str]:
    for node in model.graph.node:
        if node.op_type != "Constant":
            yield from (name for name in node.output if name)
