"""Pixel size, names, wavelengths, scale and nodata that a TIFF states."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from tilekit.sources.tiff_ome import ome_channel_names, ome_pixel_size, ome_pixels, ome_wavelengths
from tilekit.sources.tiff_photometric import sample_names
from tilekit.sources.units import micrometers

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

PLAUSIBLE_MICROMETERS = (0.001, 20.0)
"""Sizes taken from plain resolution tags; above lie the 72 to 600 dpi that programs write without having measured."""

INCH, CENTIMETER = 2, 3

APERIO_SIZE = re.compile(r"\|\s*MPP\s*=\s*([\d.eE+-]+)")
PHILIPS_SIZE = re.compile(
    r'DICOM_PIXEL_SPACING"[^>]*>\s*(?:"|&quot;)([\d.eE+-]+)(?:"|&quot;)\s*(?:"|&quot;)([\d.eE+-]+)'
)


def pixel_size(tiff: TiffFile, series: TiffPageSeries, index: int) -> tuple[float, float] | None:
    """(y, x) in micrometers of a series as stored, from the format's metadata or plausible tags; None if not stated."""
    page = series.keyframe
    if tiff.is_ome:
        return ome_pixel_size(_ome_image(tiff, series, index))
    if tiff.is_imagej:
        return _imagej_pixel_size(tiff, page)
    if tiff.is_svs:
        found = APERIO_SIZE.search(page.description)
        size = micrometers(found[1], "µm") if found else None
        return _both(size, size)
    if tiff.is_scn:
        return _leica_pixel_size(tiff.scn_metadata or "", page)
    if tiff.is_philips:
        pairs = PHILIPS_SIZE.findall(tiff.philips_metadata or "")
        sizes = [_both(micrometers(y, "mm"), micrometers(x, "mm")) for y, x in pairs]
        return min((size for size in sizes if size), default=None)
    if tiff.is_lsm:
        voxel = tiff.lsm_metadata or {}
        return _both(micrometers(voxel.get("VoxelSizeY"), "m"), micrometers(voxel.get("VoxelSizeX"), "m"))
    return _tag_pixel_size(page)


def channel_names(tiff: TiffFile, series: TiffPageSeries, index: int, n: int) -> list[str] | None:
    """Names of the n channels that the file gives, or else those of its photometric interpretation."""
    candidates: list[Sequence[str | None] | None] = []
    interpretation = color_interpretation(series.keyframe, n)
    if tiff.is_ome:
        candidates.append(ome_channel_names(_ome_image(tiff, series, index)))
    if series.kind == "qpi":
        candidates.append(_qpi_names(series))
    candidates.append(_gdal_items(series.keyframe, "description", n))
    if interpretation is None:
        candidates.append(sample_names(series.keyframe))
    elif "undefined" not in interpretation:
        candidates.append(interpretation)
    for names in candidates:
        if names and len(names) == n and all(names):
            return [str(name) for name in names]
    return None


def color_interpretation(page: Any, n: int) -> list[str] | None:
    """What GDAL's metadata say that each of n channels is: "red", "alpha", "undefined", ...; None without them."""
    found = _gdal_items(page, "colorinterp", n)
    return None if found is None else [(text or "undefined").lower() for text in found]


def wavelengths(tiff: TiffFile, series: TiffPageSeries, index: int, n: int) -> list[float | None] | None:
    """Wavelength of each of the n channels in nanometers; None where the file states none."""
    found = ome_wavelengths(_ome_image(tiff, series, index)) if tiff.is_ome else None
    return found if found and len(found) == n else None


def value_scale(page: Any, n: int) -> list[tuple[float, float]] | None:
    """(scale, offset) of each of the n channels that GDAL's metadata state; None where they state none."""
    scales, offsets = _gdal_items(page, "scale", n), _gdal_items(page, "offset", n)
    if scales is None and offsets is None:
        return None
    pairs = zip(scales or [None] * n, offsets or [None] * n, strict=True)
    try:
        return [(float(scale or 1), float(offset or 0)) for scale, offset in pairs]
    except ValueError:
        return None


def file_nodata(page: Any) -> float | int | None:
    """Value of the GDAL_NODATA tag, or None."""
    text = page.tags.valueof("GDAL_NODATA")
    try:
        value = float(str(text).strip().strip("\0")) if text is not None else None
        return int(value) if value is not None and value.is_integer() else value
    except ValueError:
        return None


def _ome_image(tiff: TiffFile, series: TiffPageSeries, index: int) -> ElementTree.Element | None:
    """The OME-XML of a series; images without planes have XML and no series, so the sizes must agree."""
    found, key = ome_pixels(tiff.ome_metadata or ""), series.keyframe
    sizes = (str(key.imagewidth), str(key.imagelength))
    fitting = (p for p in (*found[index : index + 1], *found) if (p.get("SizeX"), p.get("SizeY")) == sizes)
    return next(fitting, None)


def _gdal_items(page: Any, role: str, n: int) -> list[str | None] | None:
    """Text of GDAL's metadata of a role ("description", "scale", ...) by channel; None where no channel has it."""
    try:
        root = ElementTree.fromstring(str(page.tags.valueof("GDAL_METADATA") or "").strip("\0"))
    except ElementTree.ParseError:
        return None
    found = {item.get("sample"): item.text for item in root.iter("Item") if item.get("role") == role}
    return [found.get(str(i)) for i in range(n)] if found else None


def _qpi_names(series: TiffPageSeries) -> list[str] | None:
    """<Name> of each page's description."""
    try:
        names = [_page_name(page) for page in series.pages]
    except (ElementTree.ParseError, AttributeError):
        return None
    return [name for name in names if name] if all(names) else None


def _page_name(page: Any) -> str | None:
    return ElementTree.fromstring(page.description).findtext("Name")


def _leica_pixel_size(xml: str, page: Any) -> tuple[float, float] | None:
    """From the view (nanometers) of the image whose pixels have the size of the page."""
    sizes = (str(page.imagewidth), str(page.imagelength))
    try:
        images = [e for e in ElementTree.fromstring(xml).iter() if e.tag.rpartition("}")[2] == "image"]
    except ElementTree.ParseError:
        return None
    for image in images:
        parts = {child.tag.rpartition("}")[2]: child for child in image}
        if not {"pixels", "view"} <= parts.keys():
            continue
        if (parts["pixels"].get("sizeX"), parts["pixels"].get("sizeY")) == sizes:
            y, x = (micrometers(parts["view"].get(f"size{a}"), "nm") for a in "YX")
            return None if y is None or x is None else (y / page.imagelength, x / page.imagewidth)
    return None


def _imagej_pixel_size(tiff: TiffFile, page: Any) -> tuple[float, float] | None:
    unit = (tiff.imagej_metadata or {}).get("unit")
    per_unit = _per_unit(page)
    if unit is None or per_unit is None:
        return None
    return _both(micrometers(1 / per_unit[0], str(unit)), micrometers(1 / per_unit[1], str(unit)))


def _tag_pixel_size(page: Any) -> tuple[float, float] | None:
    unit = {INCH: "inch", CENTIMETER: "cm"}.get(page.tags.valueof("ResolutionUnit", INCH))
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


def chosen(values: Sequence[Any] | None, channels: Sequence[int] | None) -> tuple[Any, ...] | None:
    """Of one value per channel, those of the chosen channels."""
    if values is None:
        return None
    return tuple(values) if channels is None else tuple(values[c] for c in channels)
