"""Reads boxes of a TIFF: only the strips and tiles that a box touches, one at a time."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.sources.tiff_layout import Grid, Page, Planes
from tilekit.sources.tiff_log import listening

BAND_BYTES = 16 * 2**20
"""Bytes of raw rows read at a time from a strip that needs no decoding."""

JPEG_CODES, JPEG_END = (7, 33003, 33004, 33005, 34712), b"\xff\xd9"
"""JPEG and JPEG 2000 streams cut short decode to gray without complaint, so their end marker is asked for."""


class Files:
    """Open files by path, shared by threads: reads carry their own position."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()

    def read(self, path: str, offset: int, n_bytes: int) -> bytes:
        """Exactly these bytes."""
        data = os.pread(self._number(path), n_bytes, offset)
        if len(data) != n_bytes:
            raise EOFError(f"{len(data)} of {n_bytes} bytes at byte {offset}")
        return data

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

    @property
    def raw_rows(self) -> bool:
        """True where a strip's rows can be taken from the file as they are."""
        key = self.key
        plain = key.compression == 1 and key.predictor == 1 and key.fillorder == 1 and not key.is_tiled
        whole_bytes = key.bitspersample == key.dtype.itemsize * 8 and key.dtype.kind in "iuf"
        return bool(plain and whole_bytes and not key.is_subsampled and self.transform is None)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a strip where rows can be taken as they are."""
        return int(self.key.imagewidth * self.key.shaped[4] * self.key.dtype.itemsize)

    def decode(self, data: bytes, index: int, tables: bytes | None) -> NDArray[Any]:
        """A strip or tile as (depth, rows, columns, samples); parts outside the image may be missing."""
        if self.key.compression in JPEG_CODES and self.key.jpegheader is None and JPEG_END not in data:
            raise EOFError("the JPEG stream has no end")
        options: dict[str, Any] = {"jpegtables": tables}
        if self.key.jpegheader is not None:
            options["jpegheader"] = self.key.jpegheader
        with listening():
            pixels: NDArray[Any] = self.key.decode(data, index, **options)[0]
        return pixels if self.transform is None else self.transform(pixels)


@dataclass(frozen=True)
class TiffReader:
    """Reader of one level of a TIFF series."""

    pages: Sequence[Page]
    planes: Planes
    grid: Grid
    decoder: Decoder
    dtype: np.dtype[Any]
    word: str
    """What the file calls its parts: strip or tile."""
    files: Files = field(default_factory=Files)

    def read(self, box: Box) -> NDArray[Any]:
        """The pixels of a box inside the image, in canonical order."""
        *lead, rows, columns = box.slices
        page, sample, depth = (
            t[tuple(lead)].ravel() for t in (self.planes.page, self.planes.sample, self.planes.depth)
        )
        out = np.empty(box.shape, self.dtype)
        planes = out.reshape(-1, *box.shape[-2:])
        for p in np.unique(page):
            wanted = np.flatnonzero(page == p)
            shown = [(planes[k], int(sample[k]), int(depth[k])) for k in wanted]
            self._read_page(self.pages[p], shown, rows, columns, box)
        return out

    def _read_page(
        self, page: Page, shown: Sequence[tuple[NDArray[Any], int, int]], rows: slice, columns: slice, box: Box
    ) -> None:
        """Fill planes of one page; each strip or tile is decoded once for all planes that it holds."""
        separate = self.grid.image[0] > 1
        groups: dict[tuple[int, int], list[tuple[NDArray[Any], int, int]]] = {}
        for plane, sample, depth in shown:
            key = (sample if separate else 0, depth // self.grid.segment[0])
            groups.setdefault(key, []).append((plane, 0 if separate else sample, depth % self.grid.segment[0]))
        for (sample, depth), parts in groups.items():
            for row, column in self.grid.touching(rows, columns):
                index = self.grid.index(sample, depth, row, column)
                self._read_segment(page, index, (row, column), parts, rows, columns, box)

    def _read_segment(
        self,
        page: Page,
        index: int,
        place: tuple[int, int],
        parts: Sequence[tuple[NDArray[Any], int, int]],
        rows: slice,
        columns: slice,
        box: Box,
    ) -> None:
        _, h, w = self.grid.segment
        top, left = place[0] * h, place[1] * w
        y = slice(max(rows.start, top), min(rows.stop, top + h))
        x = slice(max(columns.start, left), min(columns.stop, left + w))
        targets = [plane[_within(y, rows.start), _within(x, columns.start)] for plane, _, _ in parts]
        if page.counts[index] == 0:
            for target in targets:
                target[...] = self.decoder.key.nodata
            return
        try:
            self._fill(page, index, [(t, s, d) for t, (_, s, d) in zip(targets, parts, strict=True)], y, x, (top, left))
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise InputError(
                f"{page.path}: {self.word} {index} of {self.grid.n_segments}, in box {box.start} to {box.stop}, "
                f"cannot be decoded ({reason}); copy or write the file again"
            ) from None

    def _fill(
        self,
        page: Page,
        index: int,
        parts: Sequence[tuple[NDArray[Any], int, int]],
        y: slice,
        x: slice,
        origin: tuple[int, int],
    ) -> None:
        inner_y, inner_x = _within(y, origin[0]), _within(x, origin[1])
        if self.decoder.raw_rows:
            self._fill_raw(page, index, parts, inner_y, inner_x)
            return
        data = self.files.read(page.path, int(page.offsets[index]), int(page.counts[index]))
        pixels = self.decoder.decode(data, index, page.tables)
        for target, sample, depth in parts:
            target[...] = pixels[depth, inner_y, inner_x, sample]

    def _fill_raw(
        self, page: Page, index: int, parts: Sequence[tuple[NDArray[Any], int, int]], rows: slice, columns: slice
    ) -> None:
        """Copy rows of a strip without decoding, in bands, so that a strip as large as the image costs no memory."""
        width, samples = self.grid.image[3], self.grid.image[4]
        stored = self.decoder.key.dtype.newbyteorder(self.decoder.key.parent.byteorder)
        row_bytes = self.decoder.row_bytes
        step = max(1, BAND_BYTES // row_bytes)
        for first in range(rows.start, rows.stop, step):
            n = min(step, rows.stop - first)
            data = self.files.read(page.path, int(page.offsets[index]) + first * row_bytes, n * row_bytes)
            pixels = np.frombuffer(data, stored).reshape(n, width, samples)
            for target, sample, _ in parts:
                target[first - rows.start : first - rows.start + n] = pixels[:, columns, sample]


def _within(part: slice, origin: int) -> slice:
    return slice(part.start - origin, part.stop - origin)
