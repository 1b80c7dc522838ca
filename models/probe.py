"""Halo and stride of any network, measured: which input columns change which output columns, phase by phase.

    poisoned      .  .  .  .  .  .  x  x  x  x     half of a strip becomes NaN, then large random values
    changed       -  -  -  o  o  o  o  o  o  o     outputs whose bits are not what they were: they see the poison

One pass per half shows the whole reach, however faint: NaN goes through convolutions, poolings and norms whatever the
weights are, and large values take its place where a network drops it. An axis is probed on strips as narrow as the
network takes. What is measured is then confirmed: tiles against one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.receptive import Reach

Array = NDArray[Any]
Function = Callable[[Array], Array]
"""A network: (1, c, y, x) floats -> (1, k, y', x') floats; raises where a size does not pass."""
Look = Callable[[Array], str | None]
"""Says of a strip (1, c, y, x), where it can, why the network depends on the whole of it (models.blame)."""

MAX_SIDE = 640
"""Sides up to this many pixels are tried for the smallest that passes."""
MAX_GAP = 128
"""Sides that pass lie no further apart."""
STRIPS = (64, 128, 256, 512, 1024, 2048)
"""Lengths of strips on which a bounded reach is looked for."""
STRIDES = sorted(range(1, 65), key=lambda n: (n & (n - 1) != 0, n))
"""Shifts that are tried, powers of two first: the smallest that works is the stride, as its multiples work too."""
POISON = 1e3
TOLERANCE = {"float64": 1e-9, "float32": 2e-5}
"""Largest difference from one pass, over the largest output, that is rounding."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a probe found."""

    reach: tuple[Reach, Reach]
    """Of y and x; of a network that cannot be exact, only what its sizes ask for."""
    n_channels: int
    """Of the output."""
    reason: str | None
    """Why tiles cannot be exact, None where they are."""
    difference: float
    """Largest difference of tiles and one pass, over the largest output; NaN where none was compared."""


class ProbeError(ValueError):
    """The network cannot be tiled at all: one line that says why."""


@dataclass
class _Network:
    """A network under test, with the sizes that it has been seen to take."""

    function: Function
    channels: int
    dtype: str
    sizes: dict[tuple[int, int], tuple[int, ...] | None] = field(default_factory=dict)
    error: str = ""
    """Of the last size that did not pass."""

    def draw(self, y: int, x: int, seed: int = 0) -> Array:
        drawn = np.random.default_rng(seed).standard_normal((1, self.channels, y, x))
        return drawn.astype(self.dtype)

    def out(self, y: int, x: int) -> tuple[int, ...] | None:
        """Shape (k, y', x') of the output for an input of this size; None where it does not pass."""
        if (y, x) not in self.sizes:
            self.sizes[y, x] = self._try(y, x)
        return self.sizes[y, x]

    def _try(self, y: int, x: int) -> tuple[int, ...] | None:
        try:
            shape = self.function(self.draw(y, x)).shape
        except MemoryError:
            raise
        except Exception as error:  # whatever a foreign network raises, this size does not pass
            self.error = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return None
        if len(shape) != 4:
            raise ProbeError(f"its output has {len(shape)} axes, must have four: (b, k, y, x)")
        if shape[2] > y or shape[3] > x:
            self.error = f"gives {shape[2]} x {shape[3]} pixels for {y} x {x}"
            return None
        return tuple(shape[1:]) if min(shape) > 0 else None


@dataclass
class _Axis:
    """One axis of a network, on strips whose other side is as small as it may be."""

    net: _Network
    axis: int
    """2 for y, 3 for x."""
    width: int
    """The other side."""

    def size(self, n: int) -> tuple[int, int]:
        return (n, self.width) if self.axis == 2 else (self.width, n)

    def out(self, n: int) -> int | None:
        shape = self.net.out(*self.size(n))
        return None if shape is None else shape[self.axis - 1]

    def admit(self, n: int) -> int | None:
        """The smallest side from n up that passes; None where there is none near."""
        return next((m for m in range(n, n + MAX_GAP + 1) if self.out(m)), None)

    def run(self, x: Array) -> Array:
        """Outputs (columns, everything else) of a strip."""
        moved = np.moveaxis(self.net.function(x), self.axis, 0)
        return moved.reshape(len(moved), -1)

    def changed(self, n: int, start: int, stop: int) -> Array:
        """True for each output column that changes with the input columns start..stop-1 of a strip of n."""
        x = self.net.draw(*self.size(n))
        base = self.run(x)
        found = np.zeros(len(base), bool)
        part = (slice(None),) * self.axis + (slice(start, stop),)
        for seed in range(3):
            poisoned = x.copy()
            poisoned[part] = np.nan if seed == 0 else POISON * self.net.draw(*self.size(n), seed)[part]
            found |= ~(self.run(poisoned) == base).all(1)
        return found


def measure(function: Function, channels: int, dtype: str = "float64", *, look: Look | None = None) -> Measured:
    """Halo and stride of a network of `channels` inputs, by running it; ProbeError where it cannot be tiled at all.

    dtype is that of its arithmetic, float64 or float32. `look` may know beforehand why it depends on the whole tile:
    then only the sizes that pass are looked for.
    """
    net = _Network(function, channels, dtype)
    side = next((n for n in range(1, MAX_SIDE + 1) if net.out(n, n)), None)
    if side is None:
        raise ProbeError(f"takes no input of up to {MAX_SIDE} pixels: {net.error}")
    axes = [_Axis(net, axis, side) for axis in (2, 3)]
    shape, length = net.out(side, side), axes[1].admit(STRIPS[1])
    assert shape is not None
    whole = look(net.draw(side, length)) if look and length else None
    found = [_probe_axis(axis, whole) for axis in axes]
    reach = (found[0][0], found[1][0])
    reason = found[0][1] or found[1][1]
    difference = float("nan") if reason else confirm(function, channels, reach, dtype)
    if difference > TOLERANCE[dtype]:
        reason = f"tiles differ from one pass by {difference:.1e} of the largest output"
    return Measured(reach, shape[0], reason, difference)


def _probe_axis(axis: _Axis, whole: str | None) -> tuple[Reach, str | None]:
    """Reach of one axis, and why tiles cannot be exact."""
    first = axis.admit(axis.width)
    assert first is not None
    following = axis.admit(first + 1)
    if following is None:
        raise ProbeError(
            f"takes inputs of {first} pixels alone; export it with dynamic axes (height and width), or without layers "
            "of a fixed size"
        )
    gap = following - first
    _check_resolution(axis)
    sees = None if whole else _bounded(axis)
    if sees is None:
        return _sizes_alone(axis, gap), whole or "every output sees the whole tile"
    stride = _stride(axis, *sees)
    if stride is None:
        return _sizes_alone(axis, gap), f"no shift of up to {max(STRIDES)} pixels moves its output along"
    return _reach(axis, lcm(stride, gap), *sees), None


def _check_resolution(axis: _Axis) -> None:
    """Refuse a network whose output is coarser than its input."""
    few = axis.admit(MAX_GAP)
    more = axis.admit((few or 0) + MAX_GAP)
    if few is None or more is None:
        return
    gained = (axis.out(more) or 0) - (axis.out(few) or 0)
    if 4 * gained < 3 * (more - few):
        raise ProbeError(
            f"gives {axis.out(few)} pixels for {few} and {axis.out(more)} for {more}; an output pixel per input pixel "
            "is needed: end it with an up-sampling to the input's size"
        )


def _bounded(axis: _Axis) -> tuple[int, int] | None:
    """About how far an output sees to the left and to the right; None where it sees the whole of any strip."""
    for length in STRIPS:
        n = axis.admit(length)
        if n is None:
            continue
        left, right = axis.changed(n, 0, n // 4), axis.changed(n, n - n // 4, n)
        if left[-1] or right[0] or not left.any() or not right.any():
            continue
        offset = (n - len(left)) // 2
        last, first = int(np.flatnonzero(left)[-1]), int(np.flatnonzero(right)[0])
        return max(last + offset - n // 4, 0), max(n - n // 4 - first - offset, 0)
    return None


def _stride(axis: _Axis, before: int, after: int) -> int | None:
    """The smallest shift of the input by which the output shifts too, away from the edges; None: there is none."""
    most = max(STRIDES)
    n = axis.admit(before + after + 5 * most)
    if n is None:
        return None
    long = axis.net.draw(*axis.size(n + most))
    base = axis.run(np.take(long, range(n), axis.axis))
    offset = (n - len(base)) // 2
    middle = range(max(before + most - offset, 0), n - after - 2 * most - offset)
    inner = base[middle.start : middle.stop + most]
    if np.ptp(inner) == 0:
        raise ProbeError("gives the same output wherever it looks; is it trained, and its input normalized?")
    limit = TOLERANCE[axis.net.dtype] * float(np.abs(base).max())
    for shift in STRIDES:
        moved = axis.run(np.take(long, range(shift, shift + n), axis.axis))
        here, there = moved[middle.start : middle.stop], base[middle.start + shift : middle.stop + shift]
        if np.abs(here - there).max() <= limit and _steps(axis, n, n - after - most, shift):
            return shift
    return None


def _steps(axis: _Axis, n: int, start: int, shift: int) -> bool:
    """True where poison that moves by `shift` changes outputs from that much further on: cells are seen so, though dead
    layers may hide them from values."""
    first = [np.flatnonzero(axis.changed(n, start + i * shift, n))[:1] for i in (-2, -1, 0)]
    return all(len(f) for f in first) and bool((np.diff(np.concatenate(first)) == shift).all())


def _reach(axis: _Axis, stride: int, before: int, after: int) -> Reach:
    """The exact halo, for a strip that begins on the stride's phase and has the size that loses least."""
    rest, lost = _residue(axis, stride, before + after + 4 * stride)
    n = before + after + 8 * stride
    n += (rest - n) % stride
    left, right = 2 * stride, n - 2 * stride
    seen = axis.changed(n, 0, left), axis.changed(n, right, n)
    if seen[0][-1] or seen[1][0]:  # the reach of another phase was longer
        return _reach(axis, stride, before + stride, after + stride)
    offset = lost // 2
    clear = int(np.flatnonzero(seen[0])[-1]) + 1
    skipped = max(0, -(-(clear - left) // stride) * stride)
    need = right - (int(np.flatnonzero(seen[1])[0]) + offset)
    return _fitted(axis, offset + skipped, max(need, 0), stride, skipped, rest)


def _residue(axis: _Axis, stride: int, start: int) -> tuple[int, int]:
    """Which sides modulo the stride pass with the fewest pixels lost, and how many are; of several, whole strides."""
    start = axis.admit(start) or start
    lost = {n % stride: n - size for n in range(start, start + stride) if (size := axis.out(n))}
    best = min(lost, key=lambda rest: (lost[rest], rest))
    n = start + (best - start) % stride + stride
    if axis.out(n) != n - lost[best]:
        raise ProbeError(f"gives {axis.out(n)} pixels for {n}, though {n - stride - lost[best]} for {n - stride}")
    return best, lost[best]


def _fitted(axis: _Axis, before: int, after: int, stride: int, skipped: int, rest: int) -> Reach:
    """Rounded up to a side that passes, for a core of one stride and every larger one."""
    after += (rest - before - after) % stride
    while axis.out(before + stride + after) is None:
        after += stride
    return Reach(before, after, stride, skipped)


def _sizes_alone(axis: _Axis, gap: int) -> Reach:
    """What the sizes that pass ask for, where there is no halo to speak of."""
    for unit in (gap << k for k in range(6)):
        with suppress(ProbeError):
            rest, lost = _residue(axis, unit, axis.width)
            return _fitted(axis, lost // 2, lost - lost // 2, unit, 0, rest)
    raise ProbeError("loses another number of pixels at every size")


def confirm(function: Function, channels: int, reach: tuple[Reach, Reach], dtype: str = "float64") -> float:
    """Largest difference of some tiles from one pass over what they were cut from, over the largest output."""
    net = _Network(function, channels, dtype)
    cores = [3 * r.stride for r in reach]
    big = net.draw(*(r.before + core + r.after for r, core in zip(reach, cores, strict=True)))
    whole = _core(function(big), reach, cores)
    largest, worst = float(np.abs(whole).max()), 0.0
    for place in ((0, 0), (1, 2), (2, 1), (1, 1)):
        (ry, rx), (y, x) = reach, [p * r.stride for p, r in zip(place, reach, strict=True)]
        cut = big[:, :, y : y + ry.before + ry.stride + ry.after, x : x + rx.before + rx.stride + rx.after]
        tile = _core(function(cut), reach, [r.stride for r in reach])
        there = whole[:, :, y : y + ry.stride, x : x + rx.stride]
        worst = max(worst, float(np.abs(tile - there).max()))
    return worst / largest if largest else worst


def _core(out: Array, reach: tuple[Reach, Reach], core: list[int]) -> Array:
    y, x = (slice(r.skipped, r.skipped + n) for r, n in zip(reach, core, strict=True))
    return out[:, :, y, x]


def stated(function: Function, channels: int, dtype: str, halo: tuple[int, int], stride: int) -> Measured:
    """What a description says (pixels before and after, stride), rounded up to sizes that pass, and confirmed.

    ProbeError where tiles of it differ from one pass.
    """
    net = _Network(function, channels, dtype)
    start = sum(halo) + 4 * stride
    side = next((n for n in range(start, start + MAX_GAP) if net.out(n, n)), None)
    if side is None:
        raise ProbeError(f"takes no input of {start} to {start + MAX_GAP} pixels: {net.error}")
    found = []
    for axis in (_Axis(net, axis, side) for axis in (2, 3)):
        rest, lost = _residue(axis, stride, side)
        skipped = -(-max(halo[0] - lost // 2, 0) // stride) * stride
        found.append(_fitted(axis, lost // 2 + skipped, halo[1], stride, skipped, rest))
    reach, shape = (found[0], found[1]), net.out(side, side)
    assert shape is not None
    difference = confirm(function, channels, reach, dtype)
    if difference > TOLERANCE[dtype]:
        raise ProbeError(
            f"tiles of its stated halo {halo[0]}, {halo[1]} and stride {stride} differ from one pass by "
            f"{difference:.1e} of the largest output; leave halo and stride out to have them measured"
        )
    return Measured(reach, shape[0], None, difference)
