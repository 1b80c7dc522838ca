"""Shards and chunks encoded here are read by every implementation at hand, and the same bytes come out each time."""

from __future__ import annotations

import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tilekit.store import create_array, shard_is_sound, shard_record, write_region
from tilekit.tiling import Level

DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


def write(root: Path, pixels: np.ndarray, level: Level, version: str, fill: float = 0) -> list[Any]:
    """The array `a` made and written whole; the records of its shards."""
    axes = "tczyx"[-pixels.ndim :]
    create_array(root / "a", level, pixels.shape[:-2], axes, pixels.dtype, version, fill=fill)
    region = tuple(slice(0, n) for n in pixels.shape)
    return write_region(root, "a", level, version, region, pixels, fill)


def image(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> np.ndarray:
    """Noise beside a corner of zeros, so that some chunks are empty and some are not."""
    pixels = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    pixels[..., : shape[-2] // 2, : shape[-1] // 2] = 0
    return pixels


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, Level, str, float]:
    chunk, n = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    shape = draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    lead = draw(st.sampled_from([(), (2,), (2, 3)]))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    fill = draw(st.sampled_from([0, 1, 100]))
    values = st.sampled_from([fill, fill, 0, 7]) if draw(st.booleans()) else None
    pixels = draw(hnp.arrays(dtype, (*lead, *shape), elements=values))
    return pixels, Level(shape, chunk, chunk * n), draw(st.sampled_from(["0.4", "0.5"])), fill


@settings(max_examples=80, deadline=None)
@given(cases())
def test_zarr_reads_what_was_written_bit_by_bit(case):
    pixels, level, version, fill = case
    with TemporaryDirectory() as folder:
        level = Level(level.shape, level.chunk, level.chunk) if version == "0.4" else level
        records = write(Path(folder), pixels, level, version, fill)
        assert same_bits(np.asarray(zarr.open_array(f"{folder}/a", mode="r")[...]), pixels)
        files = {str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file()}
        assert {k for k, n, _ in records if n >= 0} == files - {"a/zarr.json", "a/.zarray", "a/.zattrs"}
        assert all(shard_record(Path(folder), record[0]) == record for record in records)


def read_by_zarrs(path: Path) -> np.ndarray:
    pytest.importorskip("zarrs")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": 1}):
        array = zarr.open_array(str(path), mode="r")
        assert type(array._async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline"
        return np.asarray(array[...])


def read_by_tensorstore(path: Path) -> np.ndarray:
    tensorstore = pytest.importorskip("tensorstore")
    driver = "zarr3" if (path / "zarr.json").exists() else "zarr"
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(path)}}
    return np.asarray(tensorstore.open(spec).result().read().result())


def read_by_dask(path: Path) -> np.ndarray:
    import dask.array

    return np.asarray(dask.array.from_zarr(str(path)).compute(scheduler="synchronous"))


@pytest.mark.parametrize("read", [read_by_zarrs, read_by_tensorstore, read_by_dask])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize(("version", "shard"), [("0.5", 64), ("0.5", 16), ("0.4", 16)])
def test_others_read_it(tmp_path, read, dtype, version, shard):
    pixels = image((2, 150, 131), dtype)
    write(tmp_path, pixels, Level((150, 131), 16, shard), version)
    assert same_bits(read(tmp_path / "a"), pixels)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_bytes_are_the_same_in_any_thread(tmp_path, version):
    pixels = image((700, 600), "u2")
    level = Level((700, 600), 512, 512 if version == "0.4" else 1024)
    found = []
    for i in range(4):
        worker = threading.Thread(target=lambda i=i: found.append(write(tmp_path / str(i), pixels, level, version)))
        worker.start()
        worker.join()
    found.append(write(tmp_path / "here", pixels, level, version))
    assert all(records == found[0] for records in found)


def test_chunks_of_nothing_but_fill_are_not_stored(tmp_path):
    pixels = np.full((64, 64), 255, np.uint8)
    pixels[40, 3] = 1
    first, second, third, fourth = write(tmp_path, pixels, Level((64, 64), 8, 32), "0.5", fill=255)
    assert first == ("a/c/0/0", -1, "")
    assert second[1] == fourth[1] == -1
    index = np.frombuffer((tmp_path / third[0]).read_bytes()[-260:-4], "<u8").reshape(16, 2)
    assert (index != 2**64 - 1).all(axis=1).tolist() == [k == 4 for k in range(16)]
    assert index[4].tolist() == [0, third[1] - 260]


def test_a_shard_that_became_empty_is_removed(tmp_path):
    level = Level((32, 32), 8, 32)
    write(tmp_path, np.ones((32, 32), np.uint8), level, "0.5")
    region = (slice(0, 32), slice(0, 32))
    assert write_region(tmp_path, "a", level, "0.5", region, np.zeros((32, 32), np.uint8)) == [("a/c/0/0", -1, "")]
    assert not (tmp_path / "a/c/0/0").exists()


def test_the_second_block_lands_in_its_place_and_leaves_no_file_behind(tmp_path):
    pixels, level = image((2, 100, 90), "u2"), Level((100, 90), 16, 32)
    create_array(tmp_path / "a", level, (2,), "cyx", pixels.dtype, "0.5")
    for rows in (slice(64, 100), slice(0, 64)):
        region = (slice(0, 2), rows, slice(0, 90))
        write_region(tmp_path, "a", level, "0.5", region, pixels[region])
    assert (zarr.open_array(str(tmp_path / "a"), mode="r")[...] == pixels).all()
    assert not list(tmp_path.rglob("*.partial"))


def test_pixels_of_another_shape_than_the_region_are_refused(tmp_path):
    level = Level((32, 32), 8, 32)
    with pytest.raises(ValueError, match=r"a: pixels of shape \(32, 31\) for a region of shape \(32, 32\)"):
        write_region(tmp_path, "a", level, "0.5", (slice(0, 32), slice(0, 32)), np.zeros((32, 31), np.uint8))


@pytest.mark.parametrize("position", [0, 1000, -1])
def test_the_digest_finds_a_flipped_bit_and_the_length_a_cut(tmp_path, position):
    (record,) = write(tmp_path, image((64, 64), "u2"), Level((64, 64), 16, 64), "0.5")
    path = tmp_path / record[0]
    whole = path.read_bytes()
    assert shard_is_sound(tmp_path, record)
    data = bytearray(whole)
    data[position] ^= 1
    path.write_bytes(data)
    assert not shard_is_sound(tmp_path, record)
    path.write_bytes(whole[:-1])
    assert not shard_is_sound(tmp_path, record, digest=False)
