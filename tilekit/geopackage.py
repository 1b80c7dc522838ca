"""Polygons of a GeoPackage (OGC 12-128r19): an SQLite file whose geometries are well-known binary after a header."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from tilekit.errors import InputError
from tilekit.polygons import Feature, Points

START = b"SQLite format 3\0"
ENVELOPE_BYTES = (0, 32, 48, 48, 64)
STEP = 10_000
"""Instructions of SQLite between two looks at how many there were."""
POLYGON, COLLECTIONS = 3, (6, 7)
"""Types of geometry: a polygon, and a multi-polygon or collection of geometries."""


def read_geopackage(path: Path) -> tuple[str | None, list[Feature]]:
    """The CRS of the one layer of features of a file, if it has one, and its features in the order of their ids."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as file:
            file.row_factory = sqlite3.Row
            _bound(file, path.stat().st_size)
            return _read_layer(file, path)
    except (sqlite3.Error, struct.error, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: is no GeoPackage of polygons ({reason}); export polygons") from None


def _bound(file: sqlite3.Connection, n_bytes: int) -> None:
    """Let the file's own views and triggers, which are programs, take no more than its length would explain."""
    file.execute("PRAGMA trusted_schema = OFF")
    file.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(n_bytes, 1 << 20))
    steps = iter(range(100 + n_bytes // 100))
    file.set_progress_handler(lambda: next(steps, None) is None, STEP)


def _read_layer(file: sqlite3.Connection, path: Path) -> tuple[str | None, list[Feature]]:
    layers = file.execute("SELECT table_name, column_name, srs_id FROM gpkg_geometry_columns").fetchall()
    if len(layers) != 1:
        names = ", ".join(layer["table_name"] for layer in layers)
        raise InputError(f"{path}: has {len(layers)} layers of features ({names}), must have one; export one alone")
    table, column, srs = layers[0]
    rows = file.execute(f"SELECT * FROM {_quoted(table)} ORDER BY rowid").fetchall()
    features = []
    for row in rows:
        if row[column] is not None:
            properties = {key: row[key] for key in row.keys() if key != column}  # noqa: SIM118 (a Row is no mapping)
            features.append((_geometry(row[column]), properties))
    return _crs(file, srs), features


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _crs(file: sqlite3.Connection, srs: int) -> str | None:
    """As rasterio takes it; None for the undefined ones, -1 and 0."""
    found = file.execute(
        "SELECT organization, organization_coordsys_id, definition FROM gpkg_spatial_ref_sys WHERE srs_id = ?", (srs,)
    ).fetchone()
    if srs in (-1, 0) or found is None:
        return None
    organization, number, definition = found
    return f"EPSG:{number}" if str(organization).upper() == "EPSG" else str(definition)


def _geometry(blob: bytes) -> list[list[Points]]:
    """The rings of each polygon of a geometry."""
    if blob[:2] != b"GP":
        raise ValueError("a geometry without its header")
    polygons: list[list[Points]] = []
    _parse(blob, 8 + ENVELOPE_BYTES[(blob[3] >> 1) & 7], polygons)
    return polygons


def _parse(blob: bytes, at: int, polygons: list[list[Points]]) -> int:
    """Add the polygons of the well-known binary at a place, and return where it ends."""
    order = "<" if blob[at] else ">"

    def numbers(form: str) -> tuple[Any, ...]:
        nonlocal at
        values = struct.unpack_from(order + form, blob, at)
        at += struct.calcsize(order + form)
        return values

    at += 1
    (code,) = numbers("I")
    kind, n_axes = code % 1000, 2 + (code // 1000 in (1, 2)) + 2 * (code // 1000 == 3)
    (n,) = numbers("I")
    if kind == POLYGON and code < 4000:
        rings = []
        for _ in range(n):
            (n_points,) = numbers("I")
            points = np.array(numbers(f"{n_points * n_axes}d"), np.float64).reshape(n_points, n_axes)[:, :2]
            if n_points < 3 or not np.isfinite(points).all():
                raise ValueError(f"a ring of {n_points} points")
            rings.append(points)
        if rings:
            polygons.append(rings)
    elif kind in COLLECTIONS and code < 4000:
        for _ in range(n):
            at = _parse(blob, at, polygons)
    else:
        raise ValueError(f"it holds geometries of type {code}")
    return at
