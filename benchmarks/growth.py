"""What grows with the image: `tilekit segment` on 1, 4, 16 and 64 times the pixels, with 1 and 2 workers.

A tiny network (U-Net 4/2) and blocks of 1024, so that the smallest image has 16 of them. CPU seconds and peak resident
memory of driver and workers as seen from outside. Seconds are what an image takes more than the one before it (the
first: than a tiny one), per pixel or block that it has more; blocks are those of ingest and of predict.
"""

from __future__ import annotations

import shutil

from benchmarks import common
from benchmarks.common import Row, case, note, row, say

BLOCK = 1024


def segment(size: int, workers: int, block: int) -> dict[str, float]:
    """One run from outside."""
    out = common.WORK / "growth.zarr"
    shutil.rmtree(out, ignore_errors=True)
    image, model = common.specimen_tiff(size), common.checkpoint(4, 2)
    found = common.family(common.tilekit("segment", image, model, out, "--workers", workers, "--block", block))
    shutil.rmtree(out)
    return found


def measure(quick: bool = False) -> list[Row]:
    """Rows for each number of workers; the limit of each is the smallest image's."""
    sizes, counts = ([1024, 2048], [2]) if quick else ([4096, 8192, 16_384, 32_768], [1, 2])
    block = 256 if quick else BLOCK
    rows: list[Row] = []
    for workers in counts:
        start = case(segment, size=256, workers=workers, block=64)
        runs = {}
        for size in sizes:
            runs[size] = case(segment, size=size, workers=workers, block=block)
            say(f"{size}² with {workers}: {runs[size]}")
        first, last = sizes[0], sizes[-1]
        said = f"{workers} worker{'s' * (workers > 1)}"
        before, blocks_before, pixels_before, cheapest = start, 0, 0, None
        for size, r in runs.items():
            blocks, pixels = 2 * (size // block) ** 2, size**2
            cpu = (r["worker_cpu"] - before["worker_cpu"]) / (pixels - pixels_before) * 1e6
            driver = (r["driver_cpu"] - before["driver_cpu"]) / (blocks - blocks_before) * 1e3
            before, blocks_before, pixels_before = r, blocks, pixels
            more = {"driver MiB": r["driver"], "worker MiB": r["worker"], "blocks": blocks, "wall s": r["wall"],
                    "driver ms/block": driver}  # fmt: skip
            title = f"{said}, {size}² ({size**2 // first**2} times the pixels): workers' CPU"
            rows.append(row(title, cpu, "s/Mpx", limit=cheapest, **more))
            cheapest = cheapest or cpu
        a, b = runs[first], runs[last]
        times = last**2 // first**2
        rows += [
            row(
                f"{said}: peak of a worker, {times} times the pixels",
                b["worker"],
                "MiB",
                limit=a["worker"],
                goal="≤ 1.1 x",
            ),
            row(
                f"{said}: peak of the driver, {times} times the pixels",
                b["driver"],
                "MiB",
                limit=a["driver"],
                goal="≤ 1.1 x",
            ),
            row(f"{said}: driver's CPU per block, {last}²", driver, "ms", goal="≤ 4"),
        ]
    return [
        *rows,
        note(f"Limits are the smallest image's. A tiny image: {start['worker_cpu'] + start['driver_cpu']:.1f} s."),
    ]
