"""A reader of one level of a TIFF series: its pages listed, and every strip and tile known to lie in the file."""

from __future__ import annotations

import os
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilekit.errors import InputError
from tilekit.place import as_path, is_url
from tilekit.sources.tiff_layout import Grid, Page, Planes, check_extent, check_strips
from tilekit.sources.tiff_orientation import Orientation
from tilekit.sources.tiff_photometric import Photometric
from tilekit.sources.tiff_reader import Decoder, TiffReader

if TYPE_CHECKING:
    from tifffile import TiffPageSeries

MOST_SEGMENT_BYTES = 2**31
"""What reading one strip or tile may hold, decoded whole; more is an error of the file, or too slow to be of use."""


def make_reader(
    series: TiffPageSeries, path: Path, planes: Planes, look: Photometric, orientation: Orientation
) -> TiffReader:
    """The reader of a level; refuses a level of which not every strip or tile lies in the file."""
    key = series.keyframe
    grid = _grid(key, path)
    decoder = Decoder(key, series.transform)
    decoder.check(path)
    pages = _list_pages(series, path)
    sizes = {p: as_path(p).stat().st_size for p in {page.path for page in pages}}
    word = "tile" if key.is_tiled else "strip"
    for page in pages:
        check_extent(page, grid.n_segments, sizes[page.path], word)
        if decoder.raw_rows:
            check_strips(page, grid, decoder.row_bytes)
    if decoder.raw_rows and all(_is_in_one_piece(page, grid, decoder.row_bytes) for page in pages):
        grid = Grid(grid.image, (1, *grid.image[2:4]))
        pages = [replace(page, offsets=page.offsets[:1], counts=page.counts[:1]) for page in pages]
    reader = TiffReader(pages, planes, grid, decoder, look, orientation, word)
    if reader.segment_bytes > MOST_SEGMENT_BYTES:
        raise InputError(
            f"{path}: a {word} of {grid.segment[1]} x {grid.segment[2]} pixels takes {reader.segment_bytes} bytes, "
            f"at most {MOST_SEGMENT_BYTES} can be decoded at once; write it again in tiles"
        )
    return reader


def _is_in_one_piece(page: Page, grid: Grid, row_bytes: int) -> bool:
    """True where the strips of a page of one plane follow each other in the file, so that they are as good as one."""
    steps = np.diff(page.offsets[: grid.n_segments])
    one_plane = grid.image[0] == grid.image[1] == 1
    return one_plane and bool(
        (steps == grid.segment[1] * row_bytes).all() and (page.counts[: grid.n_segments] > 0).all()
    )


def _grid(key: Any, path: Path) -> Grid:
    segment = (key.tiledepth, key.tilelength, key.tilewidth) if key.is_tiled else (1, key.rowsperstrip, key.imagewidth)
    if min(segment) < 1:
        raise InputError(f"{path}: strips or tiles of {segment[1]} x {segment[2]} pixels; write the file again")
    return Grid(key.shaped, segment)


def _list_pages(series: TiffPageSeries, path: Path) -> list[Page]:
    n_pages = prod(series.shape) // prod(series.keyframe.shaped)
    if series.dataoffset is not None:
        return _contiguous_pages(series, path, n_pages)
    pages = list(series)
    if len(pages) != n_pages or None in pages:
        found = sum(page is not None for page in pages)
        raise InputError(f"{path}: {found} of its {n_pages} planes are there; copy all files that belong to it")
    return [_page(page, page.parent.filehandle.path, 0) for page in pages if page is not None]


def _contiguous_pages(series: TiffPageSeries, path: Path, n_pages: int) -> list[Page]:
    """Pages of a series that the file holds in one piece, though it may describe only the first."""
    first = series[0]
    assert first is not None
    end, size = first.dataoffsets[0] + n_pages * first.nbytes, path.stat().st_size
    if end > size:
        raise InputError(f"{path}: truncated: its {n_pages} planes end at byte {end}, it has {size}; copy it again")
    return [_page(first, str(path), i * first.nbytes) for i in range(n_pages)]


def _page(page: Any, path: str, shift: int) -> Page:
    offsets = np.asarray(page.dataoffsets, np.int64)
    counts = np.asarray(page.databytecounts, np.int64)
    place = path if is_url(path) else os.path.abspath(path)
    return Page(place, offsets + shift if shift else offsets, counts, page.jpegtables)
