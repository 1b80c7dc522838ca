"""The door for images: any file or array, read box by box.

`open_image` recognizes a file by its first bytes and a folder by its metadata, never by its name, and gives a `Source`:

- TIFF (tiled, stripped, pyramidal, BigTIFF, OME, ImageJ): the first image series; axes of size 1 are dropped, samples
  become channels, unnamed pages become z.
- Zarr 2 and 3, plain or OME-NGFF: all axes that the store names are kept.
- PNG and JPEG, as the eye sees them: palettes and CMYK as RGB, upright; decoded whole.
- HDF5, the only image or "file.h5:/path/to/dataset" (tilekit[hdf5]).
- .npy and arrays in memory: (y, x), (c, y, x), (c, z, y, x), (t, c, z, y, x), or color as (y, x, 3 or 4).
- JPEG 2000, VRT, NetCDF and all else that GDAL reads, bands as channels (tilekit[geo]).

One module per library: `tiff` (tifffile), `zarr_` (zarr), `picture` (imagecodecs), `hdf5` (h5py), `array` (numpy),
`gdal` (rasterio, also for the CRS of TIFFs).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilekit.errors import InputError
from tilekit.place import ZARR_DOCUMENTS, RemotePath, as_path
from tilekit.sources.source import Reference, Source

__all__ = ["ZARR_DOCUMENTS", "Reference", "Source", "open_image"]

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GDAL_STARTS = (
    b"\0\0\0\x0cjP  ",  # JPEG 2000
    b"\xff\x4f\xff\x51",  # JPEG 2000, the code stream alone
    b"CDF\1",
    b"CDF\2",
    b"CDF\5",
    b"\x89HDF\r\n\x1a\n",  # NetCDF 4, as other HDF5 has its own door
    b"\x0e\x03\x13\x01",  # HDF4
    b"EHFA_HEA",  # Erdas Imagine
    b"<VRTData",
)
"""What GDAL alone reads here: said to need it where it is not installed."""


def open_image(
    source: Any,
    *,
    level: int = 0,
    channels: Sequence[int | str] | None = None,
    nodata: float | None = None,
    pixel_size: float | tuple[float, float] | None = None,
    axes: str | None = None,
    t: int | None = None,
    z: int | None = None,
    series: int | None = None,
    as_labels: bool = False,
) -> Source:
    """One level of an image, opened without reading its pixels; bad input raises InputError in one line.

    `source` is a path (also to a group or array inside a Zarr store), an array, or a Source, whose settings are then
    replaced. `channels` are presented in the order given, by number or name. `nodata` and `pixel_size` ((y, x) or one
    number, micrometers, of level 0) replace what the file says. `axes` renames the axes that are presented without it,
    in their order ("tyx", "yxc"). `t` and `z` choose one position, `series` one of several images of a TIFF.
    `as_labels` reads a palette image as its indices.
    """
    if isinstance(source, Source):
        source = source.reference.source
    place, opener = _find_door(source)
    if series and opener.__name__ not in ("open_tiff", "open_zarr"):
        raise InputError(f"{place}: series {series} asked for, and only TIFFs are counted so; leave it out")
    reference = Reference(
        source=place,
        opener=opener,
        level=level,
        channels=None if channels is None else tuple(c if isinstance(c, str) else int(c) for c in channels),
        nodata=nodata,
        pixel_size=_pair(pixel_size),
        axes=axes,
        t=t,
        z=z,
        series=series,
        as_labels=as_labels,
    )
    return reference.open()


def _find_door(source: Any) -> tuple[Any, Callable[[Reference], Source]]:
    from tilekit.sources.array import open_array
    from tilekit.sources.hdf5 import open_hdf5, split_place
    from tilekit.sources.raster import absolute_subdataset, open_gdal
    from tilekit.sources.zarr_ import open_zarr

    if isinstance(source, np.ndarray):
        return source, open_array
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"an image is a path or an array, not {type(source).__name__}; convert it with numpy.asarray")
    path = as_path(source).absolute()
    if isinstance(path, RemotePath):
        return str(path), _door_of_url(path)
    if path.is_dir():
        if not any((path / document).exists() for document in ZARR_DOCUMENTS):
            raise InputError(f"{path}: a folder that is no Zarr store (no {', '.join(ZARR_DOCUMENTS)}); name an image")
        return str(path), open_zarr
    if not path.exists():
        if split_place(str(path))[0].is_file():
            return str(path), open_hdf5
        if subdataset := absolute_subdataset(str(source)):
            return subdataset, open_gdal
    return str(path), door_of_file(path, first_bytes(path))


def _door_of_url(path: RemotePath) -> Callable[[Reference], Source]:
    """Zarr and TIFF are read where they are, all else from a copy."""
    from tilekit.sources.copied import open_copied
    from tilekit.sources.tiff import open_tiff
    from tilekit.sources.zarr_ import open_zarr

    if any((path / document).is_file() for document in ZARR_DOCUMENTS):
        return open_zarr
    return open_tiff if first_bytes(path)[:4] in TIFF_STARTS else open_copied


def door_of_file(path: Path, start: bytes) -> Callable[[Reference], Source]:
    from tilekit.sources.array import open_npy
    from tilekit.sources.gdal import gdal_knows
    from tilekit.sources.hdf5 import is_hdf5, open_hdf5
    from tilekit.sources.picture import JPEG_START, PNG_START, open_picture
    from tilekit.sources.raster import open_gdal
    from tilekit.sources.tiff import open_tiff

    if start[:4] in TIFF_STARTS:
        return open_tiff
    if start[:6] == b"\x93NUMPY":
        return open_npy
    if start.startswith((PNG_START, JPEG_START)):
        return open_picture
    if is_hdf5(path):
        return open_hdf5
    if start.startswith(GDAL_STARTS) or gdal_knows(path):
        return open_gdal
    raise InputError(
        f"{path}: not an image that can be read (it starts with {start!r}); give TIFF, PNG, JPEG, HDF5, Zarr, .npy, "
        "or with tilekit[geo] what GDAL reads"
    )


def first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from None
    if not start:
        raise InputError(f"{path}: the file is empty; copy it again")
    return start


def _pair(size: float | tuple[float, float] | None) -> tuple[float, float] | None:
    if size is None:
        return None
    y, x = size if isinstance(size, tuple | list) else (size, size)
    if not (0 < y < float("inf") and 0 < x < float("inf")):
        raise InputError(f"pixel size ({y}, {x}) must be positive micrometers (y, x)")
    return float(y), float(x)
