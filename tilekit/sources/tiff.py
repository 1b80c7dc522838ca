"""The door to tifffile: strips and tiles found and decoded by tifffile, read here one at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilekit.errors import InputError
from tilekit.sources.source import (
    Reference,
    Source,
    check_level,
    check_shape,
    chosen_channels,
    file_fingerprint,
    fitting_nodata,
    level_scale,
    native_dtype,
    pick_names,
    scaled,
    with_channels,
)
from tilekit.sources.tiff_layout import Grid, Page, Planes, check_extent, check_strips, lay_planes
from tilekit.sources.tiff_log import listening
from tilekit.sources.tiff_metadata import channel_names, file_nodata, pixel_size
from tilekit.sources.tiff_reader import Decoder, TiffReader

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

INCOMPLETE_SIGNS = ("invalid offset to", "invalid page offset", "corrupted tag list", "circular reference", "missing")
"""Words of tifffile's log for lost pages or planes; what else it logs costs no pixels."""


def open_tiff(reference: Reference) -> Source:
    """The first image series of a TIFF as a source; every strip and tile of the level is known to lie in the file."""
    path = Path(reference.source)
    fingerprint = file_fingerprint(path)
    with listening() as complaints:
        try:
            return _open(reference, path, fingerprint, complaints)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{path}: cannot be read as TIFF ({_first_line(error)}); copy or write it again") from None


def _open(reference: Reference, path: Path, fingerprint: dict[str, Any], complaints: Sequence[str]) -> Source:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        _refuse_broken(tiff, path)
        levels = tiff.series[0].levels
        _refuse_complaints(complaints, path)
        check_level(reference.level, len(levels), str(path))
        return _describe(reference, path, fingerprint, tiff, levels)


def _refuse_broken(tiff: TiffFile, path: Path) -> None:
    if not len(tiff.pages) or not tiff.series:
        raise InputError(f"{path}: a TIFF without a single image; copy it again")


def _refuse_complaints(complaints: Sequence[str], path: Path) -> None:
    """What tifffile only logs, though pages or planes are lost by it."""
    for line in complaints:
        if any(sign in line for sign in INCOMPLETE_SIGNS):
            raise InputError(f"{path}: incomplete: {line}; copy it again, with all files that belong to it")


def _describe(
    reference: Reference,
    path: Path,
    fingerprint: dict[str, Any],
    tiff: TiffFile,
    levels: Sequence[TiffPageSeries],
) -> Source:
    full, series = levels[0], levels[reference.level]
    name, key = str(path), series.keyframe
    check_shape(series.shape, name)
    dtype = native_dtype(_page_dtype(series, name), name)
    planes = lay_planes(series.axes, series.shape, key.shaped, name)
    shape = _shape(planes, key.shaped)
    names = channel_names(tiff)
    channels = chosen_channels(reference, planes.axes, shape, name, names)
    scale = level_scale((full.keyframe.imagelength, full.keyframe.imagewidth), shape)
    nodata = file_nodata(key) if reference.nodata is None else reference.nodata
    return Source(
        reference=reference,
        name=path.name,
        axes=planes.axes,
        shape=with_channels(shape, planes.axes, channels),
        dtype=dtype,
        levels=tuple(_level_shape(level, planes.axes, name, channels) for level in levels),
        level=reference.level,
        fingerprint=fingerprint,
        tiling=_tiling(series),
        segment_bytes=prod(key.chunks) * dtype.itemsize,
        pixel_size=scaled(reference.pixel_size or pixel_size(tiff, full.keyframe), scale),
        scale=scale,
        channel_names=pick_names(names, _n_channels(planes.axes, shape), channels),
        nodata=fitting_nodata(nodata, dtype),
        reader=_make_reader(series, path, _choose(planes, channels), dtype),
    )


def _page_dtype(series: TiffPageSeries, name: str) -> Any:
    key = series.keyframe
    if key.dtype is None:
        raise InputError(
            f"{name}: {key.bitspersample}-bit samples of format {key.sampleformat} are not supported; convert it"
        )
    return key.dtype


def _shape(planes: Planes, image: Sequence[int]) -> tuple[int, ...]:
    return (*planes.page.shape, image[2], image[3])


def _level_shape(series: TiffPageSeries, axes: str, name: str, channels: tuple[int, ...] | None) -> tuple[int, ...]:
    planes = lay_planes(series.axes, series.shape, series.keyframe.shaped, name)
    if planes.axes != axes:
        raise InputError(f"{name}: levels have axes {axes} and {planes.axes}; write the pyramid again")
    return with_channels(_shape(planes, series.keyframe.shaped), axes, channels)


def _n_channels(axes: str, shape: Sequence[int]) -> int:
    return shape[axes.index("c")] if "c" in axes else 1


def _choose(planes: Planes, channels: tuple[int, ...] | None) -> Planes:
    if channels is None:
        return planes
    axis = planes.axes.index("c")
    page, sample, depth = (np.take(t, channels, axis) for t in (planes.page, planes.sample, planes.depth))
    return Planes(planes.axes, page, sample, depth)


def _tiling(series: TiffPageSeries) -> str:
    key = series.keyframe
    codec = getattr(key.compression, "name", str(key.compression)).lower()
    if key.is_tiled:
        return f"tiled {key.tilelength}x{key.tilewidth}, compression {codec}"
    return f"stripped rows={key.rowsperstrip}, compression {codec}"


def _make_reader(series: TiffPageSeries, path: Path, planes: Planes, dtype: np.dtype[Any]) -> TiffReader:
    key = series.keyframe
    word = "tile" if key.is_tiled else "strip"
    segment = (key.tiledepth, key.tilelength, key.tilewidth) if key.is_tiled else (1, key.rowsperstrip, key.imagewidth)
    grid = Grid(key.shaped, segment)
    decoder = Decoder(key, series.transform)
    decoder.check(path)
    pages = _list_pages(series, path, grid.n_segments)
    sizes = {p: os.path.getsize(p) for p in {page.path for page in pages}}
    for page in pages:
        check_extent(page, grid.n_segments, sizes[page.path], word)
        if decoder.raw_rows:
            check_strips(page, grid, decoder.row_bytes)
    return TiffReader(pages, planes, grid, decoder, dtype, word)


def _list_pages(series: TiffPageSeries, path: Path, n_segments: int) -> list[Page]:
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
    return [_page(first, str(path), i * first.nbytes) for i in range(n_pages)]


def _page(page: Any, path: str, shift: int) -> Page:
    offsets = np.asarray(page.dataoffsets, np.int64)
    counts = np.asarray(page.databytecounts, np.int64)
    return Page(os.path.abspath(path), offsets + shift if shift else offsets, counts, page.jpegtables)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
