"""Predict: the class map of an image, block by block, equal to one pass over the whole mirrored image."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit import ngff
from tilekit.box import Box
from tilekit.engine import Progress, Receipt, Stage, execute, no_progress
from tilekit.jobs.output import Pyramid, complete_pyramid, set_status, stage_folder
from tilekit.ledger import Summary, mark_started
from tilekit.mirror import read_mirrored
from tilekit.plan import Plan
from tilekit.predictor import VOID, Predictor
from tilekit.run import Runner
from tilekit.sources import Source
from tilekit.stats import count_bytes
from tilekit.store import group_attributes, update_group
from tilekit.tiling import Block, Tile, plan_pyramid, reach_of, tiles_of

Array = NDArray[Any]
STAGE = "predict"
CLASSES = "labels/classes"
PROBABILITIES = "probabilities"
_computing = threading.Lock()
"""One tile at a time per process: the other thread of a worker reads and writes meanwhile."""


@dataclass(frozen=True, slots=True)
class Input:
    """The image as the network sees it."""

    source: Source
    channels: tuple[int, ...]
    """Which of the image's channels, in the network's order."""
    fill: tuple[float, ...]
    """What the network sees in place of nodata, per channel: the channel's mean."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.source.shape[-2], self.source.shape[-1]

    def read(self, plane: tuple[int, ...], box: Box) -> Array:
        """Raw values (c, y, x) of a box inside the image."""
        axes = self.source.axes[:-2]
        channels: Sequence[int | None] = self.channels if "c" in axes else [None]
        parts = []
        for channel in channels:
            position = iter(plane)
            lead = [channel if a == "c" else next(position) for a in axes]
            start = (*(int(i or 0) for i in lead), *box.start)
            stop = (*(int(i or 0) + 1 for i in lead), *box.stop)
            parts.append(self.source.read(Box(start, stop)).reshape(1, *box.shape))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def fill_nodata(self, pixels: Array) -> tuple[Array, NDArray[np.bool_] | None]:
        """Nodata replaced by the channel's mean, and where the image is valid (y, x); None for everywhere.

        A pixel is void where all channels have the nodata value (as GDAL's dataset mask has it) or any is NaN.
        """
        nodata, is_float = self.source.nodata, pixels.dtype.kind == "f"
        if nodata is None and not is_float:
            return pixels, None
        void: NDArray[np.bool_] = np.isnan(pixels) if is_float else np.zeros(pixels.shape, bool)
        invalid: NDArray[np.bool_] = np.any(void, axis=0)
        if nodata is not None and nodata == nodata:
            absent = pixels == nodata
            invalid |= absent.all(0)
            void |= absent
        if not void.any():
            return pixels, None
        fill = np.array(self.fill, np.float64).reshape(-1, 1, 1)
        fill = fill if is_float else np.floor(fill + 0.5)
        return np.where(void, fill.astype(pixels.dtype), pixels), ~invalid


@dataclass(frozen=True, slots=True)
class PredictConfig:
    """What a task needs."""

    input: Input
    predictor: Predictor
    plan: Plan
    pyramids: tuple[Pyramid, ...]
    """The class map's, and the probabilities' where asked."""
    box: Box | None
    """Where to predict (y, x); the rest is void. None: everywhere."""
    mask: Source | None
    """Nonzero where to predict, of the image's size."""
    folder: Path


def predict_block(index: int, config: PredictConfig) -> Receipt:
    """Read one block with its halo, run its tiles through the network, write class ids as whole shards."""
    redone = mark_started(config.folder, index)
    block = config.plan.grid.block(index)
    wanted = _wanted(config, block)
    results, halved = _compute_block(config, block, wanted)
    shards: list[Any] = []
    for pyramid, pixels in zip(config.pyramids, results, strict=True):
        shards += pyramid.write_block(pyramid.passes[0], block.plane, block.box, pixels)
    counts = count_bytes(results[0])
    classes = {str(v): int(counts[v]) for v in np.flatnonzero(counts)}
    return Receipt(shards, {"classes": classes, "halved": halved}, redone)


def _wanted(config: PredictConfig, block: Block) -> NDArray[np.bool_] | None:
    """Where the user asked for a prediction in this block; None for everywhere."""
    if config.box is None and config.mask is None:
        return None
    wanted = np.ones(block.box.shape, bool)
    if config.box is not None:
        wanted[:] = False
        wanted[block.box.intersect(config.box).relative_to(block.box).slices] = True
    if config.mask is not None:
        wanted &= config.mask.read(block.box).reshape(-1, *block.box.shape)[0] != 0
    return wanted


def _compute_block(config: PredictConfig, block: Block, wanted: NDArray[np.bool_] | None) -> tuple[list[Array], int]:
    """Class ids (and stored probabilities) of a block, with void where there is nothing to predict."""
    image, plan, predictor = config.input, config.plan, config.predictor
    results = [_empty_block(p, block) for p in config.pyramids]
    tiles = tiles_of(block.box, plan.core, predictor.halo, predictor.stride)
    if wanted is not None:
        tiles = [t for t in tiles if wanted[t.core.relative_to(block.box).slices].any()]
    if not tiles:
        return results, 0
    reach = reach_of(tiles)
    pixels, valid = image.fill_nodata(read_mirrored(lambda b: image.read(block.plane, b), reach, image.shape))
    halved = 0
    for tile in tiles:
        inside = tile.core.relative_to(reach).slices
        if valid is not None and not valid[inside].any():
            continue
        halved += _compute_tile(tile, pixels, reach, predictor, block, results)
    keep = wanted
    if valid is not None:
        shown = valid[block.box.intersect(reach).relative_to(reach).slices]
        whole = np.zeros(block.box.shape, bool)
        whole[block.box.intersect(reach).relative_to(block.box).slices] = shown
        keep = whole if keep is None else keep & whole
    if keep is not None:
        for pyramid, result in zip(config.pyramids, results, strict=True):
            result[..., ~keep] = pyramid.fill
    return results, halved


def _empty_block(pyramid: Pyramid, block: Block) -> Array:
    lead = [1] * len(pyramid.leading)
    if pyramid.channel_axis is not None:
        lead[pyramid.channel_axis] = pyramid.leading[pyramid.channel_axis]
    return np.full((*lead, *block.box.shape), pyramid.fill, pyramid.dtype)


def _compute_tile(
    tile: Tile, pixels: Array, reach: Box, predictor: Predictor, block: Block, results: list[Array]
) -> int:
    """Run one tile and put its core in place; a tile too large for the device's memory is halved. Returns how often."""
    ask = len(results) > 1
    try:
        with _computing:
            part = pixels[(slice(None), *tile.read.relative_to(reach).slices)]
            classes, probabilities = predictor.predict(part[None], probabilities=ask)
    except MemoryError:
        sides = tuple(max(n // 2 // s, 1) * s for n, s in zip(tile.computed.shape, tile.stride, strict=True))
        if sides == tile.computed.shape:
            raise
        smaller = tiles_of(tile.core, (sides[0], sides[1]), tile.halo, tile.stride)
        return 1 + sum(_compute_tile(t, pixels, reach, predictor, block, results) for t in smaller)
    place: Any = (..., *tile.core.relative_to(block.box).slices)
    kept: Any = tuple(slice(0, n) for n in tile.core.shape)
    results[0][place] = classes[(0, *kept)]
    if ask and probabilities is not None:
        target = results[1]
        quantized = _quantize(probabilities[(0, slice(None), *kept)], target.dtype)
        target[place] = quantized.reshape(*target[place].shape)
    return 0


def _quantize(probabilities: NDArray[np.float32], dtype: Any) -> Array:
    """Probabilities as stored: 0..255 for uint8, as they are for floats."""
    if np.dtype(dtype) == np.uint8:
        probabilities = np.floor(probabilities * 255 + np.float32(0.5))
    stored: Array = probabilities.astype(dtype)
    return stored


def fold_counts(total: Summary, part: Summary) -> Summary:
    """Add the class counts of some blocks to those of others."""
    classes = dict(total.get("classes", {}))
    for value, n in part.get("classes", {}).items():
        classes[value] = classes.get(value, 0) + n
    return {"classes": classes, "halved": total.get("halved", 0) + part.get("halved", 0)}


@dataclass(frozen=True, slots=True)
class Layout:
    """How a prediction is laid down."""

    out: Path
    version: str
    """Of NGFF."""
    sharded: bool
    probabilities: str | None
    """Their dtype where they are stored too."""


def class_pyramids(image: Input, plan: Plan, predictor: Predictor, layout: Layout) -> tuple[Pyramid, ...]:
    """The arrays that a prediction writes."""
    axes = image.source.axes.replace("c", "")
    planes = plan.image.planes
    levels, passes = plan_pyramid(plan.image.shape, plan.block, sharded=layout.sharded)
    common: dict[str, Any] = {
        "out": layout.out,
        "levels": tuple(levels),
        "passes": tuple(passes),
        "version": layout.version,
    }
    classes = Pyramid(
        name=CLASSES, leading=planes, axes=axes, channel_axis=None, dtype="|u1", is_labels=True, fill=VOID, **common
    )
    if layout.probabilities is None:
        return (classes,)
    at = axes.index("z") if "z" in axes else axes.index("y")
    probabilities = Pyramid(
        name=PROBABILITIES,
        leading=(*planes[:at], predictor.n_classes, *planes[at:]),
        axes=f"{axes[:at]}c{axes[at:]}",
        channel_axis=at,
        dtype=np.dtype(layout.probabilities).str,
        is_labels=False,
        **common,
    )
    return classes, probabilities


def run_predict(
    config: PredictConfig, runner: Runner, *, arguments: dict[str, Any], progress: Progress = no_progress
) -> list[Any]:
    """Write the class map with its pyramid and metadata; the caller holds the lock."""

    def prepare() -> None:
        set_status(out, config.pyramids[0].version, "running")
        for pyramid in config.pyramids:
            _write_metadata(config, pyramid)
            pyramid.create()

    out = config.pyramids[0].out
    stage = Stage(STAGE, out, predict_block, config, config.plan.n_blocks, arguments, fold_counts, prepare)
    reports = [execute(stage, runner, progress)]
    for pyramid in config.pyramids:
        name = STAGE if pyramid.is_labels else f"{STAGE}-probabilities"
        reports += complete_pyramid(pyramid, name, runner, progress)
    return reports


def prediction_folder(out: Path) -> Path:
    return stage_folder(out, STAGE)


def _write_metadata(config: PredictConfig, pyramid: Pyramid) -> None:
    source, names, version = config.input.source, config.predictor.class_names, pyramid.version
    entry = ngff.multiscales(
        pyramid.name.rpartition("/")[2],
        pyramid.axes,
        len(pyramid.levels),
        version,
        pixel_size=source.pixel_size,
        translation=source.translation,
        method="majority" if pyramid.is_labels else "mean",
    )
    content: dict[str, Any] = {"multiscales": entry}
    if pyramid.is_labels:
        labels = pyramid.out / "labels"
        listed = _listed_labels(labels)
        update_group(labels, version, ngff.as_attributes(version, labels=[*listed, "classes"]))
        content["image-label"] = ngff.image_label(names, VOID, version)
    else:
        top = 255.0 if pyramid.dtype == "|u1" else 1.0
        content["omero"] = ngff.omero(names, [(0.0, top, 0.0, top)] * len(names))
    update_group(pyramid.out / pyramid.name, version, ngff.as_attributes(version, **content))


def _listed_labels(labels: Path) -> list[str]:
    attributes = group_attributes(labels)
    listed = attributes.get("ome", attributes).get("labels", [])
    return [name for name in listed if name != "classes"]
