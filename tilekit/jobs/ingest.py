"""Ingest: an image of any size into OME-Zarr, with its pyramid and its statistics, in one pass over its pixels."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tilekit.box import Box
from tilekit.copies import staged
from tilekit.engine import Progress, Receipt, Report, Stage, execute, no_progress
from tilekit.errors import InputError
from tilekit.jobs.output import (
    Pyramid,
    check_disk,
    check_output,
    clear_output,
    complete_pyramid,
    lay_levels,
    now,
    set_status,
    stage_folder,
    writing,
)
from tilekit.jobs.statistics import block_statistics, fold_statistics, plain, store_statistics
from tilekit.ledger import FOLDER, mark_started
from tilekit.ngff import VERSIONS, as_attributes, mask_label, multiscales, omero
from tilekit.run import Runner, SerialRunner
from tilekit.sources import Source
from tilekit.sources.array import open_npy
from tilekit.stats import ChannelStats
from tilekit.store import group_attributes, update_group
from tilekit.tiling import block_side

STAGE = "ingest"
VALID = "labels/valid"
"""The mask that an image brings: 1 where it is valid."""


@dataclass(frozen=True, slots=True)
class IngestConfig:
    """What a task needs."""

    source: Source
    pyramid: Pyramid
    mask: Pyramid | None
    folder: Path


def image_pyramid(
    source: Source,
    out: Path,
    *,
    block: int | None,
    version: str,
    chunk: int | None = None,
    sharded: bool | None = None,
) -> Pyramid:
    """The arrays that an image becomes; unless asked for, an image with a place on the ground has no shards."""
    shape = (source.shape[-2], source.shape[-1])
    side = block or block_side(shape, (1, 1))
    if sharded is None:
        sharded = source.georeference is None
    planes = math.prod(source.shape[:-2])
    levels, passes = lay_levels(shape, side, planes, chunk=chunk, sharded=sharded and version != "0.4")
    fill: float = np.nan if source.dtype.kind == "f" else 0
    return Pyramid(
        out=out,
        name="",
        leading=tuple(source.shape[:-2]),
        axes=source.axes,
        channel_axis=source.axes.index("c") if "c" in source.axes else None,
        dtype=source.dtype.str,
        levels=levels,
        passes=passes,
        version=version,
        is_labels=False,
        fill=fill if source.nodata is None else source.nodata,
        nodata=source.nodata,
        georeference=source.georeference,
    )


def mask_pyramid(image: Pyramid) -> Pyramid:
    """The arrays that the mask of an image becomes: (y, x), written by the same blocks."""
    return replace(
        image, name=VALID, leading=(), axes="yx", channel_axis=None, dtype="|u1", is_labels=True, fill=0, nodata=None
    )


def ingest_block(index: int, config: IngestConfig) -> Receipt:
    """Read one block of the source, write it on every level that it owns, and sum up its channels."""
    redone = mark_started(config.folder, index)
    pyramid, step = config.pyramid, config.pyramid.passes[0]
    block = pyramid.grid(step).block(index)
    region = pyramid.region(block.plane, block.box)
    pixels = config.source.read(Box(tuple(s.start for s in region), tuple(s.stop for s in region)))
    shards = pyramid.write_block(step, block.plane, block.box, pixels)
    mask = None if config.source.mask is None else config.source.mask.read(block.box)
    if mask is not None and config.mask is not None and not any(block.plane):
        shards += config.mask.write_block(step, (), block.box, (mask != 0).astype(np.uint8))
    return Receipt(shards, block_statistics(pixels, pyramid.nodata, config.source.alpha, mask), redone)


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
        "pixel_size": None if source.pixel_size is None else list(source.pixel_size),
    }
    mask = None if source.mask is None else mask_pyramid(pyramid)
    config = IngestConfig(reachable(source, out, runner), pyramid, mask, stage_folder(out, STAGE))

    def make_arrays() -> None:
        set_status(out, version, "running", source=source.fingerprint, date=now(), view=_view(source))
        for part in (pyramid, mask):
            if part is not None:
                part.create()

    grid = pyramid.grid(first)
    stage = Stage(
        STAGE,
        out,
        ingest_block,
        config,
        len(grid),
        arguments,
        fold_statistics,
        make_arrays,
        grid=grid,
        sources=(config.source,),
    )
    reports = [execute(stage, runner, progress)]
    reports += complete_pyramid(pyramid, STAGE, runner, progress)
    stats = store_statistics(source, out, version, reports[0].summary)
    if mask is not None:
        reports += complete_pyramid(mask, f"{STAGE}-mask", runner, progress)
        _write_mask_metadata(source, mask)
    _write_metadata(source, pyramid, stats)
    return reports


def reachable(source: Source, out: Path, runner: Runner) -> Source:
    """A source that worker processes can open: an array in memory is put into a file for them."""
    pixels = getattr(source.reference, "source", None)
    if isinstance(runner, SerialRunner) or not isinstance(pixels, np.ndarray):
        return source
    path = out / FOLDER / "array.npy"
    with staged(path) as partial, partial.open("wb") as file:
        np.save(file, pixels)
    reference = replace(source.reference, source=str(path), opener=open_npy)
    return replace(source, reference=reference, fingerprint=reference.open().fingerprint, reader=None)


def _view(source: Source) -> dict[str, Any]:
    """What of the file was asked for: series, level, channels, axes, t, z."""
    asked = {name: getattr(source.reference, name, None) for name in ("series", "level", "channels", "axes", "t", "z")}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asked.items() if v is not None}


def _describe(source: Source) -> dict[str, Any]:
    """What pixels mean beyond OME-NGFF's words, for the root attribute `tilekit`."""
    described = {
        "channel_names": source.channel_names,
        "wavelengths": source.wavelengths,
        "value_scale": source.value_scale,
        "color_table": source.color_table,
        "alpha": source.alpha,
        "mask": None if source.mask is None else VALID,
    }
    return {name: value for name, value in described.items() if value is not None}


def _write_mask_metadata(source: Source, pyramid: Pyramid) -> None:
    """Metadata of `labels/valid`, and its name among the labels."""
    out, version = pyramid.out, pyramid.version
    entry = multiscales(
        "valid",
        pyramid.axes,
        len(pyramid.levels),
        version,
        pixel_size=source.pixel_size,
        slice_spacing=source.slice_spacing,
        translation=source.translation,
        method="majority",
    )
    content = {"multiscales": entry, "image-label": mask_label(version)}
    update_group(out / VALID, version, as_attributes(version, **content))
    attributes = group_attributes(out / "labels")
    listed = attributes.get("ome", attributes).get("labels", [])
    update_group(out / "labels", version, as_attributes(version, labels=sorted({*listed, "valid"})))


def _write_metadata(source: Source, pyramid: Pyramid, stats: list[ChannelStats]) -> None:
    version = pyramid.version
    entry = multiscales(
        source.name,
        source.axes,
        len(pyramid.levels),
        version,
        pixel_size=source.pixel_size,
        slice_spacing=source.slice_spacing,
        translation=source.translation,
        method="mean",
    )
    names = source.channel_names or [f"channel {i}" for i in range(len(stats))]
    windows = [_window(s) for s in stats]
    content: dict[str, Any] = {"multiscales": entry}
    if pyramid.channel_axis is not None:
        content["omero"] = omero(names, windows, source.wavelengths)
    update_group(pyramid.out, version, as_attributes(version, **content))
    set_status(pyramid.out, version, "running", image=_describe(source))


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
    chunk: int | None = None,
    ngff: str = "0.5",
    shards: bool | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Ingest as a job of its own, from the checks to the word complete.

    `chunk` None is 512 pixels, more where that would be too many files; `shards` None is yes, unless the image has a
    place on the ground, since few readers of those know shards.
    """
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
