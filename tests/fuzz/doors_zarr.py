"""Zarr: documents of arrays and groups, consolidated ones, shards with a hostile index, chunks under codecs."""

from __future__ import annotations

import json
import struct
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import zarr
from zarr.codecs import BytesCodec, GzipCodec, ZstdCodec

from tests.fuzz.doors import Door, room
from tests.fuzz.seeds import pixels, stores
from tests.fuzz.worker import open_and_read
from tilekit.store import group_attributes

SIDE, CHUNK, SHARD = 64, 16, 32


def array(name: str, **options: Any) -> Path:
    """A small array; what lies there is spoiled anew by each input."""
    path = room() / f"{name}.zarr"
    made = zarr.create_array(path, shape=(SIDE, SIDE), dtype="uint16", fill_value=0, **options)
    made[:] = pixels(SIDE, SIDE, dtype="uint16")
    return path


@cache
def sharded(inner: str) -> Path:
    """With an index at the end of each shard; zstd is read without zarr, gzip by it."""
    codec = {"zstd": ZstdCodec(level=1), "gzip": GzipCodec(level=1)}[inner]
    options = {"chunks": (CHUNK, CHUNK), "shards": (SHARD, SHARD), "compressors": codec, "serializer": BytesCodec()}
    return array(f"sharded-{inner}", **options)


@cache
def version_2() -> Path:
    options = {"chunks": (CHUNK, CHUNK), "zarr_format": 2, "compressors": numcodecs.Blosc("zstd", clevel=1)}
    return array("blosc", **options, chunk_key_encoding={"name": "v2", "separator": "/"})


@cache
def pyramid(version: int, consolidated: bool = False) -> Path:
    """An OME-Zarr of this Zarr version."""
    place = room() / f"pyramid-{version}{'-consolidated' if consolidated else ''}"
    place.mkdir()
    path = stores(place)[f"zarr{version}"]
    if consolidated:
        with warnings.catch_warnings(action="ignore"):  # Zarr 3 does not know of it yet
            zarr.consolidate_metadata(str(path))
    return path


def spoil(file: Path, data: bytes, store: Path) -> str:
    """Read a store while a file of it holds these bytes."""
    before = file.read_bytes()
    file.write_bytes(data)
    try:
        said = open_and_read(str(store))
        if store.parent.name.startswith("pyramid"):
            group_attributes(store)
        return said
    finally:
        file.write_bytes(before)


def with_checksum(data: bytes) -> bytes:
    """A shard whose index has the checksum that fits, so that what follows it is read."""
    length = 16 * (SHARD // CHUNK) ** 2
    if len(data) < length + 4:
        return data
    return data[:-4] + int(google_crc32c.value(data[-4 - length : -4])).to_bytes(4, "little")


def shard_of(offset: int, length: int) -> bytes:
    """A shard of 100 bytes that says this of each of its chunks."""
    return bytes(100) + struct.pack("<QQ", offset, length) * (SHARD // CHUNK) ** 2 + bytes(4)


def read_shard(inner: str, data: bytes) -> str:
    """As it is, and with a checksum that fits."""
    store = sharded(inner)
    return spoil(store / "c/0/0", with_checksum(data), store)


def _minified(path: Path) -> list[bytes]:
    return [json.dumps(json.loads(path.read_bytes()), separators=(",", ":")).encode()]


DOORS = (
    Door(
        "array-3",
        lambda: _minified(sharded("zstd") / "zarr.json") + _minified(sharded("gzip") / "zarr.json"),
        lambda data: spoil(sharded("zstd") / "zarr.json", data, sharded("zstd")),
    ),
    Door(
        "array-2",
        lambda: _minified(version_2() / ".zarray"),
        lambda data: spoil(version_2() / ".zarray", data, version_2()),
    ),
    Door(
        "level-3",
        lambda: _minified(pyramid(3) / "0/zarr.json"),
        lambda data: spoil(pyramid(3) / "0/zarr.json", data, pyramid(3)),
    ),
    Door(
        "consolidated-3",
        lambda: _minified(pyramid(3, True) / "zarr.json"),
        lambda data: spoil(pyramid(3, True) / "zarr.json", data, pyramid(3, True)),
    ),
    Door(
        "consolidated-2",
        lambda: _minified(pyramid(2, True) / ".zmetadata"),
        lambda data: spoil(pyramid(2, True) / ".zmetadata", data, pyramid(2, True)),
    ),
    Door(
        "group-2",
        lambda: _minified(pyramid(2) / ".zgroup"),
        lambda data: spoil(pyramid(2) / ".zgroup", data, pyramid(2)),
    ),
    Door("shard", lambda: [(sharded("zstd") / "c/0/0").read_bytes()], lambda data: read_shard("zstd", data)),
    Door("shard-by-zarr", lambda: [(sharded("gzip") / "c/0/0").read_bytes()], lambda data: read_shard("gzip", data)),
    Door(
        "chunk-blosc",
        lambda: [(version_2() / "0/0").read_bytes()],
        lambda data: spoil(version_2() / "0/0", data, version_2()),
    ),
)
