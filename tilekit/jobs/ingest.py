"""Ingest: an image of any size into OME-Zarr, with its pyramid and its statistics, in one pass over its pixels."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilekit.box import Box
from tilekit.engine import Progress, Receipt, Report, Stage, execute, no_progress
from tilekit.errors import InputError
from tilekit.jobs.output import (
    Pyramid,
    check_disk,
    check_output,
    clear_output,
    complete_pyramid,
    now,
    reachable,
    set_status,
    stage_folder,
    writing,
)
from tilekit.jobs.statistics import block_statistics, fold_statistics, plain, store_statistics
from tilekit.ledger import mark_started
from tilekit.ngff import VERSIONS, as_attributes, multiscales, omero
from tilekit.run import Runner
from tilekit.sources import Source
from tilekit.stats import ChannelStats
from tilekit.store import update_group
from tilekit.tiling import CHUNK, block_side, plan_pyramid

STAGE = "ingest"


@dataclass(frozen=True, slots=True)
class IngestConfig:
    """What a task needs."""

    source: Source
    pyramid: Pyramid
    folder: Path


def image_pyramid(
    source: Source, out: Path, *, block: int | None, version: str, chunk: int = CHUNK, sharded: bool = True
) -> Pyramid:
    """The arrays that an image becomes."""
    shape = (source.shape[-2], source.shape[-1])
    side = block or block_side(shape, (1, 1))
    levels, passes = plan_pyramid(shape, side, chunk=chunk, sharded=sharded and version != "0.4")
    return Pyramid(
        out=out,
        name="",
        leading=tuple(source.shape[:-2]),
        axes=source.axes,
        channel_axis=source.axes.index("c") if "c" in source.axes else None,
        dtype=source.dtype.str,
        levels=tuple(levels),
        passes=tuple(passes),
        version=version,
        is_labels=False,
        nodata=source.nodata,
    )


def ingest_block(index: int, config: IngestConfig) -> Receipt:
    """Read one block of the source, write it on every level that it owns, and sum up its channels."""
    redone = mark_started(config.folder, index)
    pyramid, step = config.pyramid, config.pyramid.passes[0]
    block = pyramid.grid(step).block(index)
    region = pyramid.region(block.plane, block.box)
    pixels = config.source.read(Box(tuple(s.start for s in region), tuple(s.stop for s in region)))
    shards = pyramid.write_block(step, block.plane, block.box, pixels)
    return Receipt(shards, block_statistics(pixels, pyramid.nodata), redone)


def run_ingest(source: Source, pyramid: Pyramid, runner: Runner, progress: Progress = no_progress) -> list[Report]:
    """Write the image, its pyramid, metadata and statistics; the caller holds the lock."""
    out, version = pyramid.out, pyramid.version
    first = pyramid.passes[0]
    arguments = {
        "source": source.fingerprint,
        "shape": list(source.shape),
        "dtype": source.dtype.str,
        "block": first.side,
        "chunk": pyramid.levels[0].chunk,
        "shard": pyramid.levels[0].shard,
        "ngff": version,
        "nodata": plain(source.nodata),
    }
    config = IngestConfig(reachable(source, out, runner), pyramid, stage_folder(out, STAGE))

    def make_arrays() -> None:
        set_status(out, version, "running", source=source.fingerprint, date=now())
        pyramid.create()

    n_blocks = len(pyramid.grid(first))
    stage = Stage(STAGE, out, ingest_block, config, n_blocks, arguments, fold_statistics, make_arrays)
    reports = [execute(stage, runner, progress)]
    reports += complete_pyramid(pyramid, STAGE, runner, progress)
    stats = store_statistics(out, version, reports[0].summary, source.nodata)
    _write_metadata(source, pyramid, stats)
    return reports


def _write_metadata(source: Source, pyramid: Pyramid, stats: list[ChannelStats]) -> None:
    version = pyramid.version
    entry = multiscales(
        source.name,
        source.axes,
        len(pyramid.levels),
        version,
        pixel_size=source.pixel_size,
        translation=source.translation,
        method="mean",
    )
    names = source.channel_names or [f"channel {i}" for i in range(len(stats))]
    windows = [_window(s) for s in stats]
    content: dict[str, Any] = {"multiscales": entry}
    if pyramid.channel_axis is not None:
        content["omero"] = omero(names, windows)
    update_group(pyramid.out, version, as_attributes(version, **content))


def _window(stats: ChannelStats) -> tuple[float, float, float, float]:
    """Contrast that shows a channel: from its lowest to its highest percent."""
    if not stats.count:
        return (0.0, 1.0, 0.0, 1.0)
    low, high = stats.percentile(1), stats.percentile(99)
    return (stats.low, stats.high, low, high if high > low else low + 1)


def ingest_image(
    source: Source,
    out: Path,
    runner: Runner,
    *,
    block: int | None = None,
    chunk: int = CHUNK,
    ngff: str = "0.5",
    shards: bool = True,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Ingest as a job of its own, from the checks to the word complete."""
    if ngff not in VERSIONS:
        raise InputError(f"NGFF {ngff} is not written; choose {' or '.join(VERSIONS)}")
    check_output(out, overwrite=overwrite)
    pyramid = image_pyramid(source, out, block=block, version=ngff, chunk=chunk, sharded=shards)
    check_disk(out, math.prod(source.shape) * source.dtype.itemsize * 4 // 3)
    started = time.perf_counter()
    with writing(out):
        if overwrite:
            clear_output(out)
        reports = run_ingest(source, pyramid, runner, progress)
        set_status(out, ngff, "complete")
    return {
        "blocks": reports[0].blocks,
        "redone": sum(r.redone for r in reports),
        "seconds": round(time.perf_counter() - started, 3),
        "output": str(out),
    }
