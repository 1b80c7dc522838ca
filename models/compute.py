"""The torch half of the predictor: opens checkpoints on a device, turns raw pixels into logits and classes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as parse_tensors
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.configuration import Architecture
from models.families import build
from models.header import Header
from models.meaning import Meaning
from models.network import Network
from models.normalization import Normalization
from tilekit.allocator import keep_memory
from tilekit.copies import fetched
from tilekit.errors import InputError
from tilekit.place import as_path

BATCH_NORM_EPS = 1e-5  # torch's default, which the networks use


@dataclass(frozen=True, slots=True)
class Opened:
    """A network on its device, ready for inference."""

    network: Network
    """In eval mode, channels_last, batch norm folded into the convolutions, without gradients."""
    device: torch.device
    dtype: torch.dtype
    """Of weights and activations."""


_opened: dict[tuple[str, str, str], tuple[str, Opened]] = {}
"""By path, device and precision: digest and network, the last state of each file alone."""
_lock = Lock()


def opened(path: str, digest: str, device: str, precision: str, header: Header) -> Opened:
    """The network of this file on this device, opened once per process; InputError where the file has changed."""
    key = (path, device, precision)
    with _lock:
        if key not in _opened or _opened[key][0] != digest:
            _opened[key] = digest, _open(path, digest, device, precision, header)
        return _opened[key][1]


def _open(path: str, digest: str, device: str, precision: str, header: Header) -> Opened:
    place = choose_device(device)
    settle(place)
    with fetched(as_path(path)).open("rb") as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != digest:
        raise InputError(f"{path}: has changed since the run was planned (digest {digest[:12]}); start again")
    tensors = parse_tensors(data)
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise InputError(f"{path}: holds weights that are not finite; training diverged, give an earlier state")
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return Opened(_build(header.config, tensors, place, dtype), place, dtype)


def _build(config: Architecture, tensors: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> Network:
    if config.batch_norm:
        folded = config.changed(batch_norm=False)
        config, tensors = folded, _fold(config, folded, tensors)
    with torch.device("meta"):
        network = build(config)
    network.load_state_dict(tensors, assign=True)
    network.eval().requires_grad_(False)
    return network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _fold(config: Architecture, folded: Architecture, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each batch norm worked into the layer before it (4 to 9% of the time); `folded`: the same layers without them."""
    found: dict[str, Tensor] = {}
    layers, name = iter([layer for layer in folded.layers if layer.name]), ""
    for layer in config.layers:
        if layer.kind == "batch_norm":
            parts = (tensors[f"{layer.name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
            mean, var, weight, bias = parts
            old = found.get(f"{name}.bias", torch.zeros_like(mean))
            fused = fuse_conv_bn_weights(found[f"{name}.weight"], old, mean, var, BATCH_NORM_EPS, weight, bias)
            found[f"{name}.weight"], found[f"{name}.bias"] = fused[0].data, fused[1].data
        elif layer.name:
            name = next(layers).name
            found |= {
                f"{name}.{part}": tensors[f"{layer.name}.{part}"] for part in ("weight", "bias")[: 1 + layer.bias]
            }
    return found


def settle(place: torch.device) -> None:
    """Threads, memory and arithmetic of this process, for networks that compute at `place`."""
    if place.type == "cpu":
        keep_memory()
        torch.set_num_threads(1)  # two workers of one thread are never slower than one of two; OpenMP barriers wait
    elif place.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # TF32 keeps 10 bits: not exact
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True  # a rerun gives the same bytes


def choose_device(device: str) -> torch.device:
    """A torch device; "auto" is CUDA device TILEKIT_DEVICE_INDEX (modulo their number), or the CPU without CUDA."""
    if device != "auto":
        chosen = torch.device(device)
        if chosen.type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"device {device} is not available on this machine; use cpu or auto")
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("TILEKIT_DEVICE_INDEX", "0")) % torch.cuda.device_count())
    return torch.device("cpu")


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Raise MemoryError where the device or the host has no room, so that the caller can halve its tile."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise MemoryError(f"out of device memory: {str(error).splitlines()[0]}") from None
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise MemoryError(f"out of memory: {str(error).splitlines()[0]}") from None


def run(
    net: Opened, header: Header, x: NDArray[Any], core: tuple[slice, slice], *, outputs: tuple[str, ...]
) -> dict[str, NDArray[Any]]:
    """One forward pass over raw pixels x (b, c, y, x); the outputs asked for, of its core, by name."""
    with _memory_errors(), torch.inference_mode():
        logits = net.network(prepare(x, header.normalization, net))[:, :, core[0], core[1]]  # (b, channels, y, x)
        found: dict[str, Tensor] = {}
        if "logits" in outputs:
            found["logits"] = logits.float()
        if "classes" in outputs:
            found["classes"] = classes(logits, header)
        if "probabilities" in outputs:
            found["probabilities"] = probabilities(logits, header)
        del logits
        return {name: tensor.contiguous().cpu().numpy() for name, tensor in found.items()}


def prepare(x: NDArray[Any], normalization: Normalization, net: Opened) -> Tensor:
    """Raw pixels (b, c, y, x), moved to the device in their own dtype, then normalised in float32, channels_last."""
    native = np.require(x, x.dtype.newbyteorder("="), ["C", "W"])  # from_numpy takes neither read-only nor swapped
    raw = torch.from_numpy(native).to(net.device)
    out = torch.empty(raw.shape, dtype=torch.float32, device=net.device, memory_format=torch.channels_last)
    out.copy_(raw)
    shift, scale = normalization.shift_and_scale(x.dtype)
    if shift:
        out.sub_(torch.tensor(shift, device=net.device).view(-1, 1, 1))
    if scale:
        out.div_(torch.tensor(scale, device=net.device).view(-1, 1, 1))
    return out.to(net.dtype)


def classes(logits: Tensor, header: Header | Meaning) -> Tensor:
    """Class ids (b, y, x) uint8 of logits (b, channels, y, x); ties go to the lower id."""
    if header.head == "sigmoid":
        return _classes_over_thresholds(logits, header.thresholds)
    if header.thresholds:  # the largest p / t is the largest log p - log t, and log p is the logit less one sum for all
        logits = logits.float() - torch.tensor(header.thresholds, device=logits.device).log().view(-1, 1, 1)
    if logits.shape[1] == 2:
        return torch.gt(logits[:, 1], logits[:, 0]).view(torch.uint8)
    return logits.argmax(1).to(torch.uint8)  # a running maximum takes 3 times as long at 20 classes


def _classes_over_thresholds(logits: Tensor, thresholds: tuple[float, ...]) -> Tensor:
    """1 + the channel of highest probability among those above their threshold, 0 where there is none."""
    limits = torch.tensor(thresholds, dtype=torch.float64).logit().tolist()  # p > t exactly where logit(p) > logit(t)
    if len(limits) == 1:
        return torch.gt(logits[:, 0], limits[0]).view(torch.uint8)
    best = torch.full_like(logits[:, 0], -torch.inf)
    ids = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for channel, limit in enumerate(limits):
        wins = (logits[:, channel] > limit) & (logits[:, channel] > best)
        ids.masked_fill_(wins, channel + 1)
        best = torch.where(wins, logits[:, channel], best)
    return ids


def probabilities(logits: Tensor, header: Header | Meaning) -> Tensor:
    """Probabilities (b, n_classes, y, x) float32; a sigmoid head's class 0 has 1 - the largest of the others."""
    if header.head == "softmax":
        return torch.softmax(logits, 1, dtype=torch.float32)
    p = torch.sigmoid(logits.float())
    return torch.cat((1 - p.amax(1, keepdim=True), p), 1)
