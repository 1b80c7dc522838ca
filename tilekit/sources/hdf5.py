"""The door to h5py: one dataset of an HDF5 file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.sources.array import AXES_BY_DIMENSIONS, is_color_last
from tilekit.sources.source import (
    CANONICAL_AXES,
    Reference,
    Source,
    check_level,
    check_shape,
    chosen_channels,
    file_fingerprint,
    fitting_nodata,
    native_dtype,
    with_channels,
)

HDF5_START = b"\x89HDF\r\n\x1a\n"
NETCDF_MARK = b"_NCProperties"
"""Attribute that NetCDF-4 writes first of all."""
MARK_WITHIN = 2**16


@dataclass(frozen=True)
class Hdf5Reader:
    """Reads a dataset whose stored axes are reordered to canonical ones; h5py lets in one thread at a time."""

    place: str
    pixels: Any
    order: tuple[int, ...]
    """Stored axis of each axis presented."""
    channels: tuple[int, ...] | None
    axis: int
    """Axis of the channels as presented; unused where none are chosen."""

    def read(self, box: Box) -> NDArray[Any]:
        if self.channels is None:
            return self._read(box.slices)
        wanted = self.channels[box.slices[self.axis]]
        planes = [self._read((*box.slices[: self.axis], slice(c, c + 1), *box.slices[self.axis + 1 :])) for c in wanted]
        return np.concatenate(planes, self.axis)

    def _read(self, slices: tuple[slice, ...]) -> NDArray[Any]:
        stored = tuple(slices[self.order.index(i)] for i in range(len(slices)))
        try:
            return np.asarray(self.pixels[stored]).transpose(self.order)
        except Exception as error:
            raise InputError(
                f"{self.place}: {slices} cannot be decoded ({_first_line(error)}); copy or write the file again"
            ) from None


def split_place(text: str) -> tuple[Path, str | None]:
    """File and dataset of "file.h5:/path/to/dataset", or the file alone.

    >>> split_place("scans/a.h5:/volumes/raw")
    (PosixPath('scans/a.h5'), '/volumes/raw')
    """
    file, colon, inner = text.partition(":/")
    if Path(text).exists() or not colon:
        return Path(text), None
    return Path(file), f"/{inner}"


def is_hdf5(path: Path) -> bool:
    """True for HDF5 files, but not for those of NetCDF, whose axes and CRS are GDAL's to read."""
    with path.open("rb") as file:
        start = file.read(MARK_WITHIN)
    return start.startswith(HDF5_START) and NETCDF_MARK not in start


def open_hdf5(reference: Reference) -> Source:
    """The only image of an HDF5 file, or the one that "file.h5:/path/to/dataset" names, as a source.

    Axes come from `axistags`, from labels of the dimensions, or as for an array in memory; `element_size_um` is the
    pixel size. The file stays open while its source is.
    """
    path, inner = split_place(str(reference.source))
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path}: needs h5py; pip install 'tilekit[hdf5]'") from None
    try:
        file = h5py.File(path, "r")
        images = _images(file)
    except Exception as error:
        raise InputError(f"{path}: cannot be opened as HDF5 ({_first_line(error)}); copy it again") from None
    try:
        return _describe(reference, path, file[_choose(images, inner, path)])
    except BaseException:
        file.close()
        raise


def _images(file: Any) -> list[str]:
    """Paths of the datasets that are like an image: numbers, with two axes longer than one at least."""
    import h5py

    found: list[str] = []

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind in "biuf" and 2 <= len(node.shape or ()) <= 5:
            wide = sum(n > 1 for n in node.shape) >= 2
            found.extend([f"/{name}"] if wide and not node.is_scale else [])

    file.visititems(visit)
    return found


def _choose(images: list[str], inner: str | None, path: Path) -> str:
    if inner is None and len(images) == 1:
        return images[0]
    if inner is not None and inner.rstrip("/") in images:
        return inner.rstrip("/")
    shown = ", ".join(images[:8]) + (", ..." if len(images) > 8 else "")
    if not images:
        raise InputError(f"{path}: an HDF5 file without a single dataset of 2 to 5 axes; name another file")
    if inner is None:
        raise InputError(f"{path}: holds {len(images)} images ({shown}); name one, as {path}:{images[0]}")
    raise InputError(f"{path}: has no image {inner}; it has {shown}")


def _describe(reference: Reference, path: Path, pixels: Any) -> Source:
    place = f"{path}:{pixels.name}"
    _check_readable(pixels, path, place)
    check_shape(pixels.shape, place)
    dtype = native_dtype(pixels.dtype, place)
    stored = _stored_axes(pixels, place)
    axes = "".join(a for a in CANONICAL_AXES if a in stored)
    order = tuple(stored.index(a) for a in axes)
    full = tuple(pixels.shape[i] for i in order)
    check_level(reference.level, 1, place)
    channels = chosen_channels(reference, axes, full, place)
    shape = with_channels(full, axes, channels)
    return Source(
        reference=reference,
        name=f"{path.name}:{pixels.name}",
        axes=axes,
        shape=shape,
        dtype=dtype,
        levels=(shape,),
        level=0,
        fingerprint={**file_fingerprint(path), "dataset": pixels.name},
        tiling=_tiling(pixels),
        segment_bytes=prod(pixels.chunks or (0,)) * dtype.itemsize,
        pixel_size=reference.pixel_size or _pixel_size(pixels),
        nodata=fitting_nodata(reference.nodata, dtype),
        reader=Hdf5Reader(place, pixels, order, channels, axes.find("c")),
    )


def _check_readable(pixels: Any, path: Path, place: str) -> None:
    """Refuse what would fail later, or read as fill values: filters that are not there, and files that are not."""
    import h5py

    filters = pixels.id.get_create_plist()
    for i in range(filters.get_nfilters()):
        code, _, _, name = filters.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            told = f"{code} {name.decode(errors='replace')}".strip()
            raise InputError(f"{place}: needs the filter {told}, which is not there; rewrite it by h5repack -f GZIP=4")
    if not (pixels.is_virtual or pixels.external or pixels.id.get_storage_size()):
        raise InputError(f"{place}: claims {pixels.shape} pixels, of which none was ever written; copy the file again")
    outside = [source.file_name for source in pixels.virtual_sources()] if pixels.is_virtual else []
    for name in [*outside, *(name for name, _, _ in pixels.external or ())]:
        if name != "." and not Path(path.parent, name).is_file():
            raise InputError(f"{place}: is in part in {name}, which is missing; copy it beside this file")


def _stored_axes(pixels: Any, place: str) -> str:
    """Letters of the stored axes: vigra's axistags, labels of the dimensions, or their number."""
    letters = _tagged(pixels) or _labelled(pixels)
    if letters is None:
        letters = "yxc" if is_color_last(pixels.shape) else AXES_BY_DIMENSIONS[pixels.ndim]
    known = set(letters) <= set(CANONICAL_AXES) and {"y", "x"} <= set(letters)
    if len(letters) != pixels.ndim or len(set(letters)) != len(letters) or not known:
        raise InputError(
            f"{place}: shape {pixels.shape} with axes {letters}; each of its {pixels.ndim} axes must be one of "
            "t, c, z, y, x"
        )
    return letters


def _tagged(pixels: Any) -> str | None:
    try:
        return "".join(axis["key"] for axis in json.loads(pixels.attrs["axistags"])["axes"]).lower()
    except (KeyError, TypeError, ValueError):
        return None


def _labelled(pixels: Any) -> str | None:
    """Labels of the dimensions, or names of their scales, where each is a letter of an axis."""
    names = []
    for dimension in pixels.dims:
        scales = [str(scale).rpartition("/")[2] for scale in dimension]
        names.append((dimension.label or (scales[0] if scales else "")).lower())
    return "".join(names) if all(len(name) == 1 and name in CANONICAL_AXES for name in names) else None


def _pixel_size(pixels: Any) -> tuple[float, float] | None:
    """(y, x) of `element_size_um`, which ilastik, PlantSeg and ImageJ write as (z, y, x)."""
    try:
        *_, y, x = np.asarray(pixels.attrs["element_size_um"], np.float64).tolist()
    except (KeyError, TypeError, ValueError):
        return None
    return (y, x) if 0 < y < float("inf") and 0 < x < float("inf") else None


def _tiling(pixels: Any) -> str:
    chunks = f"chunks {'x'.join(map(str, pixels.chunks))}" if pixels.chunks else "in one piece"
    return f"HDF5 {chunks}, compression {pixels.compression or 'none'}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
