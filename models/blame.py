"""Which layer of a torch network makes it depend on the whole tile, found by watching it compute.

Two strips go through at once, equal on their left and different on their right. Whichever operation first takes in what
is equal on the left, and gives what is not, has carried the difference all the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

SHARE = 8
"""An eighth of the columns is looked at."""
NAMES = {
    "instance_norm": "instance norm",
    "group_norm": "group norm",
    "layer_norm": "layer norm",
    "adaptive_avg_pool2d": "global pooling",
    "adaptive_max_pool2d": "global pooling",
    "mean": "global pooling",
    "amax": "global pooling",
    "max": "global pooling",
    "sum": "global pooling",
    "std": "a norm over the tile",
    "var": "a norm over the tile",
    "scaled_dot_product_attention": "attention",
    "multi_head_attention_forward": "attention",
    "native_multi_head_attention": "attention",
    "matmul": "attention",
    "bmm": "attention",
    "einsum": "attention",
    "softmax": "attention",
    "fft2": "a Fourier transform",
    "rfft2": "a Fourier transform",
}
"""Operations that carry a difference across a tile, as people call them."""
_MOVES = ("permute", "transpose", "reshape", "view", "flatten", "unflatten", "contiguous", "expand", "roll", "getitem")


class _Watch(TorchFunctionMode):
    """Notes the first operation of each kind that is to blame."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        """Layers that are being computed, outermost first."""
        self.scattered: str | None = None
        """The first operation of `NAMES` whose output differs on the left, or has no columns any more."""
        self.blamed: str | None = None
        """The operation that carried the difference."""
        self.aligned: str | None = None
        """The first up-sampling whose grid hangs on the tile's size."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = (resolve_name(func) or getattr(func, "__name__", "")).rsplit(".", 1)[-1].strip("_")
        if name == "interpolate" and (kwargs.get("align_corners") or (len(args) > 4 and args[4])):
            self.aligned = self.aligned or self._told("up-sampling with align_corners=True")
        first = out[0] if isinstance(out, tuple) and out else out
        if self.blamed is None and isinstance(first, Tensor):
            self._see(name, [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)], first)
        return out

    def _see(self, name: str, given: list[Tensor], out: Tensor) -> None:
        if out.ndim == 4 and (out.shape[0] != 2 or _is_clear(out)):
            return
        if name in NAMES and self.scattered is None:
            self.scattered = self._told(NAMES[name])
        if out.ndim == 4 and name not in _MOVES and any(_is_clear(t) for t in given):
            self.blamed = self.scattered

    def _told(self, what: str) -> str:
        return f"{what} (layer {self.stack[-1]})" if self.stack else what


def _is_clear(t: Tensor) -> bool:
    """True for two images (2, c, y, x) that agree on the left."""
    if t.ndim != 4 or t.shape[0] != 2:
        return False
    left = t[..., : max(t.shape[-1] // SHARE, 1)]
    return bool(torch.equal(left[0], left[1]))


def find_culprit(network: nn.Module, strip: Tensor) -> str | None:
    """What of a network in eval mode looks at the whole strip (1, c, y, x), or scales with it; None: nothing known.

    An operation that reaches far is not told from one that sees all, so only those that are known to are named.
    """
    other = strip.clone()
    half = strip.shape[-1] * 3 // 4
    other[..., half:] = 3 * torch.randn_like(other[..., half:])
    watch = _Watch()
    with _named(network, watch.stack), torch.inference_mode(), watch:
        out = network(torch.cat((strip, other)))
    if watch.scattered and not watch.blamed and not _is_clear(out):
        watch.blamed = watch.scattered
    if watch.blamed:
        return f"{watch.blamed} looks at the whole tile"
    return f"{watch.aligned} scales with the tile" if watch.aligned else None


@contextmanager
def _named(network: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep the names of the layers that are being computed on the stack."""
    handles = []
    for name, module in network.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: stack.append(name)))
            handles.append(module.register_forward_hook(lambda *_: stack.pop() and None))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
