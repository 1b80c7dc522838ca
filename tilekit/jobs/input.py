"""What the network sees of an image, and where the image is valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.errors import RunError
from tilekit.mirror import read_mirrored
from tilekit.resample import Grid
from tilekit.sources import Source

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Input:
    """The image as the network sees it."""

    source: Source
    """The image, on whose pixels the classes are written and void is decided."""
    level: Source
    """The level of its pyramid that the network's pixels are computed from."""
    grid: Grid
    channels: tuple[int, ...]
    """Which of the image's channels, in the network's order."""
    fill: tuple[float, ...]
    """What the network sees in place of nodata, per channel: the channel's mean."""
    equal: tuple[int, ...] = ()
    """Channels that must equal the one that the network takes."""

    @classmethod
    def of(cls, source: Source, channels: tuple[int, ...], fill: tuple[float, ...]) -> Input:
        """An image that the network sees pixel by pixel."""
        return cls(source, source, Grid.of(source.shape), channels, fill)

    def read(self, plane: tuple[int, ...], box: Box) -> Array:
        """Network pixels (c, y, x) of a box that may reach outside the image, mirrored there; nodata filled."""
        return read_mirrored(lambda inside: self._read_inside(plane, inside), box, self.grid.shape)

    def _read_inside(self, plane: tuple[int, ...], box: Box) -> Array:
        there = self.grid.source_box(box)
        pixels = read_channels(self.level, self.channels, plane, there)
        self._check_equal(pixels[0], plane, there)
        return self.grid.resample(self._filled(pixels, plane, there), box)

    def _check_equal(self, taken: Array, plane: tuple[int, ...], box: Box) -> None:
        for channel in self.equal:
            other = read_channels(self.level, (channel,), plane, box)[0]
            if not np.array_equal(other, taken, equal_nan=other.dtype.kind == "f"):
                raise RunError(
                    f"{self.level.name}: channels {self.channels[0]} and {channel} differ in the box {show(box)} of "
                    f"level {self.level.level}, so it is no gray image; name one with --channels"
                )

    def _filled(self, pixels: Array, plane: tuple[int, ...], box: Box) -> Array:
        """Pixels of the level (c, y, x) with the channel's mean where nothing was measured."""
        void = _absent(pixels, self.level.nodata)
        measured = self._measured(self.level, plane, box)
        if measured is not None:
            void = ~measured if void is None else void | ~measured
        if void is None or not void.any():
            return pixels
        fill = np.array(self.fill, np.float64).reshape(-1, 1, 1)
        fill = fill if pixels.dtype.kind == "f" else np.floor(fill + 0.5)
        return np.where(void, fill.astype(pixels.dtype), pixels)

    def valid(self, plane: tuple[int, ...], box: Box) -> Mask | None:
        """Where a box of the image (y, x) shows something; None for everywhere.

        Void is a pixel at which all channels but alpha have the nodata value (as in GDAL's dataset mask), one that the
        network takes is NaN, alpha is 0, or the image's mask is.
        """
        valid = self._measured(self.source, plane, box)
        if self.source.nodata is None and self.source.dtype.kind != "f":
            return valid
        pixels = read_channels(self.source, self.channels, plane, box)
        absent = _absent(pixels, self.source.nodata)
        assert absent is not None
        colors = [i for i, c in enumerate(self.channels) if c != self.source.alpha]
        everywhere: Mask = np.all(absent[colors or ...], axis=0)
        if everywhere.any():
            for channel in self._other_channels():
                other = read_channels(self.source, (channel,), plane, box)
                everywhere &= _absent(other, self.source.nodata)[0]  # type: ignore[index]
        seen: Mask = ~everywhere
        if pixels.dtype.kind == "f":
            seen &= ~np.isnan(pixels).any(0)
        return seen if valid is None else valid & seen

    def _other_channels(self) -> list[int]:
        axes = self.source.axes
        n = self.source.shape[axes.index("c")] if "c" in axes else 1
        return [c for c in range(n) if c not in self.channels and c != self.source.alpha]

    def _measured(self, source: Source, plane: tuple[int, ...], box: Box) -> Mask | None:
        """Where alpha (unless the network takes it) and mask are not 0 in a box of a level; None for everywhere."""
        measured: Mask | None = None
        if source.alpha is not None and source.alpha not in self.channels:
            measured = read_channels(source, (source.alpha,), plane, box)[0] != 0
        if source.mask is not None:
            seen = source.mask.read(box).reshape(box.shape) != 0
            measured = seen if measured is None else measured & seen
        return measured


def read_channels(source: Source, channels: Sequence[int], plane: tuple[int, ...], box: Box) -> Array:
    """Raw values (c, y, x) of some channels of a box (y, x) inside the image."""
    axes = source.axes[:-2]
    parts = []
    for channel in channels if "c" in axes else [0]:
        position = iter(plane)
        lead = [channel if a == "c" else next(position) for a in axes]
        inside = Box((*lead, *box.start), (*(i + 1 for i in lead), *box.stop))
        parts.append(source.read(inside).reshape(1, *box.shape))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _absent(pixels: Array, nodata: float | None) -> Mask | None:
    """Where a channel has the nodata value or NaN; None where no pixel can."""
    absent: Mask | None = np.isnan(pixels) if pixels.dtype.kind == "f" else None
    if nodata is not None and nodata == nodata:
        absent = pixels == nodata if absent is None else absent | (pixels == nodata)
    return absent


def show(box: Box) -> str:
    """A box as the command line takes it."""
    return ",".join(f"{a}:{b}" for a, b in zip(box.start, box.stop, strict=True))
