"""DOOR rasterio: Cloud Optimized GeoTIFF, by GDAL's own driver.

GDAL's driver copies a dataset, so the levels of a store are first written to temporary tiled TIFFs, block by block, and
shown to it as one dataset with overviews (a VRT): https://gdal.org/en/stable/drivers/raster/cog.html
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np

from tilekit.box import Box, grid_boxes
from tilekit.engine import Progress
from tilekit.errors import InputError, RunError
from tilekit.georeference import Georeference
from tilekit.rasters import TILE, Raster
from tilekit.run import available_cores
from tilekit.sources.gdal import LOGGERS, SETTINGS
from tilekit.sources.quiet import without_warnings
from tilekit.sources.tiff_log import listening

BLOCK_BYTES = 1 << 26
"""Of pixels that are in memory at once, beside GDAL's cache (64 MB)."""
GDAL_TYPES = {"uint8": "Byte"}
"""Where they differ from numpy's names with a capital."""


def write_cog(raster: Raster, path: Path, work: Path, progress: Progress) -> None:
    """Write the one plane of a raster; temporary files go into `work`. RunError where GDAL cannot."""
    with _gdal(path) as rasterio:
        boxes = [(k, box) for k in range(len(raster.shapes)) for box in _boxes(raster, k)]
        progress("copy", 0, len(boxes))
        files = [_create(rasterio, raster, k, work / f"{k}.tif") for k in range(len(raster.shapes))]
        lead = [(0, n) for n in raster.source.shape[:-2]]
        for done, (k, box) in enumerate(boxes, start=1):
            window = tuple(zip(box.start, box.stop, strict=True))
            files[k].write(raster.read(k, lead, box).reshape(-1, *box.shape), window=window)
            progress("copy", done, len(boxes))
        for file in files:
            file.close()
        (work / "levels.vrt").write_bytes(tostring(_vrt(raster)))
        progress("cog", 0, 1)
        options = {
            "COMPRESS": "DEFLATE",
            "PREDICTOR": "NO" if raster.is_labels else "YES",
            "BLOCKSIZE": TILE,
            "BIGTIFF": "IF_SAFER",
            "NUM_THREADS": available_cores(),
        }
        rasterio.shutil.copy(work / "levels.vrt", path, driver="COG", **options)
        progress("cog", 1, 1)
        _check(rasterio, raster, path, boxes, progress)


def _check(rasterio: Any, raster: Raster, path: Path, boxes: list[tuple[int, Box]], progress: Progress) -> None:
    """Read every pixel back: what cannot be written when GDAL closes a file, as on a full disk, raises nothing."""
    lead = [(0, n) for n in raster.source.shape[:-2]]
    files = [rasterio.open(path, **({"overview_level": k - 1} if k else {})) for k in range(len(raster.shapes))]
    for done, (k, box) in enumerate(boxes, start=1):
        found = files[k].read(window=tuple(zip(box.start, box.stop, strict=True)))
        wanted = raster.read(k, lead, box).reshape(found.shape)
        if not np.array_equal(found, wanted, equal_nan=wanted.dtype.kind == "f"):
            raise _failure(path, [f"level {k} has other pixels at {box.start}"])
        progress("check", done, len(boxes))
    for file in files:
        file.close()


@contextmanager
def _gdal(path: Path) -> Iterator[Any]:
    """rasterio, with little memory; its errors become RunError about `path`."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import rasterio
        import rasterio.shutil
    except ImportError:
        raise InputError(
            f"{path}: a GeoTIFF needs rasterio; pip install 'tilekit[geo]', or --format ome-tiff"
        ) from None
    with without_warnings(), listening(LOGGERS, logging.ERROR) as complaints, rasterio.Env():
        try:
            yield rasterio
        except (InputError, RunError, OSError, MemoryError):  # of the store that is read, or of this machine
            raise
        except Exception as error:
            raise _failure(path, complaints or [str(error)]) from error
        if complaints:  # what fails when a file is closed is told nowhere else
            raise _failure(path, complaints)


def _failure(path: Path, complaints: Sequence[str]) -> RunError:
    reason = " ".join(complaints[0].split())[:200]
    return RunError(f"{path}: GDAL could not write it ({reason}); make room, and run it again")


def _boxes(raster: Raster, level: int) -> Iterator[Box]:
    """The parts in which a level is copied, whole tiles each."""
    nbytes = raster.n_channels * raster.dtype.itemsize
    side = next((s for s in (2048, 1024) if s * s * nbytes <= BLOCK_BYTES), TILE)
    return grid_boxes(Box.whole(raster.shapes[level]), (side, side))


def _create(rasterio: Any, raster: Raster, level: int, path: Path) -> Any:
    height, width = raster.shapes[level]
    return rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=raster.n_channels,
        dtype=raster.dtype.name,
        tiled=True,
        blockxsize=TILE,
        blockysize=TILE,
        interleave="pixel",
        compress="deflate",
        zlevel=1,
        bigtiff="if_safer",
        num_threads=available_cores(),
    )


def _vrt(raster: Raster) -> Element:
    """All levels as one dataset, with everything that the file is to say."""
    height, width = raster.shapes[0]
    root = Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    if raster.source.georeference is not None:
        _add_place(root, raster.source.georeference)
    elif (size := raster.source.pixel_size) is not None:
        said = {"XRESOLUTION": repr(1e4 / size[1]), "YRESOLUTION": repr(1e4 / size[0]), "RESOLUTIONUNIT": "3"}
        _add_metadata(root, {f"TIFFTAG_{name}": value for name, value in said.items()})  # pixels per centimeter
    for band in range(1, raster.n_channels + 1):
        _add_band(root, raster, band)
    return root


def _add_place(root: Element, place: Georeference) -> None:
    if place.crs is not None and not place.gcps:
        SubElement(root, "SRS").text = place.crs  # x before y, as VRT has it where nothing else is said
    if place.transform is not None:
        a, b, c, d, e, f = place.transform
        SubElement(root, "GeoTransform").text = ", ".join(repr(float(n)) for n in (c, a, b, f, d, e))
    elif place.gcps:
        points = SubElement(root, "GCPList", {"Projection": place.crs} if place.crs else {})
        for i, p in enumerate(place.gcps, start=1):
            at = {"Pixel": p.column, "Line": p.row, "X": p.x, "Y": p.y, "Z": p.z}
            SubElement(points, "GCP", {"Id": str(i), **{name: repr(float(n)) for name, n in at.items()}})


def _add_metadata(parent: Element, items: dict[str, str]) -> None:
    metadata = SubElement(parent, "Metadata")
    for key, value in items.items():
        SubElement(metadata, "MDI", key=key).text = value


def _add_band(root: Element, raster: Raster, number: int) -> None:
    """A band: its name, nodata, classes and colors, and where its pixels are, level by level."""
    name = raster.dtype.name
    kind = GDAL_TYPES.get(name, name.replace("uint", "UInt") if name[0] == "u" else name.capitalize())
    band = SubElement(root, "VRTRasterBand", dataType=kind, band=str(number))
    SubElement(band, "Description").text = raster.channel_names[number - 1] if "c" in raster.source.axes else ""
    if raster.source.nodata is not None:
        SubElement(band, "NoDataValue").text = repr(raster.source.nodata)
    SubElement(band, "ColorInterp").text = _interpretation(raster, number)
    if raster.colors:
        _add_metadata(band, {f"class_{value}": said for value, said in raster.class_names.items()})
        names, table = SubElement(band, "CategoryNames"), SubElement(band, "ColorTable")
        for value in range(max({*raster.class_names, *raster.colors}) + 1):
            SubElement(names, "Category").text = raster.class_names.get(value, "")
            color = raster.colors.get(value, (0, 0, 0, 0))
            SubElement(table, "Entry", {f"c{i}": str(n) for i, n in enumerate(color, start=1)})
    for k in range(len(raster.shapes)):
        file = SubElement(band, "Overview" if k else "SimpleSource")
        SubElement(file, "SourceFilename", relativeToVRT="1").text = f"{k}.tif"
        SubElement(file, "SourceBand").text = str(number)


def _interpretation(raster: Raster, number: int) -> str:
    if raster.colors:
        return "Palette"
    if raster.source.alpha == number - 1:
        return "Alpha"
    n = raster.n_channels - (raster.source.alpha is not None)
    if n == 3 and raster.dtype == np.uint8 and not raster.is_labels:
        return ("Red", "Green", "Blue")[number - 1] if number <= 3 else "Undefined"
    return "Gray" if n == 1 else "Undefined"
