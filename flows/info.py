"""What an image is: all that its source knows, for people and for programs."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from tilekit.ledger import FOLDER
from tilekit.place import as_path
from tilekit.sources import Source

ROOT_CODE = re.compile(r'(?:AUTHORITY|ID)\s*\[\s*"EPSG"\s*,\s*"?(\d+)"?\s*\]\s*\]\s*$', re.IGNORECASE)
"""The EPSG code of a CRS itself, the last of its WKT's parts; those of its parts stand deeper."""
METERS_FROM = 1e4
"""Micrometers from which pixel sizes are shown in meters."""
ALWAYS_SHOWN = ("pixel_size", "channels", "nodata", "crs")
"""What people want to know even where the file does not say."""


def image_facts(image: str, source: Source) -> dict[str, Any]:
    """All that a source knows, as JSON has it: NaN by name, None where the file does not say."""
    place = source.georeference
    crs = place.crs if place else None
    return {
        "image": image,
        "shape": list(source.shape),
        "axes": source.axes,
        "dtype": str(source.dtype),
        "level": source.level,
        "levels": [list(shape) for shape in source.levels],
        "pixel_size": _listed(source.pixel_size),
        "slice_spacing": source.slice_spacing,
        "translation": list(source.translation),
        "channels": _listed(source.channel_names),
        "wavelengths": _listed(source.wavelengths),
        "value_scale": source.value_scale and [list(pair) for pair in source.value_scale],
        "color_table": source.color_table and len(source.color_table),
        "nodata": "nan" if source.nodata is not None and source.nodata != source.nodata else source.nodata,
        "alpha": source.alpha,
        "mask": source.mask and list(source.mask.shape),
        "crs": crs and crs_name(crs),
        "epsg": epsg_code(crs) if crs else None,
        "wkt": crs,
        "transform": _listed(place.transform) if place else None,
        "gcps": len(place.gcps) if place and place.gcps else None,
        "tiling": source.tiling,
        "readers": readers_of(image),
    }


def facts_for_people(facts: dict[str, Any]) -> dict[str, Any]:
    """The same with units, without what the file does not say and what programs alone read."""
    unremarkable = {"level": 0, "translation": [0, 0], "wkt": facts["wkt"]}
    shown = {k: v for k, v in facts.items() if k in ALWAYS_SHOWN or (v is not None and v != unremarkable.get(k))}
    return {k: _in_words(k, v) for k, v in shown.items()}


def _in_words(name: str, value: Any) -> Any:
    if value is None:
        return None
    match name:
        case "levels":
            return [" x ".join(map(str, shape)) for shape in value]
        case "mask":
            return " x ".join(map(str, value))
        case "pixel_size":
            unit, per_unit = ("m", 1e6) if min(value) >= METERS_FROM else ("µm", 1.0)
            return " x ".join(f"{n / per_unit:g}" for n in value) + f" {unit} (y, x)"
        case "slice_spacing":
            return f"{value:g} µm (z)"
        case "wavelengths":
            return ["unknown" if n is None else f"{n:g} nm" for n in value]
        case "value_scale":
            return [f"{scale:g} · pixel + {offset:g}" for scale, offset in value]
        case "color_table":
            return f"{value} colors"
        case "alpha":
            return f"channel {value}"
        case "readers":
            return "".join(f"\n  {r['name']:<30}{'yes' if r['copes'] else 'no':<5}{r['why']}" for r in value)
        case "transform":
            return [f"{n:.12g}" for n in value]
    return value


def crs_name(wkt: str) -> str:
    """The name of a CRS: the first quoted text of its WKT, else the text itself, such as EPSG:4326.

    >>> crs_name('GEOGCS["WGS 84",DATUM["WGS_1984"],AUTHORITY["EPSG","4326"]]')
    'WGS 84'
    """
    found = re.search(r'"([^"]*)"', wkt)
    return found[1] if found else wkt


def epsg_code(wkt: str) -> int | None:
    """The EPSG code of a CRS, None where its text has none.

    >>> epsg_code('GEOGCS["WGS 84",UNIT["degree",0.01,AUTHORITY["EPSG","9122"]],AUTHORITY["EPSG","4326"]]')
    4326
    >>> epsg_code('GEOGCS["mine",UNIT["degree",0.01,AUTHORITY["EPSG","9122"]]]')
    """
    found = ROOT_CODE.search(wkt) or re.fullmatch(r"EPSG:(\d+)", wkt.strip(), re.IGNORECASE)
    return int(found[1]) if found else None


def readers_of(image: str) -> list[dict[str, Any]] | None:
    """Which programs will read a store that tilekit wrote, and why; None for any other image."""
    path = as_path(image)
    if not (path / FOLDER).is_dir():
        return None
    from tilekit.doctor import readers

    return [asdict(reader) for reader in readers(path)]


def _listed(values: Any) -> list[Any] | None:
    return None if values is None else list(values)
