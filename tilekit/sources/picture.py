"""PNG and JPEG: the header read here, the pixels decoded whole by imagecodecs, once for each open source."""

from __future__ import annotations

import io
import mmap
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
    chosen_channels,
    file_fingerprint,
    fitting_nodata,
    pick_names,
    with_channels,
)
from tilekit.sources.tiff_frames import FRAMES
from tilekit.sources.tiff_metadata import PLAUSIBLE_MICROMETERS

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"

MAX_BYTES = 2 * 2**30
"""Decoded bytes of the largest picture, as it is held in memory whole."""

MAX_RATIO = 1032
"""Bytes that deflate makes of one at most; a JPEG's byte holds no more than 512 pixels."""

PNG_FACTS = (b"IHDR", b"PLTE", b"tRNS", b"pHYs", b"eXIf")
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PALETTE = 3
CMYK = 4

TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""How a picture (y, x, ...) stored with an EXIF orientation is turned to show upright."""

NAMES = {2: ("gray", "alpha"), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}
"""Of the channels, by their number."""


@dataclass(frozen=True)
class Header:
    """What a picture says of itself before it is decoded."""

    codec: str
    height: int
    width: int
    bits: int
    samples: int
    """Stored per pixel; 1 for a palette's index."""
    palette: tuple[tuple[int, int, int, int], ...] | None = None
    alpha: bool = False
    per_meter: tuple[float, float] | None = None
    """(y, x) pixels per meter."""
    orientation: int = 1

    @property
    def n_channels(self) -> int:
        """Channels as the eye sees them: CMYK and palettes as RGB, transparency as one more."""
        if self.codec == "jpeg":
            return min(self.samples, 3)
        opaque = 3 if self.palette is not None else self.samples - (self.samples in (2, 4))
        return opaque + self.alpha

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16)

    @property
    def shown_shape(self) -> tuple[int, int]:
        """(y, x) once turned upright."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


class PictureReader:
    """Decodes the file on its first read and keeps it."""

    def __init__(self, path: Path, header: Header, stored: bool, channels: tuple[int, ...] | None) -> None:
        self.path, self.header, self.stored, self.channels = path, header, stored, channels
        self._pixels: NDArray[Any] | None = None
        self._lock = threading.Lock()

    def read(self, box: Box) -> NDArray[Any]:
        with self._lock:
            if self._pixels is None:
                self._pixels = _decode(self.path, self.header, self.stored)
            pixels = self._pixels
        if pixels.ndim == 2:
            return np.array(pixels[box.slices])
        wanted = range(pixels.shape[2])[box.slices[0]] if self.channels is None else self.channels[box.slices[0]]
        y, x = box.slices[1:]
        return np.stack([pixels[y, x, c] for c in wanted])


def open_picture(reference: Reference) -> Source:
    """A PNG or JPEG as a source, (y, x) or (c, y, x) as the eye sees it: palettes and CMYK as RGB, 1, 2 and 4 bits as
    0 to 255, upright by its EXIF orientation; `as_labels` presents what is stored instead: indices, or a few bits.

    Refused: what is cut short, and what claims more pixels than its bytes can hold or memory should (`MAX_BYTES`).
    """
    path = Path(reference.source)
    header = _read_header(path)
    shape: tuple[int, ...] = header.shown_shape
    stored = reference.as_labels and header.codec == "png" and (header.palette is not None or header.bits < 8)
    n = 1 if stored else header.n_channels
    axes, shape = ("yx", shape) if n == 1 else ("cyx", (n, *shape))
    check_level(reference.level, 1, str(path))
    names = None if n == 1 else NAMES.get(n)
    channels = chosen_channels(reference, axes, shape, str(path), names)
    presented = channels or tuple(range(n))
    alpha = n - 1 if header.alpha and not stored else None
    shape = with_channels(shape, axes, channels)
    size = header.height * header.width * max(n, header.samples) * header.dtype.itemsize
    return Source(
        reference=reference,
        name=path.name,
        axes=axes,
        shape=shape,
        dtype=header.dtype,
        levels=(shape,),
        level=0,
        fingerprint=file_fingerprint(path),
        tiling=f"in one piece, compression {header.codec}",
        segment_bytes=size,
        pixel_size=reference.pixel_size or _pixel_size(header),
        channel_names=pick_names(names, n, channels),
        nodata=fitting_nodata(reference.nodata, header.dtype),
        color_table=header.palette if stored else None,
        alpha=presented.index(alpha) if alpha in presented else None,
        reader=PictureReader(path, header, stored, channels),
    )


def _read_header(path: Path) -> Header:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            header = _png_header(data) if data[:8] == PNG_START else _jpeg_header(data)
        except (struct.error, IndexError, ValueError) as error:
            reason = str(error) if type(error) is ValueError else "its header is cut short"
            raise InputError(f"{path}: cannot be read as a picture ({reason}); copy it again") from None
        n_bytes = len(data)
    pixels = header.height * header.width
    bits = header.bits * header.samples if header.codec == "png" else 8
    if pixels * bits > 8 * MAX_RATIO * n_bytes:
        raise InputError(
            f"{path}: claims {header.height} x {header.width} pixels, which its {n_bytes} bytes cannot hold; "
            "copy it again"
        )
    held = pixels * max(header.n_channels, header.samples) * header.dtype.itemsize
    if held > MAX_BYTES:
        raise InputError(
            f"{path}: {header.height} x {header.width} pixels take {held} bytes; {header.codec.upper()} is decoded "
            f"whole, up to {MAX_BYTES}; convert it to tiled TIFF or Zarr"
        )
    return header


def _png_chunks(data: mmap.mmap | bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length of every chunk's content, the last one IEND."""
    at, name = len(PNG_START), b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise ValueError(f"it ends after {len(data)} bytes, within a chunk of {length}")
        yield name, at + 8, length
        at += 12 + length


def _png_header(data: mmap.mmap) -> Header:
    found = {name: data[at : at + n] for name, at, n in _png_chunks(data) if name in PNG_FACTS}
    width, height, bits, color = struct.unpack_from(">IIBB", found.get(b"IHDR", b""))
    if color not in PNG_SAMPLES or bits not in (1, 2, 4, 8, 16) or not height or not width:
        raise ValueError(f"color type {color} of {bits} bits, {height} x {width} pixels")
    transparent = found.get(b"tRNS")
    palette = None
    if color == PALETTE:
        colors = found.get(b"PLTE", b"")
        opacity = (transparent or b"").ljust(len(colors) // 3, b"\xff")
        palette = tuple((*colors[3 * i : 3 * i + 3], opacity[i]) for i in range(len(colors) // 3))
    header = Header("png", height, width, bits, PNG_SAMPLES[color], palette)
    header = replace(header, alpha=color in (4, 6) or transparent is not None)
    if len(found.get(b"pHYs", b"")) == 9:
        x, y, unit = struct.unpack(">IIB", found[b"pHYs"])
        header = replace(header, per_meter=(y, x) if unit == 1 else None)
    return replace(header, orientation=_orientation(found.get(b"eXIf", b"")))


def _jpeg_header(data: mmap.mmap) -> Header:
    at, marker, header = 2, 0, Header("jpeg", 0, 0, 0, 0)
    while marker != 0xDA:  # start of scan
        if data[at] != 0xFF:
            raise ValueError(f"no marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        header = _jpeg_segment(header, marker, data[at + 4 : at + 2 + length])
        at += 2 + length
    if not header.height or not header.width or not header.samples:
        raise ValueError(f"{header.height} x {header.width} pixels")
    if header.samples == CMYK and header.bits != 8:
        raise ValueError(f"CMYK of {header.bits} bits is not supported")
    if data.rfind(b"\xff\xd9") < at:  # a cut file would be decoded to its end, gray from there
        raise ValueError("its end is missing")
    return header


def _jpeg_segment(header: Header, marker: int, content: bytes) -> Header:
    if marker in FRAMES:
        bits, height, width, samples = struct.unpack_from(">BHHB", content)
        return replace(header, bits=bits, height=height, width=width, samples=samples)
    if marker == 0xE0 and content[:5] == b"JFIF\0":
        unit, x, y = struct.unpack_from(">BHH", content, 7)
        per_meter = {1: 1 / 0.0254, 2: 100.0}.get(unit)
        return replace(header, per_meter=(y * per_meter, x * per_meter) if per_meter else None)
    if marker == 0xE1 and content[:6] == b"Exif\0\0":
        return replace(header, orientation=_orientation(content[6:]))
    return header


def _orientation(exif: bytes) -> int:
    """1 to 8; 1 where the EXIF data says nothing."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        (at,) = struct.unpack_from(f"{order}4xI", exif)
        (n,) = struct.unpack_from(f"{order}H", exif, at)
        for i in range(n):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, at + 2 + 12 * i)
            if tag == 0x0112:
                return value if value in TURNS else 1
    except struct.error:
        pass
    return 1


def _pixel_size(header: Header) -> tuple[float, float] | None:
    if header.per_meter is None or not all(header.per_meter):
        return None
    y, x = (1e6 / n for n in header.per_meter)
    low, high = PLAUSIBLE_MICROMETERS
    if not (low <= y <= high and low <= x <= high):
        return None
    return (x, y) if header.orientation >= 5 else (y, x)


def _decode(path: Path, header: Header, stored: bool) -> NDArray[Any]:
    """The whole picture upright, (y, x) or (y, x, c)."""
    import imagecodecs

    data = path.read_bytes()
    try:
        if header.codec == "jpeg":
            pixels = imagecodecs.jpeg_decode(data)
        else:
            pixels = imagecodecs.png_decode(_as_gray(data) if stored else data)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be decoded ({reason}); copy it again") from None
    if stored and header.bits < 8:
        pixels = pixels // np.uint8(255 // (2**header.bits - 1))
    if header.samples == CMYK and header.codec == "jpeg":
        pixels = _rgb_from_cmyk(pixels)
    n = 1 if stored else header.n_channels
    expected = (header.height, header.width, n)[: 2 if n == 1 else 3]
    if pixels.shape != expected or pixels.dtype != header.dtype:
        raise InputError(f"{path}: decodes to {pixels.shape} {pixels.dtype}, its header says {expected} {header.dtype}")
    return TURNS[header.orientation](pixels) if header.orientation > 1 else pixels


def _as_gray(data: bytes) -> bytes:
    """The same PNG with its indices declared as gray values, which decoders scale to 0 to 255 but do not replace."""
    out = io.BytesIO()
    out.write(PNG_START)
    for name, at, n in _png_chunks(data):
        content = data[at : at + n]
        if name == b"IHDR":
            content = content[:9] + b"\0" + content[10:]
        if name in (b"IHDR", b"IDAT", b"IEND"):
            out.write(struct.pack(">I", n) + name + content + struct.pack(">I", zlib.crc32(name + content)))
    return out.getvalue()


def _rgb_from_cmyk(pixels: NDArray[Any]) -> NDArray[Any]:
    """Each color as bright as ink and black leave it; 255 is no ink, as Adobe stores it and all viewers assume.

    By rows, so that little is held beside it.
    """
    out = np.empty((*pixels.shape[:2], 3), np.uint8)
    for row, inks in zip(out, pixels, strict=True):
        light = inks.astype(np.uint16)
        row[:] = light[:, 3:] - ((255 - light[:, :3]) * light[:, 3:] + 127) // 255
    return out
