"""Pictures of a store for its report: the whole, and three zooms, read from coarse levels and small boxes alone."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from flows.looking.shown import Channel, Labels, read_plane
from flows.overlay import RGB, outline, overlay
from flows.score_pictures import colored
from tilekit.box import Box
from tilekit.sources import Source

SIDE = 720
"""Side in pixels of a picture, at most; that of the finest zoom."""
FINEST = 360
"""Side in pixels of the image of the finest zoom."""
ZOOMS = 3
CELLS = 16
"""Places along each axis among which the zooms choose."""
OPACITY = 0.35
QUALITY = 88


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the page."""

    title: str
    box: Box
    """What it shows, (y, x) in pixels of the image."""
    panels: list[tuple[str, str]]
    """Name and data URI of each."""


def draw_store(image: Source | None, channels: Sequence[Channel], labels: Sequence[Labels]) -> list[Picture]:
    """The whole, then the zooms, the finest last: image, and laid over it each label map."""
    shape = (image or labels[0].source).shape[-2:]
    whole = Box.whole(shape)
    base = _base(image, channels, whole, shape, labels)
    maps = [(one, _labels_over(one.source, whole, shape, base.shape[:2])) for one in labels]
    zooms = _zooms(base, maps, shape)
    marked = _mark(base, zooms, shape)
    laid = [(one.name, _mark(lay(base, one, pixels), zooms, shape)) for one, pixels in maps]
    pictures = [_picture("Overview", whole, [("image", marked), *laid] if image else laid)]
    for number, box in enumerate(zooms, start=1):
        base = _base(image, channels, box, shape, labels)
        laid = [(one.name, lay(base, one, _labels_over(one.source, box, shape, base.shape[:2]))) for one in labels]
        pictures.append(_picture(f"Zoom {number}", box, [("image", base), *laid] if image else laid))
    return pictures


def lay(rgb: RGB, labels: Labels, pixels: NDArray[np.int64]) -> RGB:
    """Labels (y, x) over a picture (y, x, 3): classes in their colors, ids in colors that differ."""
    if labels.names and labels.source.dtype == np.uint8:
        return overlay(rgb, pixels.astype(np.uint8), colors=labels.colors, opacity=OPACITY)
    edge = np.zeros(pixels.shape, np.bool)
    for axis in (0, 1):
        edge |= pixels != np.roll(pixels, 1, axis)
    alpha = np.where(pixels > 0, np.where(edge, 0.9, OPACITY), 0.0)[:, :, None]
    mixed: RGB = (rgb * (1 - alpha) + colored(pixels.astype(np.uint64)) * alpha).round().astype(np.uint8)
    return mixed


def composite(pixels: NDArray[np.generic], channels: Sequence[Channel]) -> RGB:
    """Pixels (c, y, x) with the contrast and color of each channel that is shown, added up; NaN is black."""
    total = np.zeros((*pixels.shape[1:], 3), np.float32)
    for channel in channels:
        if channel.shown:
            scaled = (pixels[channel.number].astype(np.float32) - channel.low) / (channel.high - channel.low)
            total += np.nan_to_num(scaled.clip(0, 1))[:, :, None] * np.array(channel.color, np.float32)
    rgb: RGB = total.clip(0, 255).round().astype(np.uint8)
    return rgb


def _base(
    image: Source | None, channels: Sequence[Channel], box: Box, shape: Sequence[int], labels: Sequence[Labels]
) -> RGB:
    """The image, or black where there is none."""
    if image is not None:
        return _enlarged(composite(_read(image, box, shape), channels))
    return _enlarged(np.zeros((*_read(labels[0].source, box, shape).shape[1:], 3), np.uint8))


def _enlarged(rgb: RGB) -> RGB:
    """With pixels as squares, where the picture would be small."""
    n = max(SIDE // max(rgb.shape[:2]), 1)
    return rgb.repeat(n, 0).repeat(n, 1)


def _read(source: Source, box: Box, shape: Sequence[int]) -> NDArray[np.generic]:
    """A box, given in pixels of an image of this shape, at the coarsest level that still fills a picture."""

    def at(level: int) -> Box:
        factors = [n / m for n, m in zip(source.levels[level][-2:], shape, strict=True)]
        stops = zip(box.start, box.stop, factors, source.levels[level][-2:], strict=True)
        sides = [(min(floor(a * f), n - 1), min(max(ceil(b * f), floor(a * f) + 1), n)) for a, b, f, n in stops]
        return Box((sides[0][0], sides[1][0]), (sides[0][1], sides[1][1]))

    fine = [k for k in range(len(source.levels)) if max(at(k).shape) >= min(SIDE, max(box.shape))]
    level = fine[-1] if fine else 0
    y, x = at(level).slices
    return read_plane(source, level, box=(y, x), side=SIDE)


def _labels_over(source: Source, box: Box, shape: Sequence[int], wanted: Sequence[int]) -> NDArray[np.int64]:
    """Labels (y, x) of a box, put on a picture of the wanted height and width by the nearest pixel."""
    pixels = _read(source, box, shape)[0].astype(np.int64)
    rows, columns = ((np.arange(n) * m) // n for n, m in zip(wanted, pixels.shape, strict=True))
    nearest: NDArray[np.int64] = pixels[np.ix_(rows, columns)]
    return nearest


def _zooms(base: RGB, maps: Sequence[tuple[Labels, NDArray[np.int64]]], shape: Sequence[int]) -> list[Box]:
    """Boxes around one place, each a like part of the one before: where borders are, else where the image varies."""
    if min(shape) <= FINEST:
        return []
    edges = sum((_edges(pixels).astype(np.float64) for _, pixels in maps), np.zeros(base.shape[:2]))
    detail = edges if edges.any() else np.abs(np.diff(base.mean(2), axis=0, prepend=0))
    height, width = detail.shape
    rows, columns = (np.linspace(0, n, CELLS + 1).astype(int) for n in (height, width))
    sums = np.add.reduceat(np.add.reduceat(detail, rows[:-1], 0), columns[:-1], 1)
    row, column = np.unravel_index(int(sums.argmax()), sums.shape)
    middle = [(int(row) + 0.5) / CELLS * shape[0], (int(column) + 0.5) / CELLS * shape[1]]
    sides = [round(FINEST * (min(shape) / FINEST) ** (k / ZOOMS)) for k in range(ZOOMS)]
    boxes = []
    for side in reversed(sides):
        start = [min(max(round(m - side / 2), 0), n - side) for m, n in zip(middle, shape, strict=True)]
        boxes.append(Box((start[0], start[1]), (start[0] + side, start[1] + side)))
    return boxes


def _edges(pixels: NDArray[np.int64]) -> NDArray[np.bool]:
    edges: NDArray[np.bool] = outline((pixels % 251).astype(np.uint8))
    return edges


def _mark(rgb: RGB, boxes: Sequence[Box], shape: Sequence[int]) -> RGB:
    """A copy with white frames, lined in black, around boxes of the image."""
    marked = rgb.copy()
    for box in boxes:
        y0, x0 = (round(a * m / n) for a, n, m in zip(box.start, shape, rgb.shape, strict=False))
        y1, x1 = (round(a * m / n) for a, n, m in zip(box.stop, shape, rgb.shape, strict=False))
        for pad, color in ((2, 0), (1, 255)):
            rows, columns = slice(max(y0 - pad, 0), y1 + pad), slice(max(x0 - pad, 0), x1 + pad)
            for y in (y0, y1 - 1):
                marked[max(y - pad, 0) : y + 1 + pad, columns] = color
            for x in (x0, x1 - 1):
                marked[rows, max(x - pad, 0) : x + 1 + pad] = color
    return marked


def _picture(title: str, box: Box, panels: Sequence[tuple[str, RGB]]) -> Picture:
    return Picture(title, box, [(name, data_uri(rgb)) for name, rgb in panels])


def data_uri(rgb: RGB) -> str:
    """A JPEG of a picture, inside the page."""
    data = imagecodecs.jpeg8_encode(np.ascontiguousarray(rgb), level=QUALITY)
    return "data:image/jpeg;base64," + b64encode(data).decode()
