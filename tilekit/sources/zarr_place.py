"""Where the image of a Zarr store lies on the ground, in whichever dialect the store says it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilekit.errors import InputError
from tilekit.georeference import Affine, Georeference
from tilekit.geozarr import parse_georeference, transform_of_centers
from tilekit.place import is_url
from tilekit.sources.zarr_documents import attributes_of, first_line, is_array, open_array

if TYPE_CHECKING:
    import zarr


def find_georeference(
    places: list[Path], arrays: list[zarr.Array[Any]], level: int, scale: tuple[float, float], group: dict[str, Any]
) -> Georeference | None:
    """That of a level, of the levels at `places`; where it has none of its own, from that of level 0."""
    own = _parse_place(places[level], arrays[level], group)
    if level == 0 or (own is not None and (own.transform or own.gcps)):
        return own
    first = _parse_place(places[0], arrays[0], group)
    return first.at_scale(scale) if first else own


def _parse_place(place: Path, pixels: zarr.Array[Any], group: dict[str, Any]) -> Georeference | None:
    attributes = attributes_of(place)
    named = attributes.get("grid_mapping")
    beside = place.parent / named if isinstance(named, str) and _is_name(named) else None
    mapping = attributes_of(beside) if beside is not None and is_array(beside) else {}
    return parse_georeference(attributes, group, mapping, _transform_of_coordinates(place, pixels))


def _is_name(text: str) -> bool:
    """True for what may be a folder beside others, and leads nowhere else."""
    return text.isprintable() and 0 < len(text) <= 80 and "/" not in text and text not in (".", "..")


def _transform_of_coordinates(place: Path, pixels: zarr.Array[Any]) -> Affine | None:
    """The transform of the pixels' centers, in arrays named like the last two dimensions.

    They must be places on the ground, not numbers of pixels: the array names a CRS, or they have CF's standard names.
    """
    folder, attributes = place.parent, attributes_of(place)
    named: Any = getattr(pixels.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS")
    names = [str(name) for name in named][-2:] if isinstance(named, list | tuple) else []
    if len(names) < 2 or not all(_is_name(name) and is_array(folder / name) for name in names):
        return None
    y, x = (open_array(folder / name) for name in names)
    if (y.shape, x.shape) != (pixels.shape[-2:-1], pixels.shape[-1:]):
        return None
    if not {"_CRS", "grid_mapping"} & set(attributes) and not _have_standard_names(*(folder / n for n in names)):
        return None
    return transform_of_centers(_numbers(folder / names[0], y), _numbers(folder / names[1], x))


def _numbers(path: Path, array: zarr.Array[Any]) -> np.ndarray[Any, Any]:
    """All of a small array."""
    try:
        return np.asarray(array[:])
    except Exception as error:
        if isinstance(error, OSError) and is_url(path):
            raise  # its server is away
        raise InputError(f"{path}: cannot be decoded ({first_line(error)}); copy or write the store again") from None


def _have_standard_names(y: Path, x: Path) -> bool:
    return (attributes_of(y).get("standard_name"), attributes_of(x).get("standard_name")) in (
        ("projection_y_coordinate", "projection_x_coordinate"),
        ("latitude", "longitude"),
    )
