"""What the tests compare with: one pass over a whole image, written without any of tilekit's own arithmetic."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import UNet, save
from tilekit.tiling import Halo

Array = NDArray[Any]
TIE = 1e-4
"""The two likeliest classes may be taken for each other where their probabilities differ by no more than this."""
LOGIT_TOLERANCE = 1e-5
"""Of the largest logit: what float32 may differ by between two shapes of tile."""


def structured_image(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    """An image (..., y, x) of waves and noise that fills the range of its dtype; no two places are alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[-2], : shape[-1]].astype(np.float32)
    planes = np.empty((int(np.prod(shape[:-2], dtype=int)), *shape[-2:]), np.float32)
    for plane in planes:
        fy, fx, phase = rng.uniform(0.02, 0.3), rng.uniform(0.02, 0.3), rng.uniform(0, 6)
        plane[:] = np.sin(fy * y + phase) * np.cos(fx * x - phase) + rng.normal(0, 0.5, plane.shape)
    top = np.iinfo(dtype).max
    return np.clip((planes / 4 + 0.5) * top, 0, top).astype(dtype).reshape(shape)


def random_network(
    *,
    in_channels: int = 1,
    n_classes: int = 3,
    base: int = 4,
    depth: int = 4,
    padding: str = "valid",
    seed: int = 0,
    tap: tuple[int, int] | None = None,
    **options: Any,
) -> UNet:
    """A U-Net with random weights and biases whose classes are about equally frequent.

    `tap` keeps that one of the 3 x 3 weights of every convolution, so that its output hangs on the farthest pixel.
    """
    torch.manual_seed(seed)
    net = UNet(in_channels, n_classes, base, depth, padding, **options).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.05)
            elif tap is not None and parameter.shape[-1] == 3:
                kept = parameter[..., tap[0], tap[1]] * 3
                parameter.zero_()
                parameter[..., tap[0], tap[1]] = kept
        sample = torch.from_numpy(structured_image((1, in_channels, 316, 316), np.uint8, seed + 1)).float() / 255
        sample = sample[..., : 316 if padding == "valid" else 304, : 316 if padding == "valid" else 304]
        logits = net(sample)[0].flatten(1)
        scale = logits.std() / 2
        net.head.weight /= scale
        net.head.bias /= scale
        net.head.bias -= logits.mean(1) / scale
    return net


def saved(net: UNet, path: Path) -> str:
    """The path of a checkpoint of this network."""
    save(net, path, class_names=[f"class {i}" for i in range(net.architecture.n_classes)])
    return str(path)


def whole_image_logits(net: UNet, pixels: Array) -> NDArray[np.float32]:
    """Logits (k, y, x) of ONE forward pass of the bare network over the whole image (c, y, x), mirrored by numpy.

    An unpadded network is given half of what it loses on the first side, so that its first pixel is the image's. One
    that pads (or clamps, up-sampling) is given far more mirror than it can see, in whole strides, cut off again.
    """
    stride = 2**net.architecture.depth
    valid = net.architecture.padding == "valid"
    cut = 0 if valid and net.architecture.upsampling != "bilinear" else 12 * stride
    before = cut + (lost_by(net) // 2 if valid else 0)
    sides = []
    for n in pixels.shape[-2:]:
        total = -(-n // stride) * stride + 2 * before
        total = _admissible(net, total) if valid else total
        sides.append((before, total - before - n))
    padded = np.pad(pixels, [(0, 0), *sides], mode="reflect")
    scale = np.float32(np.iinfo(pixels.dtype).max) if pixels.dtype.kind in "iu" else np.float32(1)
    with torch.inference_mode():
        logits = net(torch.from_numpy(padded.astype(np.float32) / scale)[None])[0].numpy()
    return logits[:, cut : cut + pixels.shape[-2], cut : cut + pixels.shape[-1]].copy()


def lost_by(net: UNet) -> int:
    """Pixels per axis that an unpadded U-Net's output is smaller by: two a convolution, times its step."""
    d = net.architecture.depth
    return 4 * (2**d - 1) + 4 * 2**d + 4 * (2**d - 1)


def _admissible(net: UNet, side: int) -> int:
    """The smallest side, not below this one, whose poolings all meet even sides."""
    while True:
        here, fits = side, True
        for _ in range(net.architecture.depth):
            here -= 4
            fits, here = fits and here > 0 and here % 2 == 0, here // 2
        if fits and here > 4:
            return side
        side += 1


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities (k, y, x)."""
    e = np.exp(logits.astype(np.float64) - logits.max(0))
    return e / e.sum(0)


def ties(logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the two likeliest classes are too close to tell apart."""
    best = np.sort(softmax(logits), axis=0)
    return best[-1] - best[-2] <= TIE


@dataclass
class Recorder:
    """A predictor that also keeps the logits of every tile, in the order in which they were asked for."""

    inner: Any
    logits: list[NDArray[np.float32]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def predict(self, x: Array, probabilities: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        self.logits.append(self.inner.logits(x)[0])
        return self.inner.predict(x, probabilities)

    def stitched(self, shape: tuple[int, int], block: int, core: tuple[int, int]) -> NDArray[np.float32]:
        """The logits (k, y, x) of the whole image: block by block, row by row, tile by tile, the kept part of each."""
        out = np.full((self.logits[0].shape[0], *shape), np.nan, np.float32)
        kept = iter(self.logits)
        for top, left in _starts((0, 0), shape, (block, block)):
            bottom, right = min(top + block, shape[0]), min(left + block, shape[1])
            for y, x in _starts((top, left), (bottom, right), core):
                h, w = min(core[0], bottom - y), min(core[1], right - x)
                out[:, y : y + h, x : x + w] = next(kept)[:, :h, :w]
        assert next(kept, None) is None
        assert not np.isnan(out).any()
        return out


def _starts(first: tuple[int, int], stop: tuple[int, int], step: tuple[int, int]) -> Iterator[tuple[int, int]]:
    for y in range(first[0], stop[0], step[0]):
        for x in range(first[1], stop[1], step[1]):
            yield y, x


@dataclass(frozen=True)
class PlainFilter:
    """A predictor of integers alone, with a known reach and stride: cells are pooled, summed around, and spread again.

    Cells are counted from the first pixel that it is given, as pooling does: the phase decides the answer.
    """

    stride: tuple[int, int] = (4, 4)
    cells_before: tuple[int, int] = (1, 1)
    """Cells that it looks at above and to the left of a pixel's own."""
    cells_after: tuple[int, int] = (1, 1)
    in_channels: int = 1
    n_classes: int = 7
    exact: bool = True
    inexact_reason: str | None = None
    pixel_size: tuple[float, float] | None = None
    multiply_adds_per_pixel: float = 1.0

    @property
    def class_names(self) -> list[str]:
        return [f"class {i}" for i in range(self.n_classes)]

    @property
    def halo(self) -> Halo:
        before, after = (
            tuple(n * s for n, s in zip(cells, self.stride, strict=True))
            for cells in (self.cells_before, self.cells_after)
        )
        return Halo(before, after)  # type: ignore[arg-type]

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def multiply_adds(self, y: int, x: int) -> float:
        (top, left), (bottom, right) = self.halo.before, self.halo.after
        return float((y + top + bottom) * (x + left + right))

    def activation_bytes(self, y: int, x: int) -> int:
        return int(64 * self.multiply_adds(y, x))

    def predict(self, x: Array, probabilities: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        b, c, ny, nx = x.shape
        sy, sx = self.stride
        assert c == self.in_channels
        assert not ny % sy
        assert not nx % sx
        mixed = sum((i + 1) * x[:, i].astype(np.int64) for i in range(c))
        cells = np.asarray(mixed).reshape(b, ny // sy, sy, nx // sx, sx).max((2, 4))
        n = [u + v + 1 for u, v in zip(self.cells_before, self.cells_after, strict=True)]
        my, mx = cells.shape[1] - n[0] + 1, cells.shape[2] - n[1] + 1
        summed = sum((1 + 3 * i + 5 * j) * cells[:, i : i + my, j : j + mx] for i in range(n[0]) for j in range(n[1]))
        spread = np.asarray(summed).repeat(sy, 1).repeat(sx, 2)
        top, left = self.halo.before
        own = np.asarray(mixed)[:, top : top + my * sy, left : left + mx * sx]
        classes = ((spread + 2 * own) % self.n_classes).astype(np.uint8)
        if not probabilities:
            return classes, None
        return classes, (classes[:, None] == np.arange(self.n_classes).reshape(1, -1, 1, 1)).astype(np.float32)


def whole_image_classes(predictor: PlainFilter, pixels: Array) -> NDArray[np.uint8]:
    """The class map (y, x) of one call over the whole image (c, y, x), mirrored by numpy."""
    pairs = zip(pixels.shape[-2:], predictor.stride, predictor.halo.before, predictor.halo.after, strict=True)
    sides = [(before, -n % s + after) for n, s, before, after in pairs]
    padded = np.pad(pixels, [(0, 0), *sides], mode="reflect")
    return predictor.predict(padded[None])[0][0, : pixels.shape[-2], : pixels.shape[-1]]


def contents(store: Path) -> dict[str, str]:
    """Digest of every file of an output, without its ledger and without the date that its root group carries."""
    found = {}
    for path in sorted(p for p in store.rglob("*") if p.is_file() and ".tilekit" not in p.relative_to(store).parts):
        data = path.read_bytes()
        if path == store / "zarr.json":
            document = json.loads(data)
            document["attributes"]["tilekit"].pop("date")
            data = json.dumps(document, sort_keys=True).encode()
        found[str(path.relative_to(store))] = hashlib.sha256(data).hexdigest()
    return found
