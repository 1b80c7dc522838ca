"""Areas of a vector file, in pixels: a pixel is inside where its center is. Rows and columns are absolute, so that
every box of an image shows the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, floor, isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.documents import parse_json
from tilekit.errors import InputError

Points = NDArray[np.float64]
Project = Callable[[Points], Points]
Feature = tuple[list[list[Points]], dict[str, Any]]
"""The rings of each polygon of a feature, and its properties."""


@dataclass(frozen=True, eq=False)
class Polygon:
    """One polygon with its holes."""

    edges: Points
    """(n, 4): y, x of both ends of each edge of all rings, in pixels; pixel (0, 0) covers 0 to 1."""
    low: tuple[float, float]
    high: tuple[float, float]
    """Corners (y, x) of the box around it."""

    @classmethod
    def of(cls, rings: list[Points]) -> Polygon:
        """From its rings (n, 2) of x, y: the outline and holes, in any direction."""
        ends = [np.concatenate([ring, np.roll(ring, -1, axis=0)], axis=1) for ring in rings]
        edges = np.concatenate(ends)[:, [1, 0, 3, 2]]
        points = edges[:, :2]
        low, high = points.min(0), points.max(0)
        return cls(edges, (float(low[0]), float(low[1])), (float(high[0]), float(high[1])))

    def draw(self, inside: NDArray[np.bool_], box: Box) -> None:
        """Set the pixels of a box whose centers are inside: to the right of an odd number of edges of their row."""
        if any(high <= a or low >= b for low, high, a, b in zip(self.low, self.high, box.start, box.stop, strict=True)):
            return
        (top, left), (bottom, right) = box.start, box.stop
        y0, x0, y1, x1 = self.edges.T
        first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), top, bottom).astype(np.int64)
        stop = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), top, bottom).astype(np.int64)
        edge = np.repeat(np.arange(len(first)), stop - first)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(stop - first) - (stop - first), stop - first) + first[edge]
        crossing = x0[edge] + (row + 0.5 - y0[edge]) * ((x1[edge] - x0[edge]) / (y1[edge] - y0[edge]))
        column = np.clip(np.ceil(crossing - 0.5), left, right).astype(np.int64)
        flips = np.zeros((bottom - top, right - left + 1), np.uint8)
        np.bitwise_xor.at(flips, (row - top, column - left), 1)
        inside |= np.bitwise_xor.accumulate(flips, axis=1)[:, :-1].astype(bool)

    def paint(self, out: NDArray[Any], box: Box, value: int) -> None:
        """Write a value on the pixels of a box (y, x) whose centers are inside."""
        around = Box((floor(self.low[0]), floor(self.low[1])), (ceil(self.high[0]), ceil(self.high[1])))
        part = around.intersect(box)
        inside = np.zeros(part.shape, bool)
        self.draw(inside, part)
        out[part.relative_to(box).slices][inside] = value


@dataclass(frozen=True, eq=False)
class Polygons:
    """The polygons of a file."""

    polygons: tuple[Polygon, ...]
    fingerprint: dict[str, Any]

    def meet(self, box: Box) -> bool:
        """True where the box around any polygon meets this one."""
        return any(
            all(low < b and high > a for low, high, a, b in zip(p.low, p.high, box.start, box.stop, strict=True))
            for p in self.polygons
        )

    def where(self, box: Box) -> NDArray[np.bool_]:
        """True inside any polygon, (y, x)."""
        inside = np.zeros(box.shape, bool)
        for polygon in self.polygons:
            polygon.draw(inside, box)
        return inside


def is_geojson(path: Path) -> bool:
    """True where a file begins as a JSON object does."""
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
    except OSError:
        return False


def read_geojson(path: Path, project: Callable[[str | None, Points], Project]) -> Polygons:
    """The polygons of a file, by `project(CRS that the file names, corners of all points)` into pixels (x, y)."""
    data = path.read_bytes()
    crs, features = parse_geojson(data, path)
    rings = [polygon for polygons, _ in features for polygon in polygons]
    to_pixels = project(crs, corners_of(rings, path))
    polygons = tuple(Polygon.of([to_pixels(ring) for ring in polygon]) for polygon in rings)
    return Polygons(polygons, {"path": str(path.absolute()), "sha256": hashlib.sha256(data).hexdigest()})


def parse_geojson(data: bytes, path: Path) -> tuple[str | None, list[Feature]]:
    """The CRS that a GeoJSON file names, if any, and its features; a list of features, as QuPath writes, is one too."""
    try:
        document = parse_json(data)
        parts = document if isinstance(document, list) else _features(document)
        features = [(_rings(part), dict(part.get("properties") or {})) for part in parts]
        crs = document.get("crs") if isinstance(document, dict) else None
        return None if crs is None else str(crs["properties"]["name"]), features
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        raise InputError(f"{path}: is no GeoJSON of polygons ({_reason(error)}); export polygons") from None


def corners_of(rings: list[list[Points]], path: Path) -> Points:
    """Lowest and highest x, y of all polygons; refuses a file without any."""
    if not rings:
        raise InputError(f"{path}: holds no polygon; export at least one")
    every = np.concatenate([ring for polygon in rings for ring in polygon])
    return np.stack([every.min(0), every.max(0)])


def _features(document: dict[str, Any]) -> list[Any]:
    return document["features"] if document["type"] == "FeatureCollection" else [document]


def _rings(part: dict[str, Any]) -> list[list[Points]]:
    """The rings of each polygon of a GeoJSON object."""
    rings = [[_points(ring) for ring in polygon] for polygon in _polygons(part)]
    return [polygon for polygon in rings if polygon]


def _polygons(document: dict[str, Any]) -> Iterator[list[Any]]:
    """The rings of each polygon of a GeoJSON object."""
    kind = document["type"]
    if kind == "Polygon":
        yield document["coordinates"]
    elif kind == "MultiPolygon":
        yield from document["coordinates"]
    elif kind == "Feature":
        if document["geometry"] is not None:
            yield from _polygons(document["geometry"])
    elif kind in ("FeatureCollection", "GeometryCollection"):
        for part in document["features" if kind == "FeatureCollection" else "geometries"]:
            yield from _polygons(part)
    else:
        raise ValueError(f"it holds a {kind}")


def _points(ring: Any) -> Points:
    points = np.array([(float(p[0]), float(p[1])) for p in ring], np.float64)
    if len(points) < 3 or not all(map(isfinite, points.ravel())):
        raise ValueError(f"a ring of {len(points)} points")
    return points


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:100]
