"""Files of about 1 kB that claim 10^12 pixels."""

from __future__ import annotations

import json
import struct
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

SIDE = 10**6


def bigtiff(tags: Sequence[tuple[int, int, int]]) -> bytes:
    """A BigTIFF of one directory with these (tag, type, value), one number each; data follow at 1024."""
    entries = b"".join(struct.pack("<HHQQ", tag, kind, 1, value) for tag, kind, value in sorted(tags))
    head = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(tags)) + entries + struct.pack("<Q", 0)
    return head.ljust(1024, b"\0") + zlib.compress(b"\0" * 4096)


def _tiff(compression: int, side: int = SIDE, **layout: int) -> bytes:
    numbers = {
        "rows": 278,
        "offsets": 273,
        "counts": 279,
        "width": 322,
        "length": 323,
        "tiles": 324,
        "tile_counts": 325,
    }
    common = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, compression), (262, 3, 1), (277, 3, 1)]
    return bigtiff([*common, *((numbers[name], 16, value) for name, value in layout.items())])


def tiff_of_one_raw_strip() -> bytes:
    return _tiff(1, rows=SIDE, offsets=1024, counts=SIDE * SIDE)


def tiff_of_one_deflated_strip() -> bytes:
    return _tiff(8, rows=SIDE, offsets=1024, counts=24)


def tiff_of_one_tile() -> bytes:
    return _tiff(8, width=SIDE, length=SIDE, tiles=1024, tile_counts=24)


def tiff_of_one_sparse_tile() -> bytes:
    return _tiff(8, width=SIDE, length=SIDE, tiles=0, tile_counts=0)


def tiff_of_one_tile_of_4_gib() -> bytes:
    return _tiff(8, side=2**16, width=2**16, length=2**16, tiles=1024, tile_counts=24)


def tiff_without_its_tiles() -> bytes:
    """512 x 512 tiles, of which only the first is listed."""
    return _tiff(8, width=512, length=512, tiles=1024, tile_counts=24)


def png() -> bytes:
    """Of 8-bit gray, with a stream of 4096 zeros."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 4096))
        + chunk(b"IEND", b"")
    )


def npy() -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({SIDE}, {SIDE}), }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 800


def zarr_store(path: Path, chunk: int = 4096) -> None:
    """A Zarr array without a chunk: legal, all fill value."""
    path.mkdir()
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [SIDE, SIDE],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk, chunk]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 7,
        "codecs": [{"name": "bytes"}],
        "attributes": {},
    }
    (path / "zarr.json").write_text(json.dumps(document))


def hdf5_store(path: Path, chunks: int = 1) -> None:
    """An HDF5 data set of which one chunk was written: legal, the others are all fill value."""
    import h5py

    with h5py.File(path, "w") as file:
        image = file.create_dataset("image", (SIDE, SIDE), np.uint8, chunks=(64, 64), fillvalue=7)
        image[: 64 * chunks, :64] = 1


def hdf5_without_chunks() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        hdf5_store(Path(folder, "store.h5"), chunks=0)
        return Path(folder, "store.h5").read_bytes()


def vrt(path: Path) -> None:
    """A virtual raster of GDAL without sources: legal, all nodata."""
    band = '<VRTRasterBand dataType="Byte" band="1"><NoDataValue>7</NoDataValue></VRTRasterBand>'
    path.write_text(f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}">{band}</VRTDataset>')


REFUSED: dict[str, Callable[[], bytes]] = {
    "one-raw-strip.tif": tiff_of_one_raw_strip,
    "one-deflated-strip.tif": tiff_of_one_deflated_strip,
    "one-tile.tif": tiff_of_one_tile,
    "one-sparse-tile.tif": tiff_of_one_sparse_tile,
    "one-tile-of-4-gib.tif": tiff_of_one_tile_of_4_gib,
    "tiles-left-out.tif": tiff_without_its_tiles,
    "picture.png": png,
    "array.npy": npy,
    "store.h5": hdf5_without_chunks,
}
"""Not what they claim: bytes that are not there, or a part that can only be decoded whole and fits no memory."""

LEGAL: dict[str, Callable[[Path], None]] = {"array.zarr": zarr_store, "store.h5": hdf5_store, "virtual.vrt": vrt}
"""What they claim: nothing was stored, and every part can be read alone."""
