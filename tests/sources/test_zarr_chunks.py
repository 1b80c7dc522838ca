"""Chunks decoded without zarr: the pixels that zarr reads, and a refusal of what is damaged."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ShardingCodec, ZstdCodec

from tilekit.errors import InputError
from tilekit.sources import open_image
from tilekit.sources.zarr_chunks import direct_chunks

SHAPE = (3, 100, 70)


def make(path: Path, dtype: str = "uint16", **options: Any) -> np.ndarray:
    """An array whose middle and one plane hold nothing but the fill value."""
    pixels = np.random.default_rng(0).integers(0, 200, SHAPE).astype(dtype)
    pixels[1] = pixels[:, 32:64, :32] = 7
    options = {"chunks": (1, 16, 16), "shards": (1, 32, 48), "compressors": ZstdCodec(level=1), **options}
    array = zarr.create_array(str(path), shape=SHAPE, dtype=dtype, fill_value=7, **options)
    array[:] = pixels
    return pixels


ZARR_2: dict[str, Any] = {"zarr_format": 2, "shards": None, "compressors": numcodecs.Zstd(1)}
LAYOUTS: dict[str, dict[str, Any]] = {
    "sharded": {},
    "unsharded": {"shards": None},
    "floats": {"dtype": "float32"},
    "one chunk a shard": {"chunks": (1, 32, 48)},
    "gzip": {"compressors": GzipCodec()},
    "Blosc": {"compressors": BloscCodec(), "shards": None},
    "no codec": {"compressors": None},
    "Zarr 2": {**ZARR_2, "compressors": None},
    "Zarr 2, zstd": {**ZARR_2, "compressors": numcodecs.Zstd(1)},
    "Zarr 2, gzip": {**ZARR_2, "compressors": numcodecs.GZip(1)},
    "Zarr 2, zlib": {**ZARR_2, "compressors": numcodecs.Zlib(1)},
    "Zarr 2, Blosc": {**ZARR_2, "compressors": numcodecs.Blosc("lz4")},
    "Zarr 2, nested": {**ZARR_2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "Zarr 2, big-endian": {**ZARR_2, "dtype": ">u2"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_box_is_what_zarr_reads(layout: str, tmp_path: Path) -> None:
    pixels = make(tmp_path / "a.zarr", **LAYOUTS[layout])
    array = zarr.open_array(str(tmp_path / "a.zarr"), mode="r")
    chunks = direct_chunks(tmp_path / "a.zarr", array)
    assert chunks is not None
    corners = [st.tuples(st.integers(0, n - 1), st.integers(1, n)).map(sorted) for n in SHAPE]

    @given(st.tuples(*corners))
    def check(box: Any) -> None:
        region = [slice(a, max(b, a + 1)) for a, b in box]
        found = chunks.read(region)
        assert found.dtype == pixels.dtype
        np.testing.assert_array_equal(found, pixels[tuple(region)])

    check()


@pytest.mark.parametrize(
    "options",
    [
        {**ZARR_2, "order": "F"},
        {**ZARR_2, "filters": [numcodecs.Delta("u2")]},
        {**ZARR_2, "compressors": numcodecs.LZ4()},
        {"compressors": [GzipCodec(), ZstdCodec()]},
        {"serializer": BytesCodec(endian="big")},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"shards": {"shape": (1, 32, 48), "index_location": "start"}},
    ],
)
def test_other_layouts_are_left_to_zarr(options: dict[str, Any], tmp_path: Path) -> None:
    pixels = make(tmp_path / "a.zarr", **options)
    assert direct_chunks(tmp_path / "a.zarr", zarr.open_array(str(tmp_path / "a.zarr"), mode="r")) is None
    np.testing.assert_array_equal(open_image(tmp_path / "a.zarr", axes="zyx").read([(0, n) for n in SHAPE]), pixels)


@pytest.mark.parametrize("where", ["index", "chunk", "cut"])
def test_damage_is_one_line(where: str, tmp_path: Path) -> None:
    make(tmp_path / "a.zarr")
    assert isinstance(zarr.open_array(str(tmp_path / "a.zarr")).metadata.codecs[0], ShardingCodec)
    path = tmp_path / "a.zarr/c/0/0/0"
    data = bytearray(path.read_bytes())
    place = {"index": len(data) - 30, "chunk": 2, "cut": 0}[where]
    data[place] ^= 0xFF
    path.write_bytes(data[:-9] if where == "cut" else data)
    with pytest.raises(InputError, match=r"a chunk in box .* cannot be decoded") as caught:
        open_image(tmp_path / "a.zarr", axes="zyx").read([(0, n) for n in SHAPE])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "layout", ["sharded", "gzip", "Blosc", "Zarr 2, zstd", "Zarr 2, gzip", "Zarr 2, zlib", "Zarr 2, Blosc"]
)
def test_a_chunk_that_is_longer_than_it_must_be_is_not_decoded_to_its_end(layout: str, tmp_path: Path) -> None:
    small, large = (1, 16, 16), (1, 4096, 4096)
    options = {**LAYOUTS[layout], "dtype": "uint8", "shards": None}
    for name, chunk in (("small", small), ("large", large)):
        array = zarr.create_array(
            str(tmp_path / name), shape=chunk, chunks=chunk, **{"compressors": ZstdCodec(), **options}
        )
        array[:] = 1
    chunk = "0.0.0" if layout.startswith("Zarr 2") else "c/0/0/0"
    (tmp_path / "large" / chunk).replace(tmp_path / "small" / chunk)
    tracemalloc.start()
    with pytest.raises(InputError, match="cannot be decoded"):
        open_image(tmp_path / "small", axes="zyx").read([(0, n) for n in small])
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
