"""Where the pixels of a TIFF series lie: planes to pages, pages to strips and tiles. Integers only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from tilekit.errors import InputError
from tilekit.sources.source import CANONICAL_AXES

MOST_PLANES = 2**20
"""Planes of an image; more are an error of the file, for which no table shall be made."""


@dataclass(frozen=True)
class Planes:
    """For every position on the leading axes, which plane of which page is shown there."""

    axes: str
    """Canonical axes, "yx" included."""
    page: NDArray[np.intp]
    """Page of the series; its shape is that of the leading axes, as for the next two."""
    sample: NDArray[np.intp]
    """Sample within the page, or color of its palette."""
    depth: NDArray[np.intp]
    """Slice within a volumetric page."""

    @property
    def n_channels(self) -> int:
        return self.page.shape[self.axes.index("c")] if "c" in self.axes else 1

    def chosen(self, channels: Sequence[int] | None) -> Planes:
        """Planes of these channels alone, in this order; all for None."""
        if channels is None:
            return self
        axis = self.axes.index("c")
        page, sample, depth = (np.take(t, channels, axis) for t in (self.page, self.sample, self.depth))
        return Planes(self.axes, page, sample, depth)


@dataclass(frozen=True)
class Page:
    """Strips or tiles of one page, in file order of their index."""

    path: str
    offsets: NDArray[np.int64]
    """First byte of each; 0 with a count of 0 for one that the file leaves out."""
    counts: NDArray[np.int64]
    """Encoded bytes of each."""
    tables: bytes | None
    """JPEG tables shared by the page."""


@dataclass(frozen=True)
class Grid:
    """The strips or tiles of every page of a series."""

    image: tuple[int, int, int, int, int]
    """Separate samples, depth, rows, columns, interleaved samples of a page."""
    segment: tuple[int, int, int]
    """Depth, rows, columns of a strip or tile."""

    @cached_property
    def counts(self) -> tuple[int, int, int, int]:
        """Strips or tiles per separate sample, depth, rows, columns."""
        d, h, w = (ceil(n / m) for n, m in zip(self.image[1:4], self.segment, strict=True))
        return self.image[0], d, h, w

    @property
    def n_segments(self) -> int:
        return prod(self.counts)

    @property
    def segment_shape(self) -> tuple[int, int, int, int]:
        return (*self.segment, self.image[4])

    def touching(self, rows: slice, columns: slice) -> Iterator[tuple[int, int]]:
        """Row and column numbers of the strips or tiles that these pixels lie in."""
        _, h, w = self.segment
        return product(range(rows.start // h, ceil(rows.stop / h)), range(columns.start // w, ceil(columns.stop / w)))

    def index(self, sample: int, depth: int, row: int, column: int) -> int:
        """Position in the page's list of offsets."""
        _, n_depth, n_rows, n_columns = self.counts
        return ((sample * n_depth + depth) * n_rows + row) * n_columns + column


def lay_planes(
    axes: str, shape: Sequence[int], image: tuple[int, int, int, int, int], name: str, n_colors: int = 1
) -> Planes:
    """Planes of a series in canonical order; the last axes of the series must be those of one page.

    A second channel-like axis (samples beside channels) varies fastest within the channels. Axes without a meaning of
    their own, such as plain pages, become the first of z, t, c that is free. `n_colors` channels are what
    one sample is shown as; they count as samples.
    """
    lead = _lead_axes(axes, shape, image, name)
    samples = max(image[0], image[4]) * n_colors
    n_planes = prod(n for _, n in lead) * samples * image[1]
    if n_planes > MOST_PLANES:
        raise InputError(f"{name}: claims {n_planes} planes, at most {MOST_PLANES} can be read; write it again")
    page = np.arange(prod(n for _, n in lead), dtype=np.intp).reshape([n for _, n in lead])
    inner = [("c", samples), ("z", image[1])]
    letters = _name_axes("".join(a for a, _ in lead), [a for a, n in inner if n > 1], name)
    kept = [(a, n) for a, n in inner if n > 1]
    full = (*page.shape, *(n for _, n in kept))
    inner_index = np.indices([n for _, n in inner], dtype=np.intp).reshape((2, *(n for _, n in kept)))
    tables = [np.broadcast_to(page.reshape((*page.shape, *(1,) * len(kept))), full)]
    tables += [np.broadcast_to(part, full) for part in inner_index]
    return _in_canonical_order(letters + "".join(a for a, _ in kept), tables)


def _lead_axes(
    axes: str, shape: Sequence[int], image: tuple[int, int, int, int, int], name: str
) -> list[tuple[str, int]]:
    """The axes of the series before those of one page, without those of size 1."""
    sizes = list(zip(axes, shape, strict=True))
    first = next((i for i in range(len(axes), -1, -1) if prod(shape[i:]) == prod(image) and "Y" in axes[i:]), None)
    if first is None or "X" not in axes[first:]:
        raise InputError(f"{name}: axes {axes} of shape {tuple(shape)} do not end in pages; save it as OME-TIFF")
    return [(a, n) for a, n in sizes[:first] if n > 1]


def _name_axes(lead: str, inner: Sequence[str], name: str) -> str:
    """Canonical letters of the leading axes."""
    known = {"T": "t", "C": "c", "Z": "z", "S": "c"}
    letters = [known.get(a, "") for a in lead]
    for i, letter in enumerate(letters):
        free = [a for a in "ztc" if a not in letters and a not in inner]
        if not letter and not free:
            raise InputError(f"{name}: axes {lead} before the pages are more than t, c and z; save it as OME-TIFF")
        letters[i] = letter or free[0]
    return "".join(letters)


def _in_canonical_order(letters: str, tables: Sequence[NDArray[np.intp]]) -> Planes:
    order = sorted(range(len(letters)), key=lambda i: CANONICAL_AXES.index(letters[i]))
    axes = "".join(a for a in CANONICAL_AXES if a in letters)
    sizes = [prod(tables[0].shape[i] for i in order if letters[i] == a) for a in axes]
    page, sample, depth = (np.ascontiguousarray(t.transpose(order)).reshape(sizes) for t in tables)
    return Planes(axes + "yx", page, sample, depth)


def check_extent(page: Page, n_segments: int, file_bytes: int, word: str) -> None:
    """Refuse a page whose strips or tiles are not all listed, or do not lie inside the file."""
    if len(page.offsets) < n_segments or len(page.counts) < n_segments:
        listed = min(len(page.offsets), len(page.counts))
        raise InputError(f"{page.path}: lists {listed} of its {n_segments} {word}s; write the file again")
    ends = page.offsets + page.counts
    outside = np.flatnonzero(
        (page.counts > 0) & ((page.counts > file_bytes) | (page.offsets > file_bytes - page.counts))
    )
    if outside.size:
        i = int(outside[0])
        raise InputError(
            f"{page.path}: truncated: {word} {i} of {n_segments} ends at byte {ends[i]}, "
            f"the file has {file_bytes} bytes; copy it again"
        )
    astray = np.flatnonzero((page.offsets <= 0) & (page.counts > 0))
    if astray.size:
        i = int(astray[0])
        raise InputError(
            f"{page.path}: {word} {i} of {n_segments} has {page.counts[i]} bytes at byte {page.offsets[i]}, "
            "where none can be; write the file again"
        )


def check_strips(page: Page, grid: Grid, row_bytes: int) -> None:
    """Refuse a page without compression whose strips are shorter than their rows."""
    _, _, n_rows, _ = grid.counts
    first = np.arange(grid.n_segments) % n_rows * grid.segment[1]
    needed = np.minimum(grid.segment[1], grid.image[2] - first) * row_bytes
    counts = page.counts[: grid.n_segments]
    short = np.flatnonzero((counts < needed) & (counts > 0))
    if short.size:
        i = int(short[0])
        raise InputError(
            f"{page.path}: strip {i} of {grid.n_segments} has {counts[i]} bytes, its rows need {needed[i]}; "
            "write the file again"
        )
