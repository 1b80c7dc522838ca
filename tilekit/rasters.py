"""What is written into a picture file of one's own: a pyramid of a store, read box by box, and what its pixels mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.pyramid import halve_labels, halve_mean
from tilekit.sources import Source, open_image
from tilekit.tiling import Pair

Array = NDArray[Any]
Range = tuple[int, int]
TILE = 512
"""Side of a tile of the file in pixels; its coarsest level is no larger."""
LARGEST_DERIVED = 8192
"""Side of a level of the store from which missing coarser ones are made: what is read for them is as large."""


@dataclass(frozen=True)
class Raster:
    """A pyramid of which each level has half the sides of the one before, rounded up."""

    sources: tuple[Source, ...]
    """Level by level, those of the store."""
    is_labels: bool
    class_names: dict[int, str] = field(default_factory=dict)
    colors: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """RGBA of each class, 0 to 255; empty where pixels are no classes."""

    @classmethod
    def of(cls, path: Path, *, is_labels: bool, label: dict[str, Any], **options: Any) -> Raster:
        """Of a multiscale group, as many of its levels as are halvings; `label` is what it says under image-label."""
        first = open_image(path, as_labels=is_labels, **options)
        wanted = halvings((first.shape[-2], first.shape[-1]))
        n = 1
        while n < min(len(first.levels), len(wanted)) and first.levels[n] == (*first.shape[:-2], *wanted[n]):
            n += 1
        if n < len(wanted) and max(wanted[n - 1]) > LARGEST_DERIVED:
            raise InputError(f"{path}: has no pyramid by halves; make one with tilekit ingest {path} OUT.zarr")
        levels = (open_image(path, level=k, as_labels=is_labels, **options) for k in range(1, n))
        names = {p["label-value"]: p["class"] for p in label.get("properties", []) if "class" in p}
        colors = {c["label-value"]: tuple(c["rgba"]) for c in label.get("colors", []) if "rgba" in c}
        return cls((first, *levels), is_labels, names, colors)

    @property
    def source(self) -> Source:
        """That of level 0."""
        return self.sources[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the file, which knows no half floats."""
        return np.dtype(np.float32) if self.source.dtype == np.float16 else self.source.dtype

    @cached_property
    def shapes(self) -> list[Pair]:
        """Rows and columns of each level."""
        return halvings((self.source.shape[-2], self.source.shape[-1]))

    @property
    def n_channels(self) -> int:
        return self.source.shape[self.source.axes.index("c")] if "c" in self.source.axes else 1

    @property
    def channel_names(self) -> tuple[str, ...]:
        """One a channel; numbers where there are none."""
        return self.source.channel_names or tuple(map(str, range(self.n_channels)))

    @property
    def n_pixels(self) -> int:
        """Of level 0, all planes and channels."""
        return int(np.prod(self.source.shape, dtype=np.int64))

    def read(self, level: int, lead: Sequence[Range], box: Box) -> Array:
        """Pixels (leading..., y, x) of a box (y, x) of a level, of these ranges along the leading axes."""
        if level < len(self.sources):
            ranges = [*lead, *zip(box.start, box.stop, strict=True)]
            return self.sources[level].read(ranges).astype(self.dtype, copy=False)
        inside = Box.whole(self.shapes[level - 1])
        finer = Box((2 * box.start[0], 2 * box.start[1]), (2 * box.stop[0], 2 * box.stop[1])).intersect(inside)
        pixels = self.read(level - 1, lead, finer)
        return halve_labels(pixels) if self.is_labels else halve_mean(pixels, self.source.nodata)

    def planes(self, *, with_channels: bool) -> Iterator[tuple[Range, ...]]:
        """Ranges along the leading axes, plane after plane; a plane holds all channels where asked."""
        axes = zip(self.source.axes[:-2], self.source.shape[:-2], strict=True)
        steps = [[(0, n)] if with_channels and a == "c" else [(i, i + 1) for i in range(n)] for a, n in axes]
        yield from product(*steps)


def halvings(shape: Pair) -> list[Pair]:
    """Sides of the levels of a file, down to one tile.

    >>> halvings((1025, 300))
    [(1025, 300), (513, 150), (257, 75)]
    """
    shapes = [shape]
    while max(shapes[-1]) > TILE:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes
