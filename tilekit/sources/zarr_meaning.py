"""What the pixels of a Zarr array mean, beyond OME-NGFF: nodata, mask, scale of values, place on the ground."""

from __future__ import annotations

import struct
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tilekit.sources.ngff import Multiscale


@dataclass(frozen=True)
class Meaning:
    """What tilekit notes in the root attribute `tilekit`, or other software in the array's attributes; all channels."""

    nodata: float | int | None
    mask: str | None
    """Path of the group of the mask, below that of the image."""
    channel_names: tuple[str, ...] | None
    wavelengths: tuple[float | None, ...] | None
    value_scale: tuple[tuple[float, float], ...] | None
    color_table: tuple[tuple[int, int, int, int], ...] | None
    alpha: int | None


def parse_meaning(
    array: Mapping[str, Any], group: Mapping[str, Any], multiscale: Multiscale | None, n_channels: int
) -> Meaning:
    """From the attributes of an array and of its group; what fits neither its channels nor its form is left out."""
    own = _mapping(group.get("tilekit"))
    image = _mapping(own.get("image"))
    names, waves = (multiscale.channel_names, multiscale.wavelengths) if multiscale else (None, None)
    if "image" in own:  # OME-NGFF's channels need names, also where the source had none
        names = _per_channel(image.get("channel_names"), n_channels)
    alpha, mask = image.get("alpha"), image.get("mask")
    table = _rows(image.get("color_table"), 4)
    return Meaning(
        nodata=parse_number(own["nodata"]) if "nodata" in own else parse_fill(array.get("_FillValue")),
        mask=mask if isinstance(mask, str) and mask.startswith("labels/") and ".." not in mask else None,
        channel_names=names and tuple(map(str, names)),
        wavelengths=_per_channel(_wavelengths(image.get("wavelengths")) or waves, n_channels),
        value_scale=_per_channel(_rows(image.get("value_scale"), 2), n_channels),
        color_table=None if table is None else tuple((int(r), int(g), int(b), int(a)) for r, g, b, a in table),
        alpha=alpha if isinstance(alpha, int) and 0 <= alpha < n_channels else None,
    )


def _rows(values: Any, n: int) -> tuple[tuple[float, ...], ...] | None:
    """Rows of n numbers each; None for all else."""
    try:
        rows = tuple(tuple(float(number) for number in row) for row in values)
    except (TypeError, ValueError):
        return None
    return rows if rows and all(len(row) == n for row in rows) else None


def _wavelengths(values: Any) -> tuple[float | None, ...] | None:
    if not isinstance(values, list):
        return None
    return tuple(float(w) if isinstance(w, int | float) else None for w in values)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _per_channel(values: Any, n_channels: int) -> tuple[Any, ...] | None:
    return tuple(values) if isinstance(values, list | tuple) and len(values) == n_channels else None


def parse_number(value: Any) -> float | int | None:
    """A number as JSON has it, NaN and infinities by name.

    >>> parse_number("nan"), parse_number(7), parse_number(None)
    (nan, 7, None)
    """
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) else None


def parse_fill(value: Any) -> float | int | None:
    """`_FillValue` as xarray writes it: a number, or a float of 8 bytes in base64.

    >>> parse_fill("AAAAAICHw8A="), parse_fill(255)
    (-9999.0, 255)
    """
    if isinstance(value, str):
        try:
            return float(struct.unpack("<d", b64decode(value, validate=True))[0])
        except (ValueError, struct.error):
            pass
    return parse_number(value)
