"""DOOR tifffile: pyramidal OME-TIFF, tile by tile. https://ome-model.readthedocs.io/"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffWriter

from tilekit import __version__
from tilekit.box import Box
from tilekit.engine import Progress
from tilekit.errors import InputError
from tilekit.rasters import TILE, Raster
from tilekit.run import available_cores

Array = NDArray[Any]
RUN_BYTES = 1 << 25
"""Of pixels of a row of tiles that are read at once."""
MAX_CLASSIC = 1 << 32
"""Bytes that offsets of 32 bits reach."""
OME_TYPES = {"uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64"}


def write_ome_tiff(raster: Raster, path: Path, title: str, progress: Progress) -> None:
    """Write all planes and levels of a raster."""
    if raster.dtype.name not in OME_TYPES:
        raise InputError(f"{path}: OME-TIFF has no pixels of {raster.dtype}; choose --format cog")
    is_rgb = _is_rgb(raster)
    axes = raster.source.axes.replace("c", "") + "s" if is_rgb else raster.source.axes
    n_done, n_tiles = 0, sum(_count_tiles(raster, k, is_rgb) for k in range(len(raster.shapes)))

    def tiles(level: int) -> Iterator[Array]:
        nonlocal n_done
        for tile in _tiles(raster, level, is_rgb):
            yield tile
            n_done += 1
            progress("tiles", n_done, n_tiles)

    options: dict[str, Any] = {
        "dtype": raster.dtype,
        "tile": (TILE, TILE),
        "photometric": "rgb" if is_rgb else "minisblack",
        "compression": "zlib",
        "predictor": not raster.is_labels,
        "maxworkers": available_cores(),
        "buffersize": RUN_BYTES,
        **_resolution(raster),
    }
    nbytes = raster.n_pixels * raster.dtype.itemsize * 4 // 3
    with TiffWriter(path, ome=True, bigtiff=nbytes > MAX_CLASSIC * 9 // 10) as file:
        for k in range(len(raster.shapes)):
            lead = [n for a, n in zip(raster.source.axes[:-2], raster.source.shape[:-2], strict=True) if a in axes]
            shape = (*lead, *raster.shapes[k], *((3,) if is_rgb else ()))
            own: dict[str, Any] = {"subfiletype": 1}
            if not k:
                own = {"subifds": len(raster.shapes) - 1, "metadata": _metadata(raster, title, axes, is_rgb)}
                own["software"] = f"tilekit {__version__}"
            file.write(tiles(k), shape=shape, **options, **own)


def _is_rgb(raster: Raster) -> bool:
    """True where three channels of 8 bits are colors, as the store shows them."""
    is_image = not raster.is_labels and raster.source.axes.endswith("cyx")
    return is_image and raster.n_channels == 3 and raster.dtype == np.uint8 and raster.source.alpha is None


def _count_tiles(raster: Raster, level: int, is_rgb: bool) -> int:
    height, width = raster.shapes[level]
    n_planes = sum(1 for _ in raster.planes(with_channels=is_rgb))
    return n_planes * -(-height // TILE) * -(-width // TILE)


def _tiles(raster: Raster, level: int, is_rgb: bool) -> Iterator[Array]:
    """Tiles in the order of the file, filled up with zeros at the edges; (y, x), or (y, x, 3) of colors."""
    height, width = raster.shapes[level]
    n_bytes = TILE * TILE * raster.dtype.itemsize * (3 if is_rgb else 1)
    step = max(RUN_BYTES // n_bytes, 1) * TILE
    for lead in raster.planes(with_channels=is_rgb):
        for y in range(0, height, TILE):
            for start in range(0, width, step):
                box = Box((y, start), (min(y + TILE, height), min(start + step, width)))
                pixels = raster.read(level, lead, box)
                run = np.moveaxis(pixels.reshape(3, *box.shape), 0, -1) if is_rgb else pixels.reshape(box.shape)
                for x in range(0, box.shape[1], TILE):
                    yield _filled(run[:, x : x + TILE])


def _filled(part: Array) -> Array:
    if part.shape[:2] == (TILE, TILE):
        return np.ascontiguousarray(part)
    tile = np.zeros((TILE, TILE, *part.shape[2:]), part.dtype)
    tile[: part.shape[0], : part.shape[1]] = part
    return tile


def _resolution(raster: Raster) -> dict[str, Any]:
    """Pixels per centimeter, for readers that know no OME."""
    size = raster.source.pixel_size
    return {} if size is None else {"resolution": (1e4 / size[1], 1e4 / size[0]), "resolutionunit": "CENTIMETER"}


def _metadata(raster: Raster, title: str, axes: str, is_rgb: bool) -> dict[str, Any]:
    source = raster.source
    said: dict[str, Any] = {"axes": axes.upper(), "Name": title}
    if source.pixel_size is not None:
        lengths = dict(zip("YX", source.pixel_size, strict=True))
        if source.slice_spacing is not None:
            lengths["Z"] = source.slice_spacing
        for axis, length in lengths.items():
            said |= {f"PhysicalSize{axis}": length, f"PhysicalSize{axis}Unit": "µm"}
    if not is_rgb:
        said["Channel"] = {"Name": list(raster.channel_names) if "c" in source.axes else [title]}
    if raster.class_names:
        said["MapAnnotation"] = {str(value): name for value, name in raster.class_names.items()}
    return said
