"""What a network needs and costs, derived from its list of layers. Integers alone: no torch, no numpy.

One axis is solved by following a tile through the layers; the product of two axes comes last. Per tensor:

    tile       |<----------------- size ----------------->|
    its pixels  c c c|v v v v v v v v v v v v v v v|c c c c     c: contaminated by the tile's edge (zero padding,
               start ^                         stop ^              clamped up-sampling); v: as the whole image has it
    offset: the tile's input pixel under which this tensor's pixel 0 lies; step: input pixels per pixel

Unpadded convolutions move `offset`, padding and bilinear up-sampling move `start` and `stop`: one mechanism. Branches
are a stack of tensors kept: `skip` puts the tensor on it, `swap` takes up what was kept last and keeps the tensor in
its place, `concat` and `add` join the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Literal

Kind = Literal[
    "conv", "relu", "batch_norm", "instance_norm", "dropout", "image_pool",
    "pool", "pool_positions", "unpool", "up_conv", "bilinear", "nearest",
    "skip", "swap", "concat", "add",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """One step of a network, fed by the one before, and by what was kept last: see the top of this module.

    `pool_positions` is max pooling of 2 x 2 that also keeps where in each cell the largest was; `unpool` puts values
    back there. `image_pool` is the mean over all pixels through a 1x1 convolution, the same at each pixel.
    """

    kind: Kind
    name: str = ""
    """Prefix of its parameters' names; empty where it has none."""
    n_in: int = 0
    """Channels of the input (of all inputs together for concat)."""
    n_out: int = 0
    """Channels of the output."""
    kernel: int = 1
    """Side of the window of a convolution (odd) or pooling, or of what an up-convolution spreads a pixel over."""
    padding: int = 0
    """Zeros put on each side before a convolution; pixels that lose against all others before a pooling."""
    step: int = 1
    """Input pixels to an output pixel of a convolution or pooling; output pixels to an input pixel of up-sampling."""
    dilation: int = 1
    """Distance of the taps of a convolution."""
    bias: bool = True
    """Of a convolution or up-convolution."""


DOWN = ("conv", "pool", "pool_positions")
UP = ("up_conv", "bilinear", "nearest", "unpool")
_WHOLE = ("image_pool", "instance_norm")


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
        elif layer.kind == "swap":
            span, kept[-1] = kept[-1], span
        elif layer.kind in ("concat", "add", "unpool"):
            span = _joined(kept.pop(), span)
        if layer.kind in DOWN:
            span = _down(layer, span)
        elif layer.kind in UP:
            span = _up(layer, span)
        if layer.kind == "pool_positions":
            kept.append(span)
        if span.size < 1:
            raise ValueError(f"{size} input pixels are too few: nothing is left at {layer.name or layer.kind}")
        yield span


def _down(layer: Layer, x: Span) -> Span:
    """Pixel i sees `reach + 1` pixels from i * step - padding on; all of them must be clean."""
    if x.size % layer.step:
        raise ValueError(f"{x.size} pixels cannot be pooled by {layer.step}")
    reach = (layer.kernel - 1) * layer.dilation
    start = -(-(x.start + layer.padding) // layer.step)
    stop = (x.stop - 1 + layer.padding - reach) // layer.step + 1
    size = (x.size - 1 + 2 * layer.padding - reach) // layer.step + 1
    return Span(size, x.offset + (reach // 2 - layer.padding) * x.step, x.step * layer.step, start, stop)


def _up(layer: Layer, x: Span) -> Span:
    """Each pixel is spread over `kernel` pixels around its own `step`; at the tile's edge it may miss its neighbor.

    Bilinear up-sampling is the up-convolution of twice its step, but for the edge, which it clamps.
    """
    if x.step % layer.step:
        raise ValueError(f"up-sampling by {layer.step} would give pixels smaller than the input's")
    rim = (spread(layer) - layer.step) // 2
    return Span(
        x.size * layer.step, x.offset, x.step // layer.step, x.start * layer.step + rim, x.stop * layer.step - rim
    )


def spread(layer: Layer) -> int:
    """Side in pixels of what an up-sampling spreads one pixel over."""
    return {"up_conv": layer.kernel, "bilinear": 2 * layer.step}.get(layer.kind, layer.step)


def _joined(skip: Span, x: Span) -> Span:
    """The kept tensor cropped to the other; the crop is the difference of their offsets, so their pixels coincide."""
    cut = (x.offset - skip.offset) // x.step
    skip = replace(skip, size=x.size, offset=skip.offset + cut * x.step, start=skip.start - cut, stop=skip.stop - cut)
    if skip.offset != x.offset or skip.step != x.step:
        raise ValueError(f"skip at {skip.offset} step {skip.step} does not meet {x.offset} step {x.step}")
    return replace(x, start=max(x.start, skip.start), stop=min(x.stop, skip.stop))


def stride(layers: Sequence[Layer]) -> int:
    """Total down-sampling in pixels, on the branch where it is largest."""
    step = largest = 1
    kept: list[int] = []
    for layer in layers:
        if layer.kind == "skip":
            kept.append(step)
        elif layer.kind == "swap":
            step, kept[-1] = kept[-1], step
        elif layer.kind in ("concat", "add", "unpool"):
            kept.pop()
        step = step * layer.step if layer.kind in DOWN else step // layer.step if layer.kind in UP else step
        if layer.kind == "pool_positions":
            kept.append(step)
        largest = lcm(largest, step)
    return largest


def whole_tile_layers(layers: Sequence[Layer]) -> list[str]:
    """Kinds of layers whose every output pixel sees the whole tile: with one of them tiles cannot be exact."""
    return sorted({layer.kind for layer in layers if layer.kind in _WHOLE})


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
    """Multiply-adds per OUTPUT pixel: an up-convolution's taps go to step^2 different output pixels."""
    if layer.kind == "conv":
        return layer.n_in * layer.n_out * layer.kernel**2
    return layer.n_in * layer.n_out * (layer.kernel // layer.step) ** 2 if layer.kind == "up_conv" else 0


_FREE = ("relu", "dropout", "add")


def peak_elements(layers: Sequence[Layer], size: tuple[int, int], *, folded: bool = True) -> int:
    """Most tensor elements alive at once in a forward pass over `size` (y, x) pixels, batch 1.

    Counted: the input (alive throughout), the tensors kept, a layer's input and output, at a concat the cropped skips
    and the second addend, a convolution's weights laid out anew for the kernel. folded: batch norm costs nothing.
    """
    ys, xs = spans(layers, size[0]), spans(layers, size[1])
    first = x = layers[0].n_in * size[0] * size[1]
    channels = layers[0].n_in
    kept: list[tuple[int, int]] = []  # channels and elements
    parts: list[int] = []  # crops that go into the next convolution with x, the first of them last
    peak = 0
    for layer, y_span, x_span in zip(layers, ys, xs, strict=True):
        area = y_span.size * x_span.size
        out, held = layer.n_out * area, first + sum(elements for _, elements in kept)
        if layer.kind == "skip":
            kept.append((channels, x))
        elif layer.kind == "swap":
            (channels, x), kept[-1] = kept[-1], (channels, x)
        elif layer.kind == "concat":
            parts.append(kept.pop()[0] * area)
            peak = max(peak, held + x + sum(parts))
        elif layer.kind not in _FREE and not (layer.kind == "batch_norm" and folded):
            inputs = max(sum(parts), sum(parts[:-1]) + out) if parts else 0
            peak = max(peak, held + x + out + inputs + _working(layer, out))
            x, channels, parts = out, layer.n_out, []
        if layer.kind in ("add", "unpool"):
            kept.pop()
        if layer.kind == "pool_positions":
            kept.append((layer.n_out, out // 2))  # a byte each
    return peak


def _working(layer: Layer, out: int) -> int:
    if layer.kind == "unpool":
        return out // 2
    if layer.kind in ("instance_norm", "pool", "pool_positions"):
        return 4 * out  # a norm makes it contiguous by channel and back; a pooling notes 8-byte positions
    sliced = out if layer.kernel == 1 < layer.step else 0  # the input's pixels under the taps, on their own
    return sliced + layer.n_in * layer.n_out * layer.kernel**2 if layer.kind in ("conv", "up_conv") else 0
