"""The area of interest: where the user asked for a prediction, told by an image or by polygons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.georeference import Affine
from tilekit.place import as_path
from tilekit.polygons import Points, Project, is_geojson, read_geojson
from tilekit.sources import Source, open_image
from tilekit.sources.vector import LONGITUDE_LATITUDE, transform_points
from tilekit.tiling import Pair


class Area(Protocol):
    """Picklable; any box of it alone."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Facts that change when it does."""

    def where(self, box: Box) -> NDArray[np.bool_]:
        """True where to predict, in a box of the image (y, x)."""


@dataclass(frozen=True)
class ImageMask:
    """An image that is not 0 where to predict: pixel i of the picture is its pixel floor((i + 0.5) · over / under)."""

    image: Source
    over: Pair
    under: Pair
    fingerprint: Mapping[str, Any]

    @classmethod
    def of(cls, image: Source, shape: Pair) -> ImageMask:
        """A mask that covers an image of this shape."""
        own = (image.shape[-2], image.shape[-1])
        return cls(image, own, shape, image.fingerprint)

    def where(self, box: Box) -> NDArray[np.bool_]:
        index = [
            np.minimum((2 * np.arange(a, b) + 1) * m // (2 * n), side - 1)
            for a, b, m, n, side in zip(box.start, box.stop, self.over, self.under, self.image.shape[-2:], strict=True)
        ]
        there = Box(tuple(int(i[0]) for i in index), tuple(int(i[-1]) + 1 for i in index))
        part = self.image.read(there).reshape(-1, *there.shape)[0] != 0
        rows, columns = (i - first for i, first in zip(index, there.start, strict=True))
        return np.asarray(part[rows[:, None], columns])


def open_area(mask: str | None, source: Source) -> Area | None:
    """The area that a file tells of an image; None where there is none, or it is to be found ("auto")."""
    if mask is None or mask == "auto":
        return None
    path = as_path(mask)
    if is_geojson(path):
        areas = read_geojson(path, lambda crs, corners: projection(path, source, crs, corners))
        if not areas.meet(Box.whole(source.shape[-2:])):
            raise InputError(
                f"{path}: none of its {len(areas.polygons)} areas lies in {source.name}; check coordinates and CRS"
            )
        return areas
    opened = open_image(mask, as_labels=True)
    shape, own = (source.shape[-2], source.shape[-1]), (opened.shape[-2], opened.shape[-1])
    if not _covers(own, shape):
        raise InputError(
            f"{mask}: {own} pixels, but the image has {shape}; give a mask of its size, or of a coarser level"
        )
    return ImageMask.of(opened, shape)


def _covers(own: Pair, shape: Pair) -> bool:
    """True where both sides are the image's divided by one number of at least 1, rounded up or down."""
    (my, mx), (ny, nx) = own, shape
    return my <= ny and mx <= nx and (abs(my * nx - mx * ny) < max(nx, ny) if own != shape else True)


def projection(path: Path, source: Source, crs: str | None, corners: Points) -> Project:
    """From the coordinates (x, y) of a file to pixels: by the CRS that it names, by longitude and latitude where they
    can be those, else by the image's own; an image without CRS is told of in pixels."""
    place = source.georeference
    if place is None or place.crs is None:
        return lambda points: points
    if place.transform is None:
        raise InputError(f"{path}: {source.name} has no transform that says where its pixels lie; give a mask image")
    is_lonlat = bool((np.abs(corners) <= (180.0, 90.0)).all())
    file_crs = crs or (LONGITUDE_LATITUDE if is_lonlat else place.crs)
    image_crs, transform = place.crs, place.transform

    def to_pixels(points: Points) -> Points:
        moved = points if file_crs == image_crs else transform_points(points, file_crs, image_crs, str(path))
        return _unproject(moved, transform)

    return to_pixels


def _unproject(points: Points, t: Affine) -> Points:
    """Columns and rows of points of the ground."""
    a, b, c, d, e, f = t
    x, y = points[:, 0] - c, points[:, 1] - f
    return np.stack([e * x - b * y, a * y - d * x], axis=1) / (a * e - b * d)
