"""Box: a half-open integer range per axis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """Half-open box of any number of axes; may reach outside an image (negative starts are positions).

    >>> Box((0, 2), (4, 6)).shape
    (4, 4)
    """

    start: tuple[int, ...]
    """First position per axis, inclusive."""
    stop: tuple[int, ...]
    """Last position per axis, exclusive; never below start."""

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop) or any(a > b for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"box start {self.start} must not exceed its stop {self.stop}")

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """The box of an array of this shape."""
        return cls((0,) * len(shape), tuple(shape))

    @classmethod
    def of(cls, box: Box | Sequence[slice | tuple[int, int]], shape: Sequence[int]) -> Box:
        """A box given as Box, slices or (start, stop) pairs; axes it leaves out at the front are taken whole.

        >>> Box.of((slice(0, 2),), (3, 9))
        Box(start=(0, 0), stop=(3, 2))
        """
        if isinstance(box, Box):
            pairs = list(zip(box.start, box.stop, strict=True))
        else:
            n = len(shape) - len(box)
            pairs = [
                (s.start or 0, shape[n + i] if s.stop is None else s.stop) if isinstance(s, slice) else (s[0], s[1])
                for i, s in enumerate(box)
            ]
        if len(pairs) > len(shape):
            raise ValueError(f"a box of {len(pairs)} axes does not fit an image of {len(shape)}")
        pairs = [(0, n) for n in shape[: len(shape) - len(pairs)]] + pairs
        return cls(tuple(int(a) for a, _ in pairs), tuple(int(b) for _, b in pairs))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def n_pixels(self) -> int:
        n = 1
        for side in self.shape:
            n *= side
        return n

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def grow(self, before: Sequence[int], after: Sequence[int]) -> Box:
        """Larger by these pixels on each side."""
        return Box(
            tuple(a - n for a, n in zip(self.start, before, strict=True)),
            tuple(b + n for b, n in zip(self.stop, after, strict=True)),
        )

    def shift(self, offset: Sequence[int]) -> Box:
        return Box(
            tuple(a + n for a, n in zip(self.start, offset, strict=True)),
            tuple(b + n for b, n in zip(self.stop, offset, strict=True)),
        )

    def relative_to(self, origin: Box) -> Box:
        """The same place, counted from the start of another box."""
        return self.shift(tuple(-n for n in origin.start))

    def intersect(self, other: Box) -> Box:
        """What both hold; empty (zero-sized at the larger start) where they do not meet."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Box(start, tuple(max(a, b) for a, b in zip(start, stop, strict=True)))

    def contains(self, other: Box) -> bool:
        inside = zip(self.start, other.start, other.stop, self.stop, strict=True)
        return all(a <= b and c <= d for a, b, c, d in inside)

    def coarser(self, factor: int) -> Box:
        """The cells of `factor` pixels that this box touches."""
        return Box(tuple(a // factor for a in self.start), tuple(-(-b // factor) for b in self.stop))


def grid_boxes(within: Box, side: Sequence[int]) -> Iterator[Box]:
    """Boxes of this side that partition `within`, in row-major order; the last of each axis shrinks."""
    for start in product(*(range(a, b, n) for a, b, n in zip(within.start, within.stop, side, strict=True))):
        yield Box(start, tuple(min(a + n, b) for a, n, b in zip(start, side, within.stop, strict=True)))


def bounding(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds all of these."""
    held = list(boxes)
    return Box(
        tuple(map(min, zip(*(b.start for b in held), strict=True))),
        tuple(map(max, zip(*(b.stop for b in held), strict=True))),
    )
