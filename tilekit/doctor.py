"""The doctor: which programs will read a Zarr store, judged from its metadata alone.

What is said of GDAL 3.13 is its documentation's word; what is said of the others was tried: GDAL 3.10 and 3.12,
rioxarray 0.19, napari-ome-zarr 0.10, ome-zarr-py 0.18. Neuroglancer's data types are those of its issues 198 and 875.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilekit.georeference import Georeference
from tilekit.place import as_path
from tilekit.sources import Source, open_image
from tilekit.sources.ngff import parse_multiscale
from tilekit.sources.zarr_documents import attributes_of, document

GDAL_CODECS = {"blosc", "bytes", "crc32c", "endian", "gzip", "transpose", "zlib", "zstd", "sharding_indexed", "none"}
NEUROGLANCER_TYPES = {"uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32"}
NEUROGLANCER_CODECS = GDAL_CODECS


@dataclass(frozen=True, slots=True)
class Reader:
    """A program that people open stores with."""

    name: str
    copes: bool
    """True where it shows the pixels, and those of an image on the ground in their place."""
    why: str
    """What it lacks, or how to open it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What readers differ in, of level 0 of an image."""

    zarr_format: int
    is_ome: bool
    levels: tuple[str, ...]
    """Names of the arrays of all levels."""
    sharded: bool
    codecs: frozenset[str]
    dtype: np.dtype[Any]
    has_nan_fill: bool
    """True where the fill value is NaN."""
    is_told_nodata: bool
    """True where `_FillValue` or Zarr 2's fill value says which pixels mean nothing."""
    has_dimensions: bool
    """True where xarray finds names of the dimensions."""
    has_coordinates: bool
    """True where arrays named like the dimensions y and x lie beside the pixels."""
    place: Georeference | None


def readers(path: Path) -> list[Reader]:
    """What each program makes of an image in a Zarr store (a group of levels, or an array). Raises InputError."""
    source = open_image(path)
    facts = read_facts(source)
    return [
        _ome(facts, "napari (napari-ome-zarr)"),
        _ome(facts, "ome-zarr-py"),
        _neuroglancer(facts),
        _gdal(facts, "QGIS with GDAL 3.10 or older", 10),
        _gdal(facts, "QGIS with GDAL 3.11 or 3.12", 12),
        _gdal(facts, "QGIS with GDAL 3.13 or newer", 13),
        _rioxarray(facts),
    ]


def read_facts(source: Source) -> Facts:
    """The facts of an image that `open_zarr` opened."""
    folder = as_path(source.fingerprint["path"])
    is_lone = folder == as_path(source.reference.source)
    multiscale = None if is_lone else parse_multiscale(attributes_of(folder.parent), str(folder.parent))
    if (folder / "zarr.json").exists():
        metadata = document(folder / "zarr.json")
        attributes, codecs = metadata.get("attributes") or {}, _codec_names(metadata.get("codecs") or [])
        names = metadata.get("dimension_names") or []
        told = "_FillValue" in attributes
    else:
        metadata = document(folder / ".zarray")
        attributes = document(folder / ".zattrs") if (folder / ".zattrs").exists() else {}
        parts = [metadata.get("compressor"), *(metadata.get("filters") or [])]
        codecs = {str(c["id"]) for c in parts if c}
        names = attributes.get("_ARRAY_DIMENSIONS") or []
        told = metadata.get("fill_value") is not None
    return Facts(
        zarr_format=int(metadata["zarr_format"]),
        is_ome=multiscale is not None,
        levels=multiscale.paths if multiscale else (folder.name,),
        sharded="sharding_indexed" in codecs,
        codecs=frozenset(codecs),
        dtype=source.dtype,
        has_nan_fill=metadata.get("fill_value") == "NaN",
        is_told_nodata=told,
        has_dimensions=bool(names) and all(names),
        has_coordinates=len(names) > 1 and all((folder.parent / str(name)).is_dir() for name in names[-2:]),
        place=source.georeference,
    )


def _codec_names(codecs: list[Any]) -> set[str]:
    names = set()
    for codec in codecs:
        name = codec.get("name") if isinstance(codec, dict) else codec
        names.add(str(name))
        if isinstance(codec, dict):
            names |= _codec_names((codec.get("configuration") or {}).get("codecs") or [])
    return names


def _ome(facts: Facts, name: str) -> Reader:
    if not facts.is_ome:
        return Reader(name, False, "no OME-NGFF image, a plain array; ingest it")
    needs = "OME-NGFF 0.5 on Zarr 3, by ome-zarr 0.12 or newer" if facts.zarr_format == 3 else "OME-NGFF on Zarr 2"
    return Reader(name, True, f"{needs}; it does not look at CRS and nodata" if facts.place else needs)


def _neuroglancer(facts: Facts) -> Reader:
    name = "neuroglancer"
    if facts.dtype.name not in NEUROGLANCER_TYPES:
        return Reader(name, False, f"does not show {facts.dtype}; store float32, or integers of up to 32 bits")
    if strange := facts.codecs - NEUROGLANCER_CODECS:
        return Reader(name, False, f"does not know the codec {', '.join(sorted(strange))}; ingest it again")
    source = "zarr3" if facts.zarr_format == 3 else "zarr2"
    return Reader(name, True, f"as a {source}:// source over HTTP; it does not look at CRS and nodata")


def _gdal(facts: Facts, name: str, minor: int) -> Reader:
    """By GDAL's version 3.minor, the newest of its group."""
    if facts.zarr_format == 3 and minor <= 10:
        return Reader(name, False, "reads Zarr 2 alone; ingest with --ngff 0.4")
    if facts.sharded and minor <= 12:
        return Reader(name, False, "knows no shards; ingest with --no-shards")
    if strange := facts.codecs - GDAL_CODECS:
        return Reader(name, False, f"does not know the codec {', '.join(sorted(strange))}; ingest it again")
    if facts.zarr_format == 2 and facts.dtype == np.float16 and facts.has_nan_fill and minor > 10:
        return Reader(name, False, "refuses NaN as fill value of float16 in Zarr 2; ingest with --ngff 0.5")
    if facts.place is not None and (lack := _unplaced(facts, facts.place, minor)):
        return Reader(name, False, lack)
    remarks = ['opens ZARR:"OUT.zarr":/0']
    if facts.place is None:
        remarks.append("the image has no CRS, so it lies at row and column 0")
    elif facts.place.crs is None:
        remarks.append("the image has a transform, but no CRS")
    elif facts.zarr_format == 3 and minor <= 12 and len(facts.levels) > 1:
        remarks.append("coarser levels by themselves have the CRS, but no transform")
    if facts.zarr_format == 3 and not facts.is_told_nodata:
        remarks.append("takes the fill value, 0, for nodata, though the image has none")
    return Reader(name, True, "; ".join(remarks))


def _unplaced(facts: Facts, place: Georeference, minor: int) -> str | None:
    """Why GDAL cannot tell where the image lies; None where it can."""
    if place.transform is None:
        return "shows the pixels, but knows no control points in Zarr" if place.gcps else None
    if facts.zarr_format == 3 and minor >= 13:
        return None  # spatial:transform
    if not place.is_rectilinear:
        way_out = "warp the image first" + (
            "" if facts.zarr_format == 3 else ", or ingest with --ngff 0.5 for GDAL 3.13"
        )
        return f"shows the pixels, but knows no rotated transform in Zarr; {way_out}"
    return None if facts.has_coordinates else "shows the pixels, but finds no coordinates x and y; ingest it again"


def _rioxarray(facts: Facts) -> Reader:
    name = "rioxarray"
    if not facts.has_dimensions:
        return Reader(name, False, "xarray finds no names of dimensions; ingest it again")
    if not facts.is_ome:
        return Reader(name, True, f"as the array {facts.levels[0]} of xarray.open_zarr, called with the folder above")
    first, *others = facts.levels
    dropped = f", drop_variables={others}" if others else ""
    call = f'xarray.open_zarr(out, consolidated=False, decode_coords="all"{dropped})["{first}"]'
    if facts.place is None:
        return Reader(name, True, f"{call}; the image has no CRS")
    if facts.place.gcps and facts.place.transform is None:
        return Reader(name, True, f"{call}; control points by .rio.get_gcps()")
    return Reader(name, True, call)
