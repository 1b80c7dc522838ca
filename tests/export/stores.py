"""Stores of a known class map: an image of which a predictor takes every pixel for its class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from scipy import ndimage

import tilekit
from tests.oracles import PlainFilter
from tilekit.georeference import Georeference
from tilekit.sources import open_image

Array = NDArray[Any]
NAMES = ["background", "cell", "Tumor"]
UTM = (10.0, 0.0, 500_000.0, 0.0, -10.0, 6_000_000.0)
DEGREES = (1e-4, 0.0, 15.0, 0.0, -1e-4, 45.0)
PLACES = {"EPSG:32633": UTM, "EPSG:4326": DEGREES, "rotated": (9.0, 1.0, 500_000.0, 1.0, -9.0, 6_000_000.0)}


@dataclass(frozen=True)
class Copy(PlainFilter):
    """Pixels as classes."""

    stride: tuple[int, int] = (1, 1)
    n_classes: int = 3

    @property
    def class_names(self) -> list[str]:
        return NAMES

    def predict(self, x: Array, probabilities: bool = False) -> Any:
        classes = x[:, 0, 1:-1, 1:-1].astype(np.uint8)
        likely = (classes[:, None] == np.arange(3).reshape(1, -1, 1, 1)).astype(np.float32) if probabilities else None
        return classes, likely


def blobs(shape: tuple[int, ...], seed: int = 0) -> Array:
    """Smooth shapes of two classes with holes in them, and a corner of void."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), (0,) * (len(shape) - 2) + (3, 3))
    classes = np.digitize(noise, np.quantile(noise, [0.6, 0.85])).astype(np.uint8)
    classes[..., -20:, -30:] = 255
    return classes


def make_store(
    out: Path, classes: Array, place: str | None = None, *, ngff: str = "0.5", objects: bool = True, **options: Any
) -> Array:
    """Write image, class map and, asked for, objects; the ids."""
    axes = "zyx" if classes.ndim == 3 else None
    image = open_image(classes, nodata=255, pixel_size=(0.5, 0.25), axes=axes)
    if place:
        crs = CRS.from_user_input("EPSG:32633" if place == "rotated" else place).to_wkt(version="WKT2_2019")
        image = replace(image, georeference=Georeference(str(crs), PLACES[place]))
    tilekit.ingest(image, out, ngff=ngff, block=1024)
    tilekit.predict(out, Copy(), out, block=1024, tile=512, **options)
    if not objects:
        return np.zeros(0)
    tilekit.label_objects(out / "labels/classes", out, block=256)
    ids = open_image(out / "labels/objects", as_labels=True)
    return ids.read([(0, n) for n in ids.shape])
