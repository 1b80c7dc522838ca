"""Reads boxes of a TIFF: only the strips and tiles that a box touches, one at a time."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.place import as_path, as_url, is_url
from tilekit.sources.reading import of_the_disk, read_exactly
from tilekit.sources.source import native_dtype
from tilekit.sources.tiff_frames import claimed_pixels
from tilekit.sources.tiff_layout import Grid, Page, Planes
from tilekit.sources.tiff_log import listening
from tilekit.sources.tiff_orientation import Orientation
from tilekit.sources.tiff_photometric import Photometric

BAND_BYTES = 1 * 2**20
"""Bytes of raw rows read at a time from a strip that needs no decoding."""

MOST_TIMES = 4
"""How much larger than its strip or tile a JPEG stream may be."""
JPEG_CODES, JPEG_END = (7, 33003, 33004, 33005, 34712), b"\xff\xd9"
"""JPEG and JPEG 2000 streams cut short decode to gray without complaint, so their end marker is asked for."""


AHEAD_BYTES = 16 * 2**20
"""Encoded bytes of an object that are fetched at once, and held."""
Segment = tuple[int, tuple[int, int]]
"""Number of a strip or tile, and its row and column."""

FLOATING_POINT = 3
"""The predictor of floats."""


class Files:
    """Open files by path, shared by threads: reads carry their own position."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()
        self._fetched = threading.local()

    def read(self, path: str, offset: int, n_bytes: int) -> bytes:
        """Exactly these bytes."""
        if is_url(path):
            held = getattr(self._fetched, "parts", {}).pop((offset, n_bytes), None)
            return held or as_url(path).read_ranges([offset], [n_bytes])[0]
        return read_exactly(self._number(path), n_bytes, offset)

    def ahead(self, page: Page, segments: Iterable[Segment]) -> Iterator[Segment]:
        """Strips and tiles in their order; those of an object are fetched side by side shortly before their turn."""
        if not is_url(page.path):
            yield from segments
            return
        waiting, n_bytes = list[Segment](), 0
        for segment in segments:
            waiting.append(segment)
            n_bytes += int(page.counts[segment[0]])
            if n_bytes >= AHEAD_BYTES:
                yield from self._fetch(page, waiting)
                waiting, n_bytes = [], 0
        yield from self._fetch(page, waiting)

    def _fetch(self, page: Page, segments: Sequence[Segment]) -> Sequence[Segment]:
        there = [(int(page.offsets[i]), int(page.counts[i])) for i, _ in segments if page.counts[i]]
        if there:
            starts, lengths = zip(*there, strict=True)
            self._fetched.parts = dict(zip(there, as_url(page.path).read_ranges(starts, lengths), strict=True))
        return segments

    def _number(self, path: str) -> int:
        with self._lock:
            if path not in self._numbers:
                self._numbers[path] = os.open(path, os.O_RDONLY)
                weakref.finalize(self, os.close, self._numbers[path])
            return self._numbers[path]


@dataclass(frozen=True)
class Decoder:
    """Decodes strips and tiles as tifffile does."""

    key: Any
    """The tifffile page that stands for all pages of the series."""
    transform: Callable[[NDArray[Any]], NDArray[Any]] | None

    def check(self, path: Path) -> None:
        """Refuse what no strip or tile could be decoded with; makes the decode function, so that threads share it."""
        try:
            self.key.decode(None, 0)
        except (ValueError, NotImplementedError) as error:
            codec = getattr(self.key.compression, "name", self.key.compression)
            raise InputError(f"{path}: compression {codec}: {error}; write it again with another") from None

    @cached_property
    def raw_rows(self) -> bool:
        """True where a strip's rows can be taken from the file as they are."""
        key = self.key
        plain = key.compression == 1 and key.predictor == 1 and key.fillorder == 1 and not key.is_tiled
        whole_bytes = key.bitspersample == key.dtype.itemsize * 8 and key.dtype.kind in "iuf"
        return bool(plain and whole_bytes and not key.is_subsampled and self.transform is None)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row of a strip where rows can be taken as they are."""
        return int(self.key.imagewidth * self.key.shaped[4] * self.key.dtype.itemsize)

    @property
    def copies(self) -> bool:
        """True where decoded bytes and samples are there at once: bits to unpack, bytes to swap, floats to add up."""
        key = self.key
        stored = key.dtype.newbyteorder(key.parent.byteorder)
        as_they_are = stored.isnative and key.bitspersample == key.dtype.itemsize * 8 and self.transform is None
        return not as_they_are or key.predictor == FLOATING_POINT

    def decode(self, data: bytes, index: int, tables: bytes | None) -> NDArray[Any]:
        """A strip or tile as (depth, rows, columns, samples); parts outside the image may be missing."""
        if (
            self.key.compression in JPEG_CODES
            and self.key.jpegheader is None
            and not (data.endswith(JPEG_END) or JPEG_END in data)
        ):
            raise EOFError("the JPEG stream has no end")
        if self.key.compression in JPEG_CODES and self.key.jpegheader is None:
            claimed, own = claimed_pixels(data), prod(self.key.chunks)
            if claimed > MOST_TIMES * own + 2**20:
                raise ValueError(f"its stream says {claimed} pixels, the file {own} at most")
        options: dict[str, Any] = {"jpegtables": tables}
        if self.key.jpegheader is not None:
            options["jpegheader"] = self.key.jpegheader
        pixels: NDArray[Any] = self.key.decode(data, index, **options)[0]
        return pixels if self.transform is None else self.transform(pixels)


class Part(NamedTuple):
    """Where a plane, or a part of one, goes."""

    target: NDArray[Any]
    """Filled in stored rows and columns."""
    channel: int
    """Channel of the page that is shown there."""
    depth: int
    """Slice of the page, or of a strip or tile, that is shown there."""


@dataclass(frozen=True)
class TiffReader:
    """Reader of one level of a TIFF series."""

    pages: Sequence[Page]
    planes: Planes
    grid: Grid
    decoder: Decoder
    look: Photometric
    orientation: Orientation
    word: str
    """What the file calls its parts: strip or tile."""
    files: Files = field(default_factory=Files)

    @property
    def segment_bytes(self) -> int:
        """What reading one strip or tile holds: its encoded bytes, its samples, and these as they are shown."""
        dtype: np.dtype[Any] = self.decoder.key.dtype
        n = prod(self.grid.segment)
        if self.decoder.raw_rows:
            n = min(n, self._band_rows * self.grid.image[3])
        samples, shown = n * self.grid.image[4] * dtype.itemsize, n * self.look.pixel_bytes(dtype)
        if self.decoder.raw_rows:
            return samples + shown
        encoded = max((int(page.counts.max(initial=0)) for page in self.pages), default=0)
        return encoded + samples * (2 if self.decoder.copies else 1) + shown

    @property
    def _band_rows(self) -> int:
        """Rows read at a time where they are taken from the file as they are."""
        return max(1, BAND_BYTES // self.decoder.row_bytes)

    def set_fingerprint(self) -> dict[str, Any]:
        """Length and time of last change of all files of a set together; nothing for a single file."""
        paths = {page.path for page in self.pages}
        if len(paths) < 2:
            return {}
        states = [as_path(path).stat() for path in paths]
        return {"set_bytes": sum(s.st_size for s in states), "set_mtime_ns": max(s.st_mtime_ns for s in states)}

    def read(self, box: Box) -> NDArray[Any]:
        """The pixels of a box inside the image, in canonical order."""
        *lead, rows, columns = box.slices
        page, sample, depth = (
            t[tuple(lead)].ravel() for t in (self.planes.page, self.planes.sample, self.planes.depth)
        )
        out = np.empty(box.shape, self.look.dtype(native_dtype(self.decoder.key.dtype, self.word)))
        planes = self.orientation.as_stored(out.reshape(-1, *box.shape[-2:]))
        rows, columns = self.orientation.stored_box(rows, columns, self.grid.image[2:4])
        with listening():
            for p in np.unique(page):
                wanted = np.flatnonzero(page == p)
                parts = [Part(planes[k], int(sample[k]), int(depth[k])) for k in wanted]
                self._read_page(self.pages[p], parts, rows, columns, box)
        return out

    def _read_page(self, page: Page, wanted: Sequence[Part], rows: slice, columns: slice, box: Box) -> None:
        """Fill planes of one page; each strip or tile is decoded once for all planes that it holds."""
        separate = self.grid.image[0] > 1
        groups: dict[tuple[int, int], list[Part]] = {}
        for part in wanted:
            groups.setdefault((part.channel if separate else 0, part.depth // self.grid.segment[0]), []).append(part)
        for (sample, depth), parts in groups.items():
            touched = self.grid.touching(rows, columns)
            segments = ((self.grid.index(sample, depth, *place), place) for place in touched)
            for index, place in segments if self.decoder.raw_rows else self.files.ahead(page, segments):
                self._read_segment(page, index, place, parts, rows, columns, box)

    def _read_segment(
        self,
        page: Page,
        index: int,
        place: tuple[int, int],
        parts: Sequence[Part],
        rows: slice,
        columns: slice,
        box: Box,
    ) -> None:
        depth, h, w = self.grid.segment
        top, left = place[0] * h, place[1] * w
        y = slice(max(rows.start, top), min(rows.stop, top + h))
        x = slice(max(columns.start, left), min(columns.stop, left + w))
        inside = [
            Part(part.target[_within(y, rows.start), _within(x, columns.start)], part.channel, part.depth % depth)
            for part in parts
        ]
        try:
            if page.counts[index] == 0:
                self._fill_left_out(inside)
            elif self.decoder.raw_rows:
                self._fill_raw(page, index, inside, _within(y, top), _within(x, left))
            else:
                self._fill(page, index, inside, _within(y, top), _within(x, left))
        except Exception as error:
            if failed := of_the_disk(error, page.path):
                raise failed from None
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise InputError(
                f"{page.path}: {self.word} {index} of {self.grid.n_segments}, in box {box.start} to {box.stop}, "
                f"cannot be decoded ({reason}); copy or write the file again"
            ) from None

    def _stored_sample(self, channel: int) -> int:
        """Where in a strip or tile a channel is taken from."""
        return 0 if self.grid.image[4] == 1 else channel

    def _fill_left_out(self, parts: Sequence[Part]) -> None:
        """What is shown where the file leaves a strip or tile out."""
        for part in parts:
            part.target[...] = self.look.show(np.array(self.decoder.key.nodata, self.decoder.key.dtype), part.channel)

    def _fill(self, page: Page, index: int, parts: Sequence[Part], rows: slice, columns: slice) -> None:
        data = self.files.read(page.path, int(page.offsets[index]), int(page.counts[index]))
        pixels = self.decoder.decode(data, index, page.tables)
        for part in parts:
            stored = pixels[part.depth, rows, columns, self._stored_sample(part.channel)]
            part.target[...] = self.look.show(stored, part.channel)

    def _fill_raw(self, page: Page, index: int, parts: Sequence[Part], rows: slice, columns: slice) -> None:
        """Copy rows of a strip without decoding, in bands, so that a strip as large as the image costs no memory."""
        for first in range(rows.start, rows.stop, self._band_rows):
            n = min(self._band_rows, rows.stop - first)
            pixels = self._raw_rows(page, index, first, n)[:, columns]
            band = slice(first - rows.start, first - rows.start + n)
            for part in parts:
                part.target[band] = self.look.show(pixels[..., self._stored_sample(part.channel)], part.channel)
            del pixels  # before the next band is read

    def _raw_rows(self, page: Page, index: int, first: int, n: int) -> NDArray[Any]:
        """Rows of a strip as (rows, columns, samples), in the byte order of the file."""
        stored = self.decoder.key.dtype.newbyteorder(self.decoder.key.parent.byteorder)
        row_bytes = self.decoder.row_bytes
        data = self.files.read(page.path, int(page.offsets[index]) + first * row_bytes, n * row_bytes)
        return np.frombuffer(data, stored).reshape(n, self.grid.image[3], self.grid.image[4])


def _within(part: slice, origin: int) -> slice:
    return slice(part.start - origin, part.stop - origin)
