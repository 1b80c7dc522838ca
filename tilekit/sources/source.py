"""Source: an image that can be read box by box, whatever holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.errors import InputError, RunError
from tilekit.georeference import Georeference
from tilekit.place import RemotePath, as_path

CANONICAL_AXES = "tczyx"
"""The order in which every source presents its axes."""


class Reader(Protocol):
    """What a door gives: pixels of one level, axes already in canonical order. Several threads may call it at once."""

    def read(self, box: Box) -> NDArray[Any]:
        """The pixels of a box that lies inside the image."""
        ...


@dataclass(frozen=True)
class Reference:
    """Everything needed to open a source again in another process."""

    source: Any
    """Absolute path as a string, or the array itself."""
    opener: Callable[[Reference], Source]
    """The door that opens it: a function of a module, so that it pickles by name."""
    level: int = 0
    """Step of the pyramid, 0 = full resolution."""
    channels: tuple[int | str, ...] | None = None
    """Channels to present by number or name, in this order; None for all."""
    nodata: float | int | None = None
    """The user's nodata value, which replaces the file's; None to take the file's."""
    pixel_size: tuple[float, float] | None = None
    """The user's (y, x) pixel size of level 0 in micrometers, which replaces the file's."""
    axes: str | None = None
    """The user's names of the axes, in the order in which they are presented otherwise, which replace the file's."""
    t: int | None = None
    """The one time to present; None for all."""
    z: int | None = None
    """The one slice to present; None for all."""
    series: int | None = None
    """Which image of a file that holds several; None where it must be the only one of its kind."""
    as_labels: bool = False
    """True to read a palette image as its indices, as label maps want it, not as the colors that it shows."""

    def open(self) -> Source:
        """The source that this refers to."""
        from tilekit.sources.view import view

        return view(self.opener(self), self)


@dataclass(frozen=True, eq=False)
class Source:
    """One level of an image: what it is, and `read(box)`. Pickles as its description and opens its file again on use.

    >>> import numpy as np
    >>> from tilekit.sources import open_image
    >>> source = open_image(np.arange(12).reshape(3, 4))
    >>> source.axes, source.read([(1, 3), (0, 2)]).tolist()
    ('yx', [[4, 5], [8, 9]])
    """

    reference: Reference
    """How to open it again."""
    name: str
    """Short name for messages: the last part of the path."""
    axes: str
    """Axes in order, a part of "tczyx" that ends in "yx"."""
    shape: tuple[int, ...]
    """Size per axis, at this level and with these channels."""
    dtype: np.dtype[Any]
    """Native byte order; bool is presented as uint8 0 and 1."""
    levels: tuple[tuple[int, ...], ...]
    """Shapes of all levels of the pyramid, channels chosen."""
    level: int
    """Which of them this is."""
    fingerprint: Mapping[str, Any]
    """Facts that change when the source does."""
    tiling: str
    """How the file holds its pixels, in words, with the compression."""
    segment_bytes: int
    """Decoded bytes of the smallest part that can be read alone: what a read holds beside its result."""
    pixel_size: tuple[float, float] | None = None
    """(y, x) in micrometers at this level; None where the file does not say."""
    slice_spacing: float | None = None
    """Micrometers from one slice (z) to the next at this level; None where the file does not say, or has no axis z."""
    scale: tuple[float, float] = (1.0, 1.0)
    """(y, x) pixels of level 0 per pixel of this level."""
    translation: tuple[float, float] = (0.0, 0.0)
    """(y, x) of the first pixel's center, in micrometers where the pixel size is known, else in pixels of level 0."""
    channel_names: tuple[str, ...] | None = None
    """One name per channel; None where the file has none."""
    nodata: float | int | None = None
    """Pixel value that means nothing was measured; NaN means so without being named here."""
    wavelengths: tuple[float | None, ...] | None = None
    """Wavelength of each channel in nanometers (emission before excitation); None where the file states none."""
    value_scale: tuple[tuple[float, float], ...] | None = None
    """(scale, offset) per channel: physical value = scale · pixel + offset; None where pixels are the values."""
    color_table: tuple[tuple[int, int, int, int], ...] | None = None
    """RGBA, 0 to 255, of each index of a palette that is read as indices (`as_labels`)."""
    alpha: int | None = None
    """Which of the presented channels is an alpha mask, 0 where nothing was measured; None where none is."""
    mask: Source | None = None
    """A mask that the file keeps beside the pixels: (y, x) at this level, nonzero where the image is valid."""
    georeference: Georeference | None = None
    """CRS and transform of this level; None where the file has neither."""
    reader: Reader | None = field(default=None, repr=False)
    """Open file; None after pickling or `close` until the next read."""

    def read(self, box: Box | Sequence[slice | tuple[int, int]]) -> NDArray[Any]:
        """Exactly this box as a C-contiguous array of `dtype`; leading axes that it leaves out are taken whole.

        A box that is not inside the image raises ValueError; a part of the file that cannot be decoded, InputError.
        """
        inside = Box.of(box, self.shape)
        if not Box.whole(self.shape).contains(inside):
            raise ValueError(f"{self.name}: box {inside.start} to {inside.stop} is not inside the image {self.shape}")
        if 0 in inside.shape:
            return np.empty(inside.shape, self.dtype)
        pixels = (self.reader or self._open_again()).read(inside)
        return np.ascontiguousarray(pixels, self.dtype).reshape(inside.shape)

    def close(self) -> None:
        """Let go of the open file, and of what is decoded of it; the next read opens it again."""
        object.__setattr__(self, "reader", None)
        if self.mask is not None:
            self.mask.close()

    def check_unchanged(self) -> None:
        """Raise RunError where the file is another one now, or has been written to; of a Zarr store nothing is said."""
        known = self.fingerprint
        if not known.keys() & {"mtime_ns", "e_tag"}:
            return
        try:
            now = file_fingerprint(as_path(known["path"]))
        except FileNotFoundError:
            now = {"size_bytes": "none", "mtime_ns": "none"}
        if any(known.get(key) != value for key, value in now.items()):
            raise RunError(
                f"{known['path']}: changed during the run ({_differences(known, now)}), and what was read since is not "
                "kept; bring it back as it was and run the same command again, or start over with --overwrite"
            )

    def _open_again(self) -> Reader:
        again = self.reference.open()
        if again.fingerprint != self.fingerprint:
            raise InputError(
                f"{self.name}: changed since it was opened ({_differences(self.fingerprint, again.fingerprint)}); "
                "start again with the file as it is now"
            )
        assert again.reader is not None
        object.__setattr__(self, "reader", again.reader)
        return again.reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "reader": None}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {before.get(key)} is now {now.get(key)}" for key in now if now[key] != before.get(key))


def file_fingerprint(path: Path) -> dict[str, Any]:
    """Path, length in bytes and time of last change of a file; of an object its tag, or the time where it has none."""
    if isinstance(path, RemotePath):
        facts = path.head()
        return {"path": str(path), "size_bytes": facts["size"], "e_tag": facts["e_tag"] or str(facts["last_modified"])}
    status = path.stat()
    return {"path": str(path), "size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def native_dtype(stored: Any, name: str) -> np.dtype[Any]:
    """The dtype in which pixels are presented; refuses what is no number per pixel."""
    dtype: np.dtype[Any] = np.dtype(stored)
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind not in "iuf":
        raise InputError(f"{name}: pixels of type {dtype} are not supported; convert them to integers or floats")
    native: np.dtype[Any] = dtype.newbyteorder("=")
    return native


def check_shape(shape: Sequence[int], name: str) -> None:
    """Refuse an image without pixels."""
    if len(shape) < 2 or 0 in shape:
        raise InputError(f"{name}: shape {tuple(shape)} holds no image; at least one row and one column are needed")


def check_level(level: int, n_levels: int, name: str) -> None:
    """Refuse a level that the pyramid does not have."""
    if not 0 <= level < n_levels:
        raise InputError(f"{name}: level {level} asked for, the image has {n_levels}; use 0 to {n_levels - 1}")


def chosen_channels(
    reference: Reference, axes: str, shape: Sequence[int], name: str, names: Sequence[str] | None = None
) -> tuple[int, ...] | None:
    """Numbers of the channels asked for, checked against the image; None when all are taken in order."""
    if reference.channels is None:
        return None
    n = shape[axes.index("c")] if "c" in axes else 1
    channels = number_channels(reference.channels, n, names, name)
    if "c" not in axes:
        if len(channels) > 1:
            raise InputError(f"{name}: channels {channels} asked for, the image has one; leave them out")
        return None
    return channels


def number_channels(channels: Sequence[int | str], n: int, names: Sequence[str] | None, name: str) -> tuple[int, ...]:
    """Numbers of channels given by number or by name (in any case) in an image of n channels."""
    known = [text.casefold() for text in names or ()]
    numbers = []
    for channel in channels:
        if isinstance(channel, str):
            if known.count(channel.casefold()) != 1:
                told = f"are called {', '.join(names)}" if names else "have no names, use numbers"
                raise InputError(f"{name}: channel {channel!r} asked for, its {n} channels {told}")
            channel = known.index(channel.casefold())
        numbers.append(channel)
    if not numbers or any(not 0 <= c < n for c in numbers):
        raise InputError(f"{name}: channels {tuple(numbers)} asked for, the image has {n}; use 0 to {n - 1}")
    return tuple(numbers)


def with_channels(shape: Sequence[int], axes: str, channels: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape once these channels are chosen."""
    return tuple(len(channels) if a == "c" and channels else n for a, n in zip(axes, shape, strict=True))


def pick_names(names: Sequence[str] | None, n: int, channels: tuple[int, ...] | None) -> tuple[str, ...] | None:
    """Names of the chosen channels; None unless the file names each of its n channels."""
    if names is None or len(names) != n:
        return None
    return tuple(names) if channels is None else tuple(names[c] for c in channels)


def fitting_nodata(value: float | int | None, dtype: np.dtype[Any]) -> float | int | None:
    """The nodata value as a number of this dtype; None where no pixel of the dtype can have it."""
    if value is None:
        return None
    if dtype.kind == "f":
        within = value != value or abs(value) == float("inf") or abs(value) <= np.finfo(dtype).max
        return float(dtype.type(value)) if within else None
    if value != value or abs(value) == float("inf") or value != int(value):
        return None
    limits = np.iinfo(dtype)
    return int(value) if limits.min <= value <= limits.max else None


def level_scale(full: Sequence[int], level: Sequence[int]) -> tuple[float, float]:
    """(y, x) pixels of the full image per pixel of the level: whole numbers wherever rounding explains the shapes."""

    def factor(n: int, m: int) -> float:
        k = max(1, round(n / m))
        return float(k) if m in (n // k, -(-n // k)) else n / m

    return factor(full[-2], level[-2]), factor(full[-1], level[-1])


def scaled(pixel_size: tuple[float, float] | None, scale: tuple[float, float]) -> tuple[float, float] | None:
    """Pixel size of a level, from that of level 0."""
    return None if pixel_size is None else (pixel_size[0] * scale[0], pixel_size[1] * scale[1])
