"""A level of the pyramid that a run will make of an image, before it is made: halved from the image as it is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.pyramid import halve_labels, halve_mean
from tilekit.sources import Reference, Source

BAND = 4096
"""Rows of the image that are read at once."""


@dataclass(frozen=True)
class HalvedReader:
    """Reads boxes of the level, bit for bit what ingest stores."""

    image: Source
    level: int
    is_mask: bool

    def read(self, box: Box) -> NDArray[Any]:
        (y0, x0), (y1, x1) = box.start[-2:], box.stop[-2:]
        rows = max(BAND >> self.level, 1)
        bands = [self._read_band(box, y, min(y + rows, y1), x0, x1) for y in range(y0, y1, rows)]
        return np.concatenate(bands, axis=-2)

    def _read_band(self, box: Box, y0: int, y1: int, x0: int, x1: int) -> NDArray[Any]:
        ny, nx = self.image.shape[-2:]
        first = (y0 << self.level, x0 << self.level)
        stop = (min(y1 << self.level, ny), min(x1 << self.level, nx))
        pixels = self.image.read(Box((*box.start[:-2], *first), (*box.stop[:-2], *stop)))
        if self.is_mask:
            pixels = (pixels != 0).astype(np.uint8)
        for _ in range(self.level):
            pixels = halve_labels(pixels) if self.is_mask else halve_mean(pixels, self.image.nodata)
        return pixels


def halved(image: Source, level: int, is_mask: bool = False) -> Source:
    """The level of an image's future pyramid, sides halved `level` times and rounded up; its mask with it."""
    return open_halved(Reference(image.reference, open_halved, level, as_labels=is_mask))


def open_halved(reference: Reference) -> Source:
    """The same, from a reference whose source is that of the image."""
    image: Source = reference.source.open()
    level = reference.level
    sides = (-(-n // (1 << level)) for n in image.shape[-2:])
    shape = (*image.shape[:-2], *sides)
    return replace(
        image,
        reference=reference,
        shape=shape,
        levels=(shape,),
        scale=(image.scale[0] * 2**level, image.scale[1] * 2**level),
        mask=None if image.mask is None else halved(image.mask, level, is_mask=True),
        reader=HalvedReader(image, level, reference.as_labels),
    )
