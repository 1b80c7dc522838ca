"""The truth of one plane of an image, box by box: a label map in a file, or polygons drawn on the image's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flows.training.meaning import UNKNOWN, Meaning
from flows.training.sections import Data
from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.geopackage import START as GEOPACKAGE
from tilekit.geopackage import read_geopackage
from tilekit.jobs.area import projection
from tilekit.jobs.input import read_channels
from tilekit.jobs.pairs import labels_in
from tilekit.polygons import Feature, Polygon, corners_of, parse_geojson
from tilekit.sources import Source, open_image

Array = NDArray[Any]


class Truth(Protocol):
    """Ids or classes from 0, UNKNOWN where nothing is known."""

    def read(self, box: Box) -> Array:
        """Those of a box (y, x) inside the image, signed integers."""

    def objects(self, box: Box) -> Array | None:
        """Ids of the objects there, 0 for none; None where they are to be labelled first."""


@dataclass(frozen=True, slots=True)
class LabelMap:
    """A plane of a file."""

    source: Source
    plane: tuple[int, ...]
    channel: int
    meaning: Meaning

    def read(self, box: Box) -> Array:
        return self.meaning.read(read_channels(self.source, (self.channel,), self.plane, box)[0], self.source.name)

    def objects(self, box: Box) -> Array | None:
        return np.maximum(self.read(box), 0) if self.meaning.kind == "ids" else None


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
        """What each feature is: its property, or QuPath's classification where none is named; None without one."""
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

    def shapes(self, image: Source, data: Data, names: Sequence[str] | None) -> Shapes:
        """The polygons on the grid of an image. `names` are those of the classes; None where there are but ids."""
        rings = [polygon for polygons, _ in self.features for polygon in polygons]
        to_pixels = projection(self.path, image, self.crs, corners_of(rings, self.path))
        is_placed = image.georeference is not None and image.georeference.crs is not None
        scale = np.array(
            [1.0, 1.0] if is_placed else image.scale[::-1]
        )  # pixels of level 0, where nothing else is said
        polygons = [Polygon.of([to_pixels(ring) / scale for ring in polygon]) for polygon in rings]
        counts = [len(polygons) for polygons, _ in self.features]
        kinds = self.kinds(data.class_property)
        own = [self._value(kind, i + 1, names) for i, kind in enumerate(kinds)]
        values = [value for value, n in zip(own, counts, strict=True) for _ in range(n)]
        numbers = [i + 1 for i, n in enumerate(counts) for _ in range(n)]
        outside = 0 if data.outside == "background" else UNKNOWN
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


def _classification(properties: dict[str, Any]) -> str | None:
    found = properties.get("classification")
    return str(found["name"]) if isinstance(found, dict) and "name" in found else None


def open_vector(path: Path) -> VectorFile | None:
    """A file of polygons; None where it is none by its first bytes."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(GEOPACKAGE):
        return VectorFile(path, *read_geopackage(path))
    if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] not in (b"{", b"["):
        return None
    return VectorFile(path, *parse_geojson(path.read_bytes(), path))


def open_labels(path: Path, image: Source, kind: str) -> Source:
    """A label map with as many pixels as the image, on whichever of its levels; one of integers, and of one channel."""
    place = labels_in(path, kind) or path
    source = open_image(place, as_labels=True)
    if source.dtype.kind == "f":
        what = "object ids" if kind == "ids" else "classes"
        raise InputError(f"{place}: the truth is {source.dtype}, {what} are integers; store them as such")
    fitting = [k for k, shape in enumerate(source.levels) if shape[-2:] == image.shape[-2:]]
    if not fitting:
        raise InputError(
            f"{place}: the truth is {source.shape[-2]} x {source.shape[-1]} pixels, its image {image.name} "
            f"{image.shape[-2]} x {image.shape[-1]}; give maps of one size"
        )
    return source if fitting[0] == 0 else open_image(place, as_labels=True, level=fitting[0])


def label_channel(source: Source) -> int:
    """The one channel of a label map, beside alpha."""
    n = source.shape[source.axes.index("c")] if "c" in source.axes else 1
    channels = [c for c in range(n) if c != source.alpha]
    if len(channels) != 1:
        raise InputError(f"{source.name}: has {n} channels, a truth has one; store the labels as one channel")
    return channels[0]


@dataclass(frozen=True, slots=True)
class MeantReader:
    """Reads a label map as classes that `label_objects` takes: uint8, without an axis of channels."""

    source: Source
    meaning: Meaning
    channel: int
    axis: int
    """Of the channels; -1 where there is none."""

    def read(self, box: Box) -> Array:
        start, stop = list(box.start), list(box.stop)
        if self.axis >= 0:
            start.insert(self.axis, self.channel)
            stop.insert(self.axis, self.channel + 1)
        pixels = self.source.read(Box(tuple(start), tuple(stop))).reshape(box.shape)
        return self.meaning.read(pixels, self.source.name).astype(np.uint8)  # UNKNOWN becomes 255


def as_classes(source: Source, channel: int, meaning: Meaning) -> Source:
    """A label map as a map of classes, all planes of it; not to be pickled."""
    axis = source.axes.find("c")
    return replace(
        source,
        axes=source.axes.replace("c", ""),
        shape=tuple(n for i, n in enumerate(source.shape) if i != axis),
        dtype=np.dtype(np.uint8),
        levels=(tuple(n for i, n in enumerate(source.shape) if i != axis),),
        level=0,
        nodata=None,
        alpha=None,
        channel_names=None,
        fingerprint={**source.fingerprint, "channel": channel, "meaning": repr(meaning)},
        reader=MeantReader(source, meaning, channel, axis),
    )
