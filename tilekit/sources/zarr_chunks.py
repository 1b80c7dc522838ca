"""Chunks of the commonest layouts of Zarr 3 and 2, decoded one after the other in the thread that asks.

zarr-python hands every chunk to a thread and back, which costs as much as decoding a chunk of a class map; and it
decodes to whatever length a chunk has, where this stops at the length that it must have. What this does not know is
left to zarr-python: several codecs or rarer ones, other stores than folders, Fortran's order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from tilekit.place import RemotePath
from tilekit.sources.reading import read_exactly

if TYPE_CHECKING:
    import zarr

Array = NDArray[Any]
Corner = tuple[int, ...]
SLACK = 1 << 16
"""Bytes of a chunk that may be framing."""
NOTHING = 2**64 - 1
"""Offset and length of a chunk that a shard lacks."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """An array in a folder whose chunks are numbers under one codec or none, in shards or not."""

    path: Path
    prefix: str
    separator: str
    """Of the names of files: prefix, and numbers of the chunk with the separator between."""
    codec: str
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    """Shape of what one file holds, the chunk's where there are no shards."""
    has_index: bool
    """True for shards, also those of one chunk."""
    dtype: np.dtype[Any]
    fill: Any

    def read(self, region: Sequence[slice]) -> Array:
        """Pixels of a region; slices have start and stop inside the array. Raises ValueError for damaged bytes."""
        out = np.empty([s.stop - s.start for s in region], self.dtype)
        for number in product(*(_touched(s, n) for s, n in zip(region, self.shard, strict=True))):
            self._read_file(number, region, out)
        return out

    def _read_file(self, number: Corner, region: Sequence[slice], out: Array) -> None:
        first = [i * n for i, n in zip(number, self.shard, strict=True)]
        last = [a + n for a, n in zip(first, self.shard, strict=True)]
        part = [slice(max(s.start, a), min(s.stop, b)) for s, a, b in zip(region, first, last, strict=True)]
        path = self.path / (self.prefix + self.separator.join(map(str, number)))
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            missing = [slice(p.start - s.start, p.stop - s.start) for p, s in zip(part, region, strict=True)]
            out[tuple(missing)] = self.fill
            return
        try:
            size = os.fstat(file).st_size
            places = self._places(file, size)
            for inner in product(*(_touched(s, n) for s, n in zip(part, self.chunk, strict=True))):
                place = places[tuple(i - a // n for i, a, n in zip(inner, first, self.chunk, strict=True))]
                pixels = self._decode(file, size, *place.tolist())
                corner = [i * n for i, n in zip(inner, self.chunk, strict=True)]
                both = [
                    slice(max(p.start, a), min(p.stop, a + n)) for p, a, n in zip(part, corner, self.chunk, strict=True)
                ]
                target = tuple(slice(b.start - s.start, b.stop - s.start) for b, s in zip(both, region, strict=True))
                inside = tuple(slice(b.start - a, b.stop - a) for b, a in zip(both, corner, strict=True))
                out[target] = self.fill if pixels is None else pixels[inside]
        finally:
            os.close(file)

    def _places(self, file: int, size: int) -> Array:
        """Offset and length of each chunk of a file, (chunks along each axis..., 2)."""
        counts = [a // b for a, b in zip(self.shard, self.chunk, strict=True)]
        if not self.has_index:
            return np.array([0, size], np.uint64).reshape(*counts, 2)
        length = 16 * int(np.prod(counts))
        index = read_exactly(file, min(length + 4, size), max(size - length - 4, 0))
        data, checksum = index[:-4], int.from_bytes(index[-4:], "little")
        if len(data) != length or int(google_crc32c.value(data)) != checksum:
            raise ValueError("the checksum of a shard's index does not fit")
        return np.frombuffer(data, "<u8").reshape(*counts, 2)

    def _decode(self, file: int, size: int, offset: int, length: int) -> Array | None:
        if offset == length == NOTHING:
            return None
        nbytes = int(np.prod(self.chunk)) * self.dtype.itemsize
        if offset + length > size or length > 2 * nbytes + SLACK:  # no codec needs as much
            raise ValueError(f"bytes {offset} to {offset + length} are no chunk of {nbytes} in a file of {size}")
        data = read_exactly(file, length, offset)
        if self.codec:
            data = getattr(imagecodecs, f"{self.codec}_decode")(data, out=nbytes)
        if len(data) != nbytes:
            raise ValueError(f"a chunk holds {len(data)} bytes, must be {nbytes}")
        return np.frombuffer(data, self.dtype).reshape(self.chunk)


def _touched(part: slice, n: int) -> Iterator[int]:
    """Numbers of the steps of n that a range touches."""
    yield from range(part.start // n, -(-part.stop // n))


def direct_chunks(path: Path, array: zarr.Array[Any]) -> Chunks | None:
    """How to read an array at this path without zarr; None where it is laid out otherwise."""
    if isinstance(path, RemotePath) or array.dtype.kind not in "uif":  # zarr asks a server for many chunks at once
        return None
    found = _layout_2(array) if array.metadata.zarr_format == 2 else _layout_3(array)
    if found is None:
        return None
    prefix, separator, codec = found
    shard = array.shards or array.chunks
    fill = 0 if array.fill_value is None else array.fill_value
    return Chunks(path, prefix, separator, codec, array.chunks, shard, array.shards is not None, array.dtype, fill)


def _layout_3(array: zarr.Array[Any]) -> tuple[str, str, str] | None:
    """Prefix and separator of the files' names, and the codec."""
    from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

    metadata: Any = array.metadata
    if metadata.chunk_key_encoding.to_dict() != {"name": "default", "configuration": {"separator": "/"}}:
        return None
    codecs = metadata.codecs
    if len(codecs) == 1 and isinstance(sharding := codecs[0], ShardingCodec):
        kinds = [type(c) for c in sharding.index_codecs]
        if sharding.index_location.value != "end" or kinds != [BytesCodec, Crc32cCodec]:
            return None
        codecs = sharding.codecs
    known = {ZstdCodec: "zstd", GzipCodec: "gzip", BloscCodec: "blosc"}
    if not array.dtype.isnative or type(codecs[0]) is not BytesCodec or not _is_little(codecs[0]):
        return None
    kinds = [type(c) for c in codecs[1:]]
    if not kinds:
        return "c/", "/", ""
    return ("c/", "/", known[kinds[0]]) if len(kinds) == 1 and kinds[0] in known else None


def _layout_2(array: zarr.Array[Any]) -> tuple[str, str, str] | None:
    """Prefix and separator of the files' names, and the codec."""
    metadata: Any = array.metadata
    codec = metadata.compressor.codec_id if metadata.compressor else ""
    if metadata.order != "C" or metadata.filters or codec not in ("", "zstd", "gzip", "zlib", "blosc"):
        return None
    return "", metadata.dimension_separator, codec


def _is_little(codec: Any) -> bool:
    return codec.endian is None or codec.endian.value == "little"
