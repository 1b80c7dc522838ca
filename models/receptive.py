"""What a network needs and costs, derived from its list of layers. Integers alone: no torch, no numpy.

One axis is solved by following a tile through the layers; the product of two axes comes last. Per tensor:

    tile       |<----------------- size ----------------->|
    its pixels  c c c|v v v v v v v v v v v v v v v|c c c c     c: contaminated by the tile's edge (zero padding,
               start ^                         stop ^              clamped up-sampling); v: as the whole image has it
    offset: the tile's input pixel under which this tensor's pixel 0 lies; step: input pixels per pixel

Unpadded convolutions move `offset`, padding and bilinear up-sampling move `start` and `stop`: one mechanism.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal[
    "conv", "relu", "batch_norm", "instance_norm", "dropout", "pool", "up_conv", "bilinear", "nearest", "skip", "concat"
]


@dataclass(frozen=True, slots=True)
class Layer:
    """One step of a network, fed by the one before; `skip` also keeps its input, `concat` takes the last one kept."""

    kind: Kind
    name: str = ""
    """Prefix of its parameters' names; empty where it has none."""
    n_in: int = 0
    """Channels of the input (of both inputs together for concat)."""
    n_out: int = 0
    """Channels of the output."""
    kernel: int = 1
    """Side of a convolution's kernel, odd; 2 for pool, up_conv and the two up-samplings, which step by 2."""
    padding: int = 0
    """Zeros put on each side before a convolution."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where one axis of a tensor lies, and which of its pixels are as the whole image would have them."""

    size: int
    """Pixels."""
    offset: int
    """Input pixel of the tile under which pixel 0 lies (convolutions are centred)."""
    step: int
    """Input pixels per pixel: 2 to the number of poolings passed."""
    start: int
    """First pixel that the tile's edge does not contaminate."""
    stop: int
    """One past the last such pixel."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What one axis of a tile needs around a core whose side is a multiple of the stride."""

    before: int
    """Input pixels before the core."""
    after: int
    """Input pixels after the core."""
    stride: int
    """Cores start at multiples of this many pixels, so that every tile pools the cells of the whole image."""
    skipped: int
    """Output pixels before the core: contaminated, or there for the phase."""


def spans(layers: Sequence[Layer], size: int) -> Iterator[Span]:
    """The span after each layer for a tile `size` pixels wide; ValueError where the size does not pass through."""
    span = Span(size, 0, 1, 0, size)
    kept: list[Span] = []
    for layer in layers:
        if layer.kind == "skip":
            kept.append(span)
        elif layer.kind == "concat":
            span = _concat(kept.pop(), span)
        else:
            span = _step(layer, span)
        if span.size < 1:
            raise ValueError(f"{size} input pixels are too few: nothing is left at {layer.name or layer.kind}")
        yield span


def _step(layer: Layer, x: Span) -> Span:
    if layer.kind == "conv":
        lost = layer.kernel - 1 - 2 * layer.padding
        moved = (layer.kernel // 2 - layer.padding) * x.step
        start, stop = x.start + layer.padding, x.stop + layer.padding - layer.kernel + 1
        return Span(x.size - lost, x.offset + moved, x.step, start, stop)
    if layer.kind == "pool":
        if x.size % 2:
            raise ValueError(f"{x.size} pixels cannot be pooled by two")
        return Span(x.size // 2, x.offset, x.step * 2, -(-x.start // 2), x.stop // 2)
    if layer.kind in ("up_conv", "nearest", "bilinear"):
        rim = 1 if layer.kind == "bilinear" else 0  # its first and last pixel clamp at the tile's edge
        return Span(x.size * 2, x.offset, x.step // 2, x.start * 2 + rim, x.stop * 2 - rim)
    return x


def _concat(skip: Span, x: Span) -> Span:
    """The kept tensor cropped to the other; the crop is the difference of their offsets, so their pixels coincide."""
    cut = (x.offset - skip.offset) // x.step
    skip = replace(skip, size=x.size, offset=skip.offset + cut * x.step, start=skip.start - cut, stop=skip.stop - cut)
    if skip.offset != x.offset or skip.step != x.step:
        raise ValueError(f"skip at {skip.offset} step {skip.step} does not meet {x.offset} step {x.step}")
    return replace(x, start=max(x.start, skip.start), stop=min(x.stop, skip.stop))


def stride(layers: Sequence[Layer]) -> int:
    """Total down-sampling in pixels: 2 to the number of poolings."""
    return 1 << sum(layer.kind == "pool" for layer in layers)


def whole_tile_layers(layers: Sequence[Layer]) -> list[str]:
    """Kinds of layers whose every output pixel sees the whole tile: with one of them tiles cannot be exact."""
    return sorted({layer.kind for layer in layers if layer.kind == "instance_norm"})


def admits(layers: Sequence[Layer], size: int) -> bool:
    """True where an input of this many pixels passes: every pooling meets an even side and something is left."""
    try:
        return all(span.size > 0 for span in spans(layers, size))
    except ValueError:
        return False


def nearest_inputs(layers: Sequence[Layer], size: int) -> list[int]:
    """The admissible input sides nearest to `size`: the next smaller (where there is one) and the next larger."""
    step = stride(layers)
    larger = next(n for n in range(max(size, 1), max(size, 1) + 2 * smallest_input(layers)) if admits(layers, n))
    return [n for n in (larger - step, larger) if admits(layers, n)]


def smallest_input(layers: Sequence[Layer]) -> int:
    """The smallest admissible input side in pixels (188 for the paper's U-Net)."""
    size = 1
    while not admits(layers, size):
        size += 1
    return size


def reach(layers: Sequence[Layer]) -> Reach:
    """Halo and stride of one axis, exact: the fewest pixels that leave the core as the whole image has it.

    `before` is the output's own offset (its phase in the image) plus the contaminated rim rounded up to the stride;
    `after` is the least that both clears the rim and makes the input admissible for every core of k strides.
    """
    step, size = stride(layers), smallest_input(layers)
    *_, last = spans(layers, size)
    while last.start >= last.stop:
        size += step
        *_, last = spans(layers, size)
    skipped = -(-last.start // step) * step
    before = last.offset + skipped
    after = max(0, size - last.stop - last.offset)
    return Reach(before, after + (size - before - after) % step, step, skipped)


def multiply_adds(layers: Sequence[Layer], size: tuple[int, int]) -> int:
    """Multiply-adds of the convolutions in one forward pass over an input of `size` (y, x) pixels, batch 1."""
    ys, xs = spans(layers, size[0]), spans(layers, size[1])
    return sum(_cost(layer) * y.size * x.size for layer, y, x in zip(layers, ys, xs, strict=True))


def multiply_adds_per_pixel(layers: Sequence[Layer]) -> float:
    """Multiply-adds per output pixel as the tile grows without bound (733,888 for the paper's U-Net)."""
    steps = [span.step for span in spans(layers, smallest_input(layers))]
    return sum(_cost(layer) / step**2 for layer, step in zip(layers, steps, strict=True))


def _cost(layer: Layer) -> int:
    """Multiply-adds per OUTPUT pixel: an up-convolution's four taps go to four different output pixels."""
    if layer.kind == "conv":
        return layer.n_in * layer.n_out * layer.kernel**2
    return layer.n_in * layer.n_out if layer.kind == "up_conv" else 0


_IN_PLACE = ("relu", "dropout", "skip")


def peak_elements(layers: Sequence[Layer], size: tuple[int, int], *, folded: bool = True) -> int:
    """Most tensor elements alive at once in a forward pass over `size` (y, x) pixels, batch 1.

    Counted: the input (alive throughout), the skips kept, a layer's input and output, at a concat the cropped skip and
    the second addend, a convolution's weights laid out anew for the kernel. folded: batch norm costs nothing.
    """
    ys, xs = spans(layers, size[0]), spans(layers, size[1])
    first = x = layers[0].n_in * size[0] * size[1]
    kept: list[int] = []
    skip = peak = 0
    for layer, y_span, x_span in zip(layers, ys, xs, strict=True):
        out = layer.n_out * y_span.size * x_span.size
        if layer.kind == "skip":
            kept.append(x)
        elif layer.kind == "concat":
            skip = x  # its crop, as large as the other half: both go into the next convolution
            peak = max(peak, first + sum(kept) + x + skip)
            kept.pop()
        elif layer.kind not in _IN_PLACE and not (layer.kind == "batch_norm" and folded):
            peak = max(peak, first + sum(kept) + x + out + max(skip, out if skip else 0) + _working(layer, out))
            x, skip = out, 0
    return peak


def _working(layer: Layer, out: int) -> int:
    if layer.kind in ("instance_norm", "pool"):
        return 4 * out  # a norm makes it contiguous by channel and back; a pooling notes 8-byte positions
    return layer.n_in * layer.n_out * layer.kernel**2 if layer.kind in ("conv", "up_conv") else 0
