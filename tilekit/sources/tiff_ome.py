"""OME-XML of a TIFF: pixel size, names and wavelengths of channels, and the file that describes a set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from pathlib import Path
from xml.etree import ElementTree

from tilekit.errors import InputError
from tilekit.sources.tiff_layout import MOST_PLANES
from tilekit.sources.units import micrometers

NUMBER_OF_PLANES = re.compile(r"\b(Size[CZT]|PlaneCount|NumPlanes|First[CZT]|IFD|SamplesPerPixel)\s*=\s*[\"']([^\"']*)")


def refuse_absurd_planes(xml: str, path: Path) -> None:
    """Refuse OME-XML that claims more planes than any image has, before a list of that length is made."""
    for key, value in NUMBER_OF_PLANES.findall(xml):
        if value.strip().isdigit() and int(value) > MOST_PLANES:
            raise InputError(f"{path}: its OME-XML says {key} {value}, at most {MOST_PLANES} can be read; correct it")
    for pixels in ome_pixels(xml):
        sizes = [pixels.get(f"Size{a}", "") for a in "CZT"]
        if prod(int(n) for n in sizes if n.isdigit()) > MOST_PLANES:
            raise InputError(
                f"{path}: its OME-XML says {' x '.join(sizes)} planes, at most {MOST_PLANES} can be read; correct it"
            )
    root = _parse(xml) if "Modulo" in xml else None
    for along in root.iter() if root is not None else ():
        if "ModuloAlong" in along.tag and _modulo_labels(along) > MOST_PLANES:
            raise InputError(
                f"{path}: its OME-XML says {_modulo_labels(along):.0f} positions in {along.tag.rpartition('}')[2]}, "
                f"at most {MOST_PLANES} can be read; correct it"
            )


def companion_xml(xml: str, path: Path) -> str | None:
    """OME-XML of the set that this file is part of, where it names another file for it; None where it has its own."""
    if "BinaryOnly" not in xml:
        return None
    root = _parse(xml)
    only = next(_children(root, "BinaryOnly"), None) if root is not None else None
    if only is None:
        return None
    name = only.get("MetadataFile", "")
    beside = path.with_name(Path(name).name)
    if not name or not beside.is_file():
        raise InputError(
            f"{path}: is part of a set that '{name}' describes, which is missing; copy it beside this file"
        )
    if beside.suffix.lower() in (".tif", ".tiff"):
        raise InputError(f"{path}: is part of a set that '{name}' describes; open that file")
    return beside.read_text("utf-8")


def ome_pixels(xml: str) -> tuple[ElementTree.Element, ...]:
    """The Pixels element of each image; none where the XML is broken."""
    root = _parse(xml)
    return () if root is None else tuple(p for image in _children(root, "Image") for p in _children(image, "Pixels"))


def ome_pixel_size(pixels: ElementTree.Element | None) -> tuple[float, float] | None:
    """(y, x) in micrometers; None where not both are stated."""
    if pixels is None:
        return None
    y, x = (micrometers(pixels.get(f"PhysicalSize{a}"), pixels.get(f"PhysicalSize{a}Unit", "µm")) for a in "YX")
    return None if y is None or x is None else (y, x)


def ome_channel_names(pixels: ElementTree.Element | None) -> list[str] | None:
    """Names of the channels, where each has one."""
    names = [element.get("Name") for element in _children(pixels, "Channel")] if pixels is not None else []
    return [name for name in names if name] if names and all(names) else None


def ome_wavelengths(pixels: ElementTree.Element | None) -> list[float | None] | None:
    """Wavelength of each channel in nanometers, emission before excitation; None where none is stated."""
    channels = list(_children(pixels, "Channel")) if pixels is not None else []
    found = [_wavelength(channel) for channel in channels]
    return found if any(found) else None


def _wavelength(channel: ElementTree.Element) -> float | None:
    for kind in ("Emission", "Excitation"):
        unit = channel.get(f"{kind}WavelengthUnit", "nm")
        size = micrometers(channel.get(f"{kind}Wavelength"), unit)
        if size is not None:
            return round(size * 1000, 6)
    return None


def _modulo_labels(along: ElementTree.Element) -> float:
    """How many positions an axis within an axis has, of which tifffile makes a list."""
    try:
        start, end, step = (float(along.get(key, default)) for key, default in (("Start", 0), ("End", 0), ("Step", 1)))
        return (end - start) / step
    except (ValueError, ZeroDivisionError):
        return 0


@lru_cache(maxsize=1)
def _parse(xml: str) -> ElementTree.Element | None:
    try:
        return ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError):
        return None


def _children(element: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    return (child for child in element if child.tag.rpartition("}")[2] == tag)
