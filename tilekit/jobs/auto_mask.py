"""The area of interest found by itself, on a coarse level: tissue, what fluoresces, or where a map shows anything."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.jobs.area import ImageMask
from tilekit.jobs.input import Input, read_channels
from tilekit.sources import Source, open_image
from tilekit.store import create_array, write_region
from tilekit.tiling import CHUNK, Level, Pair

AUTO_MASK = "masks/auto"
SIDE = 1000
"""Pixels of the longer side that the level has at least, where the image has them."""
BINS = 256
COLOR_NAMES = {"red", "green", "blue", "r", "g", "b", "alpha"}
Mask = NDArray[np.bool_]


def store_auto_mask(image: Input, out: Path, version: str) -> ImageMask:
    """Find the area and keep it in the output, as a uint8 image of the level on which it was found."""
    coarse = _coarse_level(image.source)
    found = find_area(replace(image, source=coarse)).astype(np.uint8)
    level = Level((found.shape[0], found.shape[1]), CHUNK, CHUNK)
    digest = hashlib.sha256(found.tobytes()).hexdigest()
    create_array(out / AUTO_MASK, level, (), "yx", np.dtype(np.uint8), version)
    write_region(out, AUTO_MASK, level, version, Box.whole(found.shape).slices, found)
    return stored_auto_mask(out, image.source, {"auto": coarse.level, "sha256": digest})


def stored_auto_mask(out: Path, source: Source, fingerprint: dict[str, Any]) -> ImageMask:
    """The area kept in an output, over the image whose pixels are classified."""
    scale = replace(source.reference, level=fingerprint["auto"]).open().scale
    factors = [max(round(s / own), 1) for s, own in zip(scale, source.scale, strict=True)]
    under: Pair = (factors[0], factors[1])
    return ImageMask(open_image(out / AUTO_MASK), (1, 1), under, fingerprint)


def _coarse_level(source: Source) -> Source:
    """The coarsest level that has enough pixels, else the image."""
    fitting = [k for k, shape in enumerate(source.levels) if k >= source.level and max(shape[-2:]) >= SIDE]
    best = max(fitting, key=lambda k: -max(source.levels[k][-2:]), default=source.level)
    return source if best == source.level else replace(source.reference, level=best).open()


def find_area(image: Input) -> Mask:
    """Where the image `image.source` shows something of interest on any of its planes, (y, x).

    Of a georeferenced image all that is valid; of a color image what is saturated, else what is bright, on any channel:
    above the threshold of Otsu.
    """
    source = image.source
    whole = Box.whole(source.shape[-2:])
    planes = list(product(*(range(n) for a, n in zip(source.axes[:-2], source.shape, strict=False) if a != "c")))
    valid = np.zeros(whole.shape, bool)
    for plane in planes:
        seen = image.valid(plane, whole)
        valid |= True if seen is None else seen
    if source.georeference is not None and source.georeference.crs is not None:
        return valid
    n = source.shape[source.axes.index("c")] if "c" in source.axes else 1
    colors = [c for c in range(n) if c != source.alpha]
    if _is_color(source, colors):
        features = [_brightest(_saturation(read_channels(source, colors, p, whole)) for p in planes)]
    else:
        features = [_brightest(read_channels(source, (c,), p, whole)[0] for p in planes) for c in colors]
    found = np.zeros(whole.shape, bool)
    for feature in features:
        known = valid & np.isfinite(feature)
        if known.any():
            found |= known & (feature > otsu(feature[known]))
    return found if found.any() else valid


def _is_color(source: Source, channels: list[int]) -> bool:
    names = {name.casefold() for name in source.channel_names or () if not name.startswith("channel ")}
    return len(channels) == 3 and source.dtype == np.uint8 and names <= COLOR_NAMES


def _saturation(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Of red, green and blue (c, y, x): 0 for gray, 1 for a pure color."""
    high, low = pixels.max(0).astype(np.float64), pixels.min(0)
    saturation: NDArray[np.float64] = (high - low) / np.maximum(high, 1)
    return saturation


def _brightest(planes: Any) -> NDArray[np.float64]:
    found: NDArray[np.float64] | None = None
    for plane in planes:
        found = plane.astype(np.float64) if found is None else np.fmax(found, plane)
    assert found is not None
    return found


def otsu(values: NDArray[np.float64]) -> float:
    """The threshold that divides values into two classes of the largest variance between them, from 256 bins.

    >>> 10 <= otsu(np.array([10.0, 10, 11, 200, 201])) < 200
    True
    """
    counts, edges = np.histogram(values, BINS)
    centers = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * centers)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[1:-1][int(np.argmax(np.nan_to_num(between)))])
