"""Random boxes of 1,024 x 1,024 pixels against the libraries alone, and memory on an image of 100,000 x 100,000.

The limit is tifffile's own decoding of exactly the strips or tiles that a box touches, put together into the box, in
CPU seconds; tifffile's Zarr store and rasterio's windows stand beside it. Every reader reads the same boxes in turn.
"""

from __future__ import annotations

import os
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from benchmarks.common import WORK, Row, case, high_water, row
from tilekit.box import Box
from tilekit.sources import open_image

SIDE, BOX = 8192, 1024
HUGE, TILE = 100_000, 512
Reader = Callable[[int, int], Any]


def make(work: Path) -> Iterator[tuple[str, Path]]:
    """Each kind of file, made once."""
    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    gray = (128 + 80 * np.sin(xx / 23) * np.cos(yy / 31) + rng.normal(0, 3, (SIDE, SIDE))).astype(np.uint8)
    rgb = np.stack([gray, gray[::-1], gray[:, ::-1]], axis=-1)
    kinds: dict[str, tuple[np.ndarray[Any, Any], dict[str, Any]]] = {
        "tiled": (gray, {"tile": (TILE, TILE)}),
        "tiled, deflate": (gray, {"tile": (TILE, TILE), "compression": "zlib"}),
        "stripped": (gray, {"rowsperstrip": 64}),
        "stripped, deflate": (gray, {"rowsperstrip": 64, "compression": "zlib"}),
        "JPEG tiles, RGB": (rgb, {"tile": (256, 256), "compression": "jpeg", "photometric": "rgb"}),
    }
    for name, (pixels, options) in kinds.items():
        path = work / f"boxes-{name.replace(', ', '-').replace(' ', '-')}.tif"
        if not path.exists():
            tifffile.imwrite(path, pixels, **options)
        yield name, path
    yield "COG, deflate", _cog(work / "boxes-cog.tif", gray)


def _cog(path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    import rasterio

    if not path.exists():
        options = {"driver": "COG", "compress": "deflate", "blocksize": TILE, "dtype": "uint8", "count": 1}
        place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)}
        with rasterio.open(path, "w", width=SIDE, height=SIDE, **options, **place) as file:
            file.write(pixels, 1)
    return path


def tifffile_alone(path: Path) -> Reader:
    """Decodes the touched strips or tiles and puts them together, as short as it can be said."""
    page: Any = tifffile.TiffFile(path).pages[0]
    h, w = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    per_row = -(-page.imagewidth // w)
    number = os.open(path, os.O_RDONLY)

    def read(top: int, left: int) -> Any:
        out = np.empty((BOX, BOX, page.samplesperpixel), page.dtype)
        rows, columns = range(top // h, -(-(top + BOX) // h)), range(left // w, -(-(left + BOX) // w))
        for i, j in product(rows, columns):
            k = i * per_row + j
            data = os.pread(number, page.databytecounts[k], page.dataoffsets[k])
            tile = page.decode(data, k, jpegtables=page.jpegtables)[0][0]
            y, x = i * h - top, j * w - left
            part = tile[max(0, -y) : BOX - y, max(0, -x) : BOX - x]
            out[max(0, y) : max(0, y) + part.shape[0], max(0, x) : max(0, x) + part.shape[1]] = part
        return np.moveaxis(out, -1, 0)

    return read


def tilekit_source(path: Path) -> Reader:
    source = open_image(path)
    lead = [(0, n) for n in source.shape[:-2]]
    starts, stops = [a for a, _ in lead], [b for _, b in lead]
    return lambda top, left: source.read(Box((*starts, top, left), (*stops, top + BOX, left + BOX)))


def tifffile_zarr(path: Path) -> Reader:
    array: Any = zarr.open_array(tifffile.imread(path, aszarr=True, level=0), mode="r")
    return lambda top, left: array[top : top + BOX, left : left + BOX]


def rasterio_windows(path: Path) -> Reader:
    import rasterio

    with warnings.catch_warnings(action="ignore", category=rasterio.errors.NotGeoreferencedWarning):
        file = rasterio.open(path)
    return lambda top, left: file.read(window=rasterio.windows.Window(left, top, BOX, BOX))


READERS = {
    "tifffile alone": tifffile_alone,
    "tilekit": tilekit_source,
    "tifffile's Zarr store": tifffile_zarr,
    "rasterio": rasterio_windows,
}


def measure_file(path: Path, n_boxes: int) -> dict[str, float]:
    """CPU milliseconds of a box, each reader's median; the first two must read the same pixels."""
    os.environ["GDAL_CACHEMAX"] = "1"  # MB: boxes are read once
    readers = {name: make_reader(path) for name, make_reader in READERS.items()}
    with tifffile.TiffFile(path) as tiff:
        height, width = tiff.pages[0].shape[:2]  # type: ignore[union-attr]
    rng = np.random.default_rng(1)
    used: dict[str, list[float]] = {name: [] for name in readers}
    for k in range(n_boxes + 1):
        top, left = (int(rng.integers(0, n - BOX + 1)) for n in (height, width))
        found = {}
        for name, read in readers.items():
            before = time.process_time()
            found[name] = read(top, left)
            if k:  # the first box finds nothing ready
                used[name].append(time.process_time() - before)
        assert (np.squeeze(found["tilekit"]) == np.squeeze(found["tifffile alone"])).all()
    return {name: float(np.median(values)) * 1000 for name, values in used.items()}


def huge_tiff(path: Path) -> None:
    """A BigTIFF of 10^10 pixels whose tiles point at four tiles of bytes in turn."""
    n = -(-HUGE // TILE)
    rng = np.random.default_rng(0)
    tiles = [zlib.compress(rng.integers(0, 30, (TILE, TILE), dtype=np.uint8).tobytes(), 1) for _ in range(4)]
    starts = np.cumsum([16, *map(len, tiles)])
    offsets = np.resize(starts[:4], n * n).astype("<u8").tobytes()
    counts = np.resize([len(t) for t in tiles], n * n).astype("<u8").tobytes()
    at = int(starts[4])
    tags = [(256, 4, 1, HUGE), (257, 4, 1, HUGE), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(322, 3, 1, TILE), (323, 3, 1, TILE), (324, 16, n * n, at), (325, 16, n * n, at + len(offsets))]
    directory = struct.pack("<Q", len(tags)) + b"".join(struct.pack("<HHQQ", *tag) for tag in tags) + bytes(8)
    header = b"II" + struct.pack("<HHHQ", 43, 8, 0, at + len(offsets) + len(counts))
    path.write_bytes(header + b"".join(tiles) + offsets + counts + directory)


def memory(name: str) -> dict[str, float]:
    """Peak resident memory in MiB once open, after 10 and after 100 boxes, one every 10,000 pixels."""
    read = tilekit_source(Path(name))
    found = {"open": high_water()}
    for k, (top, left) in enumerate(product(range(0, HUGE, 10_000), repeat=2), start=1):
        assert read(top, left).shape == (BOX, BOX)
        if k in (10, 100):
            found[f"{k} boxes"] = high_water()
    return found


def measure(quick: bool = False) -> list[Row]:
    """Each kind of file, then the large one."""
    WORK.mkdir(parents=True, exist_ok=True)
    rows = []
    for kind, path in make(WORK):
        found = measure_file(path, 5 if quick else 60)
        alone = found.pop("tifffile alone")
        mine = found.pop("tilekit")
        others = {name: f"{value / alone:.2f} x" for name, value in found.items()}
        rows.append(row(kind, mine, "ms", limit=alone, goal="≤ 1.2 x", **others))
    huge = WORK / "huge.tif"
    if not huge.exists():
        huge_tiff(huge)
    peaks = case(memory, name=str(huge))
    grown = peaks["100 boxes"] - peaks["10 boxes"]
    return [
        *rows,
        *(row(f"{HUGE}² pixels, {name}: peak memory", value, "MiB") for name, value in peaks.items()),
        row("growth from 10 to 100 boxes", grown, "MiB", goal="≤ 1"),
    ]
