"""Ingest of a tiled TIFF against its limit: a copy of the file and the codec alone, in CPU seconds.

The limit is a copy of the file, inflate of its tiles where it is compressed, and zstd level 1 of every chunk that is
written, those of the pyramid's coarser levels too. Start-up (imports and compiled loops) is left out. The image is of
smooth structures 8 pixels wide under noise, which zstd hardly shrinks.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from benchmarks.common import CHUNK, TILE, WORK, Row, case, high_water, medians, row, timed
from tilekit.jobs.ingest import ingest_image
from tilekit.pyramid import halve_mean
from tilekit.run import open_runner
from tilekit.sources import open_image

KINDS = {"raw": None, "deflate": "zlib"}


def make(size: int, kind: str) -> Path:
    """A tiled BigTIFF (uint8), made once."""
    path = WORK / f"cells-{size}-{kind}.tif"
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        n = min(size, 4000)
        rng = np.random.default_rng(0)
        low = np.exp(-2 * (np.pi * 4 * np.fft.fftfreq(n)) ** 2)
        smooth = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, n))) * low[:, None] * low[: n // 2 + 1], (n, n))
        cells = smooth / smooth.std() + 0.03 * rng.standard_normal((n, n))
        tile = np.clip(128 + 50 * cells, 0, 255).astype(np.uint8)
        image = np.tile(tile, (-(-size // n),) * 2)[:size, :size]
        tifffile.imwrite(path, image, tile=(TILE, TILE), bigtiff=True, compression=KINDS[kind], maxworkers=1)
    return path


def each(function: Callable[..., Any], *inputs: Any) -> None:
    """Call it with one input after the other, and keep nothing."""
    for one in zip(*inputs, strict=True):
        function(*one)


def limit(size: int, kind: str) -> dict[str, float]:
    """CPU seconds of a copy, of inflate, and of zstd level 1 of all chunks, level 0 and the rest."""
    from numcodecs import Zstd

    path = make(size, kind)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        decode, compressed = page.decode, page.compression != 1
    found = {"copy": timed(lambda: shutil.copyfile(path, path.with_suffix(".copy")))}
    path.with_suffix(".copy").unlink()
    found["inflate"] = found["codec"] = found["coarser"] = 0.0
    data = np.memmap(path, mode="r")
    if compressed:
        encoded = [bytes(data[a : a + n]) for a, n in segments]
        found["inflate"] = timed(lambda: each(decode, encoded, range(len(encoded))))
        del encoded
    level, name, encode = tifffile.imread(path), "codec", Zstd(1).encode
    while True:
        chunks = [
            np.ascontiguousarray(level[i : i + CHUNK, j : j + CHUNK])
            for i in range(0, level.shape[0], CHUNK)
            for j in range(0, level.shape[1], CHUNK)
        ]
        found[name] += timed(partial(each, encode, chunks))
        if max(level.shape) <= CHUNK:
            return found
        level, name = halve_mean(level), "coarser"


def ingest(size: int, kind: str) -> dict[str, float]:
    """CPU seconds of an ingest in this process, start-up apart: what a small image took before it."""
    path = make(size, kind)
    out, small = path.with_suffix(".zarr"), path.with_name("small.tif")
    tifffile.imwrite(small, np.zeros((2048, 2048), np.uint8), tile=(TILE, TILE))

    def run(image: Path) -> None:
        with open_runner() as runner:
            ingest_image(open_image(image), out, runner, overwrite=True)

    startup = timed(lambda: run(small))
    before = time.perf_counter()
    used = timed(lambda: run(path))
    wall = time.perf_counter() - before
    shutil.rmtree(out)
    return {"cpu": used, "wall": wall, "start": startup, "peak": high_water()}


def measure(quick: bool = False) -> list[Row]:
    """For a raw and a compressed file: limit and ingest in turn, ratios within a round."""
    size, rounds = (2048, 1) if quick else (20_000, 3)
    rows: list[Row] = []
    for kind in KINDS:
        make(size, kind)
        found = []
        for _ in range(rounds):
            parts = {**case(limit, size=size, kind=kind), **case(ingest, size=size, kind=kind)}
            parts["limit"] = sum(parts[n] for n in ("copy", "inflate", "codec", "coarser"))
            parts |= {"ratio": parts["cpu"] / parts["limit"], "alone": parts["limit"] - parts["coarser"]}
            found.append(parts)
        m = medians(found)
        names = {"copy": "copy", "inflate": "inflate", "codec": "zstd 1, level 0", "coarser": "zstd 1, coarser levels"}
        rows += [row(f"{kind}: {said}", m[n], "s") for n, said in names.items() if m[n]]
        rate = {"Mpx/s": size**2 / 1e6 / m["cpu"], "peak MiB": m["peak"], "start-up s": m["start"]}
        title = f"{size}², {kind} TIFF: ingest"
        rows.append(row(title, m["cpu"], "s", limit=m["limit"], ratio=m["ratio"], goal="≤ 1.2 x", job="ingest", **rate))
        alone = statistics.median(f["cpu"] / f["alone"] for f in found)
        rows.append(
            row(f"{kind}: the same, coarser levels' zstd not counted", m["cpu"], "s", limit=m["alone"], ratio=alone)
        )
    return rows
