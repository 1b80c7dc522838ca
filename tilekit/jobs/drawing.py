"""Polygons of a vector file as labels on the grid of an image: classes by their names or numbers, or objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.copies import fetched
from tilekit.errors import InputError
from tilekit.geopackage import START as GEOPACKAGE
from tilekit.geopackage import read_geopackage
from tilekit.jobs.area import projection
from tilekit.jobs.outlines import class_names
from tilekit.place import as_path
from tilekit.polygons import Feature, Polygon, corners_of, parse_geojson
from tilekit.predictor import VOID
from tilekit.sources import Reference, Source
from tilekit.sources.source import file_fingerprint

Array = NDArray[Any]
UNKNOWN = -1
"""Where nothing is known: void."""


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """Polygons, each with the value of its feature; later ones lie on earlier ones."""

    polygons: tuple[Polygon, ...]
    values: tuple[int, ...]
    numbers: tuple[int, ...]
    """Which feature each belongs to, from 1."""
    outside: int
    """0 or UNKNOWN."""
    extents: NDArray[np.float64]
    """(n, 2, 2): lowest and highest y, x of each polygon."""

    def read(self, box: Box) -> Array:
        return self._drawn(box, self.values, self.outside)

    def objects(self, box: Box) -> Array:
        own = [number if value > 0 else 0 for value, number in zip(self.values, self.numbers, strict=True)]
        return self._drawn(box, own, 0)

    def _drawn(self, box: Box, values: Sequence[int], outside: int) -> Array:
        out = np.full(box.shape, outside, np.int32)
        for i in np.flatnonzero(self.meets(box)).tolist():
            self.polygons[i].paint(out, box, values[i])
        return out

    def meets(self, box: Box) -> Array:
        """True for each polygon whose extent meets the box."""
        low, high = self.extents[:, 0], self.extents[:, 1]
        return np.asarray(np.logical_and(low < box.stop, high > box.start).all(1))


@dataclass(frozen=True, slots=True)
class VectorFile:
    """The features of a file, and the CRS that it names."""

    path: Path
    crs: str | None
    features: list[Feature]

    def kinds(self, property_name: str | None) -> list[int | str | None]:
        """What each feature is: its property; where none is named QuPath's classification, or `class`; else None."""
        if property_name is None:
            return [_classification(properties) for _, properties in self.features]
        kinds = [properties.get(property_name) for _, properties in self.features]
        for number, kind in enumerate(kinds):
            if not isinstance(kind, int | str):
                known = ", ".join(self.features[number][1]) or "none"
                raise InputError(
                    f"{self.path}: feature {number + 1} has no {property_name} that is a number or name (but {known}); "
                    "give it one, or leave out class_property"
                )
        return kinds

    def shapes(
        self,
        image: Source,
        names: Sequence[str] | None,
        *,
        class_property: str | None = None,
        outside: int = 0,
    ) -> Shapes:
        """The polygons on the grid of an image. `names` are those of the classes; None where there are but ids."""
        rings = [polygon for polygons, _ in self.features for polygon in polygons]
        to_pixels = projection(self.path, image, self.crs, corners_of(rings, self.path))
        is_placed = image.georeference is not None and image.georeference.crs is not None
        scale = np.array(
            [1.0, 1.0] if is_placed else image.scale[::-1]
        )  # pixels of level 0, where nothing else is said
        polygons = [Polygon.of([to_pixels(ring) / scale for ring in polygon]) for polygon in rings]
        counts = [len(polygons) for polygons, _ in self.features]
        kinds = self.kinds(class_property)
        own = [self._value(kind, i + 1, names) for i, kind in enumerate(kinds)]
        values = [value for value, n in zip(own, counts, strict=True) for _ in range(n)]
        numbers = [i + 1 for i, n in enumerate(counts) for _ in range(n)]
        extents = np.array([(polygon.low, polygon.high) for polygon in polygons])
        shapes = Shapes(tuple(polygons), tuple(values), tuple(numbers), outside, extents)
        if not shapes.meets(Box.whole(image.shape[-2:])).any():
            raise InputError(
                f"{self.path}: none of its {len(polygons)} polygons lies in {image.name}; check coordinates and CRS"
            )
        return shapes

    def _value(self, kind: int | str | None, number: int, names: Sequence[str] | None) -> int:
        if isinstance(kind, str) and is_void(kind):
            return UNKNOWN
        if names is None:
            return number
        if kind is None:
            return 1
        known, told = [name.casefold() for name in names], str(kind).casefold()
        value = known.index(told) if told in known else int(told) if told.isdecimal() else len(names)
        if not 0 <= value < len(names):
            raise InputError(
                f"{self.path}: feature {number} is {kind!r}, the classes are {', '.join(names)}; name it there"
            )
        return value


def is_void(name: str) -> bool:
    """True for void, and what QuPath ignores: names that end in an asterisk."""
    return name.casefold() == "void" or name.endswith("*")


def _classification(properties: dict[str, Any]) -> int | str | None:
    found = properties.get("classification")
    if isinstance(found, dict) and "name" in found:
        return str(found["name"])
    own = properties.get("class")  # as tilekit writes it
    return own if isinstance(own, int | str) else None


def is_vector(path: Path) -> bool:
    """True for GeoJSON and GeoPackage, by the first bytes."""
    start = _start(path)
    return start.startswith(GEOPACKAGE) or start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def _start(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(64)


def open_vector(path: Path) -> VectorFile | None:
    """A file of polygons; None where it is none."""
    if not is_vector(path):
        return None
    if _start(path).startswith(GEOPACKAGE):
        return VectorFile(path, *read_geopackage(fetched(path)))
    return VectorFile(path, *parse_geojson(path.read_bytes(), path))


@dataclass(frozen=True, slots=True)
class Drawing:
    """A vector file, drawn on the grid of an image."""

    path: Path
    image: Source
    kind: str
    """ids or classes."""


@dataclass(frozen=True, slots=True)
class DrawingReader:
    """Ids of features, or classes with void as 255."""

    shapes: Shapes
    dtype: Any

    def read(self, box: Box) -> Array:
        return self.shapes.read(box).astype(self.dtype)


def draw_labels(path: Path, image: Source, kind: str) -> Source | None:
    """A vector file as a label map of an image's size; None where it is none. Later features lie on earlier ones."""
    if not is_vector(path):
        return None
    if kind == "boundaries":
        raise InputError(f"{path}: polygons of objects hold no membranes; score them by --ids or --classes")
    if long := [n for a, n in zip(image.axes, image.shape, strict=True) if a not in "cyx" and n > 1]:
        raise InputError(
            f"{path}: polygons do not say which of {image.name}'s {long[0]} planes they are of; give a label map"
        )
    return Reference(source=Drawing(path, image, kind), opener=open_drawing).open()


def open_drawing(reference: Reference) -> Source:
    """The door that `draw_labels` opens, here and on a worker."""
    drawing: Drawing = reference.source
    path, image = drawing.path, drawing.image
    vector = open_vector(path)
    if vector is None:
        raise InputError(f"{path}: is no GeoJSON and no GeoPackage any more; give it again")
    names = _names_for(vector, image) if drawing.kind == "classes" else None
    dtype: np.dtype[Any] = np.dtype(np.uint8 if drawing.kind == "classes" else np.int32)
    shape = (image.shape[-2], image.shape[-1])
    return Source(
        reference=reference,
        name=path.name,
        axes="yx",
        shape=shape,
        dtype=dtype,
        levels=(shape,),
        level=0,
        fingerprint=file_fingerprint(path),
        tiling="polygons",
        segment_bytes=0,
        pixel_size=image.pixel_size,
        georeference=image.georeference,
        reader=DrawingReader(vector.shapes(image, names), dtype),
    )


def _names_for(vector: VectorFile, image: Source) -> list[str]:
    """Names of the classes by number, as the store of the image has them; numbers alone elsewhere."""
    place = image.reference.source
    known = class_names(as_path(place)) or class_names(as_path(place).parent) if isinstance(place, str) else {}
    known.pop(VOID, None)
    texts = (k for k in vector.kinds(None) if isinstance(k, str) and not is_void(k) and not k.isdecimal())
    if not known and (text := next(texts, None)) is not None:
        raise InputError(
            f"{vector.path}: its polygons are called {text!r} and the like, and {image.name} does not say which class "
            "that is; score the store that holds the class map, or give them numbers in a property class"
        )
    return [known.get(i, str(i)) for i in range(max(known) + 1 if known else VOID)]
