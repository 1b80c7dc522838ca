"""Any torch module as a network: its class by import path, its weights as safetensors. Importing it runs its code."""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from models.blame import find_culprit
from models.geometry import Costs
from models.probe import Function, Look
from tilekit.errors import InputError

SMALL = 2_000_000
"""Parameters up to which a network is probed in float64."""


def build(path: str, described: dict[str, Any], folder: Path) -> nn.Module:
    """The module of a description, in eval mode with its weights; InputError names what does not fit."""
    network = _made(path, described["import"], described.get("arguments", {}), folder)
    weights = folder / described["weights"]
    try:
        tensors = load_file(weights)
    except FileNotFoundError:
        raise InputError(f"{path}: its weights {weights} are not there; correct weights") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{weights}: is no whole safetensors file ({error}); copy it again") from None
    wanted = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    given = {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}
    for name in sorted(wanted.keys() | given.keys()):
        if name not in given or name not in wanted:
            whose = "lacks" if name in wanted else "has a tensor that the network does not,"
            raise InputError(f"{weights}: {whose} {name}; correct arguments in {path}, or give the network's weights")
        if given[name].shape != wanted[name].shape:
            raise InputError(
                f"{weights}: {name} has shape {tuple(given[name].shape)}, the network {tuple(wanted[name].shape)}; "
                f"correct arguments in {path}, or give the network's weights"
            )
    network.load_state_dict(given, strict=False)
    return network.eval().requires_grad_(False)


def _made(path: str, where: Any, arguments: dict[str, Any], folder: Path) -> nn.Module:
    if not isinstance(where, str) or where.count(":") != 1:
        raise InputError(f"{path}: import is {where!r}, must be a module and a class, like package.module:Class")
    module, name = where.split(":")
    try:
        with _beside(folder):
            made = getattr(import_module(module), name)(**arguments)
    except ImportError as error:
        raise InputError(f"{path}: cannot import {module} ({error}); install it, or put it beside this file") from None
    except AttributeError as error:
        raise InputError(f"{path}: {error}; correct import") from None
    except Exception as error:  # whatever a foreign class raises
        raise InputError(f"{path}: {name} cannot be made ({_line(error)}); correct arguments") from None
    if not isinstance(made, nn.Module):
        raise InputError(f"{path}: {where} is no torch.nn.Module; name a class that is")
    return made


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Modules may lie in the description's own folder, last of all."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def as_function(network: nn.Module, device: torch.device, dtype: torch.dtype) -> Function:
    """Arrays in, float32 (or, for a network of float64, float64) arrays out."""
    moved = network.to(device=device, dtype=dtype)

    def run(x: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            out = _first(moved(torch.from_numpy(np.ascontiguousarray(x)).to(device=device, dtype=dtype)))
        return (out if dtype == torch.float64 else out.float()).cpu().numpy()

    return run


def _first(out: Any) -> Tensor:
    """The map of a network that gives several, or a dictionary (torchvision's "out")."""
    if isinstance(out, dict):
        out = out.get("out", next(iter(out.values())))
    found = out[0] if isinstance(out, (list, tuple)) else out
    assert isinstance(found, Tensor), type(found)
    return found


def probed(network: nn.Module) -> tuple[Function, Look, str]:
    """What `probe.measure` takes: the network as a function of arrays, what can name its layers, its arithmetic."""
    name = "float64" if sum(p.numel() for p in network.parameters()) <= SMALL else "float32"
    dtype = getattr(torch, name)
    network = copy.deepcopy(network)

    def look(strip: NDArray[Any]) -> str | None:
        return find_culprit(network, torch.from_numpy(strip).to(dtype))

    return as_function(network, torch.device("cpu"), dtype), look, name


def costs(network: nn.Module, channels: int, y: int, x: int) -> Costs:
    """Of a float32 pass over an input of y by x pixels, counted while it runs."""
    network = network.float()
    n = sum(p.numel() for p in network.parameters())
    with torch.inference_mode(), _Live() as live, FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, channels, y, x))
    return Costs(n, counter.get_total_flops() / 2 / (y * x), live.peak / (y * x))


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are alive at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self._note(t.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.seen:
            return
        self.seen.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, n: int) -> None:
        self.seen.discard(key)
        self.now -= n
