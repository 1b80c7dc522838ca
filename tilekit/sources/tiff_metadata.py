"""Pixel size, channel names and nodata that a TIFF states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from tifffile import TiffFile

from tilekit.sources.units import micrometers

PLAUSIBLE_MICROMETERS = (0.001, 20.0)
"""Sizes taken from plain resolution tags; above lie the 72 to 600 dpi that programs write without having measured."""

INCH, CENTIMETER = 2, 3


def pixel_size(tiff: TiffFile, page: Any) -> tuple[float, float] | None:
    """(y, x) in micrometers of level 0, from OME-XML, ImageJ or plausible resolution tags; None when not stated."""
    if tiff.is_ome:
        return _ome_pixel_size(tiff.ome_metadata or "")
    if tiff.is_imagej:
        return _imagej_pixel_size(tiff, page)
    return _tag_pixel_size(page)


def channel_names(tiff: TiffFile) -> list[str] | None:
    """Names of the channels in OME-XML, or None."""
    pixels = _ome_pixels(tiff.ome_metadata or "") if tiff.is_ome else None
    if pixels is None:
        return None
    names = [element.get("Name") for element in _children(pixels, "Channel")]
    return [name for name in names if name] if names and all(names) else None


def file_nodata(page: Any) -> float | int | None:
    """Value of the GDAL_NODATA tag, or None."""
    text = page.tags.valueof("GDAL_NODATA")
    try:
        value = float(str(text).strip().strip("\0")) if text is not None else None
        return int(value) if value is not None and value.is_integer() else value
    except ValueError:
        return None


def _ome_pixels(xml: str) -> ElementTree.Element | None:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    return next((p for image in _children(root, "Image") for p in _children(image, "Pixels")), None)


def _children(element: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    return (child for child in element if child.tag.rpartition("}")[2] == tag)


def _ome_pixel_size(xml: str) -> tuple[float, float] | None:
    pixels = _ome_pixels(xml)
    if pixels is None:
        return None
    sizes = [micrometers(pixels.get(f"PhysicalSize{a}"), pixels.get(f"PhysicalSize{a}Unit", "µm")) for a in "YX"]
    return _both(sizes[0], sizes[1])


def _imagej_pixel_size(tiff: TiffFile, page: Any) -> tuple[float, float] | None:
    unit = (tiff.imagej_metadata or {}).get("unit")
    per_unit = _per_unit(page)
    if unit is None or per_unit is None:
        return None
    return _both(micrometers(1 / per_unit[0], str(unit)), micrometers(1 / per_unit[1], str(unit)))


def _tag_pixel_size(page: Any) -> tuple[float, float] | None:
    unit = {INCH: "inch", CENTIMETER: "cm"}.get(int(page.tags.valueof("ResolutionUnit", INCH)))
    per_unit = _per_unit(page)
    if unit is None or per_unit is None:
        return None
    size = _both(micrometers(1 / per_unit[0], unit), micrometers(1 / per_unit[1], unit))
    low, high = PLAUSIBLE_MICROMETERS
    return size if size and all(low <= n <= high for n in size) else None


def _per_unit(page: Any) -> tuple[float, float] | None:
    """(y, x) pixels per resolution unit."""
    found = [page.tags.valueof(tag) for tag in ("YResolution", "XResolution")]
    if not all(isinstance(value, tuple) and len(value) == 2 and all(value) for value in found):
        return None
    y, x = (value[0] / value[1] for value in found)
    return y, x


def _both(y: float | None, x: float | None) -> tuple[float, float] | None:
    return None if y is None or x is None else (y, x)
