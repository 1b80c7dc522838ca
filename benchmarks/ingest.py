"""Ingest of a tiled TIFF against its limit: a copy of the file and the codec alone, in CPU seconds.

    python benchmarks/ingest.py [--size 20000] [--rounds 5]

The limit is a copy of the file, inflate of its tiles where it is compressed, and zstd level 1 of every chunk that is
written, those of the pyramid's coarser levels named apart. Start-up (imports and compiled loops) is named apart too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from tilekit.jobs.ingest import ingest_image
from tilekit.pyramid import halve_mean
from tilekit.run import open_runner
from tilekit.sources import open_image
from tilekit.tiling import CHUNK

TILE = 512
KINDS = {"raw": None, "deflate": "zlib"}


def make(work: Path, size: int, kind: str) -> Path:
    """A tiled BigTIFF (uint8) of smooth structures 8 pixels wide under noise, which zstd hardly shrinks; made once."""
    path = work / f"cells-{size}-{kind}.tif"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
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


def timed(work: Callable[[], Any]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def limit(path: Path) -> dict[str, float]:
    """CPU seconds of a copy, of inflate, and of zstd level 1 of all chunks, level 0 and the rest."""
    from numcodecs import Zstd

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        decode, compressed = page.decode, page.compression != 1
    found = {"copy": timed(lambda: shutil.copyfile(path, path.with_suffix(".copy")))}
    path.with_suffix(".copy").unlink()
    found["inflate"] = found["codec"] = found["codec, pyramid"] = 0.0
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
        level, name = halve_mean(level), "codec, pyramid"


def ingest(path: Path) -> dict[str, float]:
    """CPU seconds of an ingest in this process, start-up apart: what a small image took before it."""
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


def high_water() -> float:
    """Peak resident memory of this process in MiB (what getrusage has counts the parent's at the fork)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", choices=["limit", "ingest"], help=argparse.SUPPRESS)
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps({"limit": limit, "ingest": ingest}[given.part](given.image)))
        return

    sys.path.insert(0, str(Path(__file__).parent))
    from common import WORK, child, record, table  # imports torch, which the memory of the child must not hold

    rows: list[tuple[str, str, str]] = []
    figures = {}
    for kind in KINDS:
        image = str(make(WORK, given.size, kind))
        rounds = []
        for _ in range(given.rounds):
            parts = [child(__file__, "--part", part, "--image", image) for part in ("limit", "ingest")]
            rounds.append({**parts[0], **parts[1]})
        middle = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
        names = ("copy", "inflate", "codec", "codec, pyramid")
        whole = statistics.median(r["cpu"] / sum(r[n] for n in names) for r in rounds)
        alone = statistics.median(r["cpu"] / sum(r[n] for n in names[:3]) for r in rounds)
        megabytes = given.size**2 / 1e6
        rows += [(f"{kind}: {name}", f"{middle[name]:.2f} s", "") for name in names if middle[name]]
        rows += [
            (f"{kind}: tilekit ingest, one process", f"{middle['cpu']:.2f} s", f"{megabytes / middle['cpu']:.0f} MB/s"),
            (f"{kind}: over the limit", f"{whole:.2f}", "goal 1.40"),
            (f"{kind}: over the limit without the pyramid's chunks", f"{alone:.2f}", ""),
            (f"{kind}: start-up", f"{middle['start']:.2f} s", ""),
            (f"{kind}: peak memory", f"{middle['peak']:.0f} MiB", ""),
        ]
        figures[kind] = {**middle, "ratio": whole, "ratio without pyramid": alone}
    table(f"Ingest of {given.size} x {given.size} pixels, uint8, tiled TIFF: CPU seconds, medians", rows)
    record("ingest", figures)


if __name__ == "__main__":
    main()
