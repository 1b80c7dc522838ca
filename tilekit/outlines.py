"""DOOR shapely, pyproj: outlines of objects along the edges of their pixels, as geometry, GeoJSON and WKB.

An object's parts that touch at corners alone are polygons of their own, as valid geometry wants it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.errors import InputError
from tilekit.georeference import Affine, Georeference
from tilekit.geozarr import is_geographic
from tilekit.sources.vector import LONGITUDE_LATITUDE, trace_numbers, transform_points

Array = NDArray[Any]
Geometry = Any
KINDS = {"geojson": "objects.geojson", "geoparquet": "objects.geo.parquet", "qupath": "objects.qupath.geojson"}
"""Files below `tables`, by kind."""


def check_outlines(kind: str, place: Georeference | None, name: str) -> None:
    """Refuse what cannot be written: an unknown kind, missing libraries, GeoJSON of an image that lies nowhere."""
    if kind not in KINDS:
        raise InputError(f"polygons {kind}: choose one of {', '.join(KINDS)}")
    if missing := [library for library in ("rasterio", "shapely", "pyproj") if find_spec(library) is None]:
        raise InputError(f"polygons need {', '.join(missing)}; pip install 'tilekit[geo]'")
    if kind == "geojson" and (place is None or place.crs is None or place.transform is None):
        raise InputError(
            f"{name}: has no CRS and transform, and GeoJSON is in longitude and latitude; choose qupath or geoparquet, "
            "which are then in pixels"
        )


def trace(numbers: NDArray[np.int32], origin: tuple[int, int]) -> dict[int, Geometry]:
    """Outline (x, y in pixels of the image) of each number above 0 of a window (y, x) that starts at `origin`."""
    from shapely import Polygon

    found: dict[int, list[Geometry]] = {}
    y, x = origin
    for number, rings in trace_numbers(numbers):
        shell, *holes = ([(a + x, b + y) for a, b in ring] for ring in rings)
        found.setdefault(number, []).append(Polygon(shell, holes))
    return {number: merge(parts) for number, parts in found.items()}


def merge(parts: Sequence[Geometry]) -> Geometry:
    """One valid geometry of parts, which may share edges, without the points that lie on a straight edge."""
    import shapely

    if len(parts) == 1 and parts[0].is_valid:
        return parts[0]
    polygons = shapely.get_parts(shapely.union_all([shapely.make_valid(part) for part in parts]))
    corners = [
        shapely.Polygon(_corners(p.exterior), [_corners(ring) for ring in p.interiors])
        for p in polygons
        if p.geom_type == "Polygon"
    ]
    return corners[0] if len(corners) == 1 else shapely.MultiPolygon(corners)


def _corners(ring: Any) -> Array:
    points = np.asarray(ring.coords)[:-1]
    before, after = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0)
    straight = ((before == points) & (points == after)).any(1)
    kept: Array = points[~straight]
    return kept


def on_the_ground(geometry: Geometry, transform: Affine) -> Geometry:
    """A geometry of pixels in coordinates of the image's CRS, shells counterclockwise."""
    import shapely

    a, b, c, d, e, f = transform

    def place(points: Array) -> Array:
        x, y = points.T
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    return shapely.orient_polygons(shapely.transform(geometry, place))


def in_degrees(geometry: Geometry, crs: str, name: str) -> Geometry:
    """A geometry in coordinates of a CRS in longitude and latitude (WGS 84), as RFC 7946 has it."""
    import shapely

    def place(points: Array) -> Array:
        return transform_points(points, crs, LONGITUDE_LATITUDE, name)

    return shapely.orient_polygons(shapely.transform(geometry, place))


@lru_cache(maxsize=4)
def area_in(crs: str) -> Callable[[Geometry], float]:
    """Area in square meters of a geometry in a CRS: on its ellipsoid where coordinates are angles, else planar."""
    from pyproj import CRS

    known = CRS.from_wkt(crs)
    if not is_geographic(crs):
        factor = known.axis_info[0].unit_conversion_factor ** 2
        return lambda geometry: float(geometry.area * factor)
    geod = known.get_geod()
    assert geod is not None
    return lambda geometry: abs(float(geod.geometry_area_perimeter(geometry)[0]))


def to_wkb(geometry: Geometry) -> bytes:
    """Well-known binary, little-endian."""
    import shapely

    return bytes(shapely.to_wkb(geometry, byte_order=1))


def to_mapping(geometry: Geometry) -> dict[str, Any]:
    """A GeoJSON geometry."""
    import shapely

    return dict(json.loads(shapely.to_geojson(geometry)))


def geo_metadata(crs: str | None) -> str:
    """GeoParquet 1.1's metadata of a file with the column `geometry`; without a CRS the coordinates are pixels."""
    known: Any = None
    if crs is not None:
        from pyproj import CRS

        known = CRS.from_wkt(crs).to_json_dict()
    types = ["Polygon", "MultiPolygon"]
    column = {"encoding": "WKB", "geometry_types": types, "crs": known, "orientation": "counterclockwise"}
    return json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}})
