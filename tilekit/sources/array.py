"""Arrays of numpy: in memory, and .npy files through a memory map."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.sources.source import (
    Reference,
    Source,
    check_level,
    check_shape,
    chosen_channels,
    file_fingerprint,
    fitting_nodata,
    native_dtype,
    with_channels,
)

AXES_BY_DIMENSIONS = {2: "yx", 3: "cyx", 4: "czyx", 5: "tczyx"}
"""Axes of an array that does not name them."""


@dataclass(frozen=True)
class ArrayReader:
    """Reads an array whose axes are canonical."""

    pixels: NDArray[Any]
    channels: tuple[int, ...] | None
    axis: int
    """Axis of the channels; unused where none are chosen."""

    def read(self, box: Box) -> NDArray[Any]:
        if self.channels is None:
            return np.array(self.pixels[box.slices])
        every = list(box.slices)
        channels, every[self.axis] = self.channels[every[self.axis]], slice(None)
        by_channel = np.moveaxis(self.pixels, self.axis, 0)
        planes = [by_channel[c][tuple(every[: self.axis] + every[self.axis + 1 :])] for c in channels]
        return np.stack(planes, self.axis)


def open_array(reference: Reference) -> Source:
    """An array in memory as a source: (y, x), (c, y, x), (c, z, y, x), (t, c, z, y, x), or (y, x, 3 or 4) as color."""
    pixels: NDArray[Any] = reference.source
    digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype.str}".encode())
    digest.update(np.ascontiguousarray(pixels).data if pixels.size else b"")
    return _describe(reference, pixels, "array", {"sha256": digest.hexdigest()}, "an array in memory")


def open_npy(reference: Reference) -> Source:
    """A .npy file as a source, through a memory map; axes as for an array in memory."""
    path = Path(reference.source)
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a spoiled header is parsed as Python: SyntaxError, TokenError, OverflowError, ...
        raise InputError(f"{path}: cannot be mapped as .npy ({_first_line(error)}); write it again") from None
    return _describe(reference, pixels, path.name, file_fingerprint(path), "a .npy file, uncompressed")


def _describe(
    reference: Reference, pixels: NDArray[Any], name: str, fingerprint: dict[str, Any], tiling: str
) -> Source:
    check_shape(pixels.shape, name)
    dtype = native_dtype(pixels.dtype, name)
    if is_color_last(pixels.shape):
        pixels = np.moveaxis(pixels, -1, 0)
    if pixels.ndim not in AXES_BY_DIMENSIONS:
        raise InputError(f"{name}: {pixels.ndim} axes, at most 5 (t, c, z, y, x) are understood; choose a part of it")
    axes = AXES_BY_DIMENSIONS[pixels.ndim]
    check_level(reference.level, 1, name)
    channels = chosen_channels(reference, axes, pixels.shape, name)
    shape = with_channels(pixels.shape, axes, channels)
    return Source(
        reference=reference,
        name=name,
        axes=axes,
        shape=shape,
        dtype=dtype,
        levels=(shape,),
        level=0,
        fingerprint=fingerprint,
        tiling=tiling,
        segment_bytes=0,
        pixel_size=reference.pixel_size,
        nodata=fitting_nodata(reference.nodata, dtype),
        reader=ArrayReader(pixels, channels, axes.find("c")),
    )


def is_color_last(shape: tuple[int, ...]) -> bool:
    """True for (y, x, 3) and (y, x, 4), unless the first axis is as short."""
    return len(shape) == 3 and shape[-1] in (3, 4) and min(shape[:2]) > 4


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
