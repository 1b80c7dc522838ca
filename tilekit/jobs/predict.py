"""Predict: the class map of an image, block by block, equal to one pass over the whole mirrored image."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit import ngff
from tilekit.box import Box
from tilekit.boxes import Boxes
from tilekit.confidence import CHANNELS as CONFIDENCE_CHANNELS
from tilekit.confidence import confidence
from tilekit.engine import Progress, Receipt, Stage, execute, no_progress
from tilekit.jobs.area import Area
from tilekit.jobs.input import Input, Mask
from tilekit.jobs.output import Pyramid, complete_pyramid, lay_levels, set_status, stage_folder, write_metadata
from tilekit.ledger import Summary, mark_started
from tilekit.plan import Plan
from tilekit.predictor import VOID, Predictor
from tilekit.resample import Grid
from tilekit.run import Runner, check_wanted
from tilekit.stats import count_bytes
from tilekit.tiling import Block, Tile, reach_of, tiles_of

Array = NDArray[Any]
STAGE = "predict"
CLASSES = "labels/classes"
PROBABILITIES = "probabilities"
CONFIDENCE = "confidence"
N_LOWEST = 10
"""Blocks of lowest confidence that a run lists."""
_computing = threading.Lock()
"""One tile at a time per process: the other thread of a worker reads and writes meanwhile."""


@dataclass(frozen=True, slots=True)
class PredictConfig:
    """What a task needs."""

    input: Input
    predictor: Predictor
    plan: Plan
    pyramids: tuple[Pyramid, ...]
    """The class map's, and where asked those of the probabilities and the confidence."""
    boxes: tuple[Box, ...]
    """Where to predict (y, x); the rest is void. Empty: everywhere."""
    area: Area | None
    """Where to predict, told by a mask; None: everywhere."""
    folder: Path


def predict_block(index: int, config: PredictConfig) -> Receipt:
    """Read one block with its halo, run its tiles through the network, write class ids as whole shards."""
    redone = mark_started(config.folder, index)
    block = config.plan.grid.block(index)
    results, halved = compute_block(config, block)
    shards: list[Any] = []
    for pyramid, pixels in zip(config.pyramids, results, strict=True):
        shards += pyramid.write_block(pyramid.passes[0], block.plane, block.box, pixels)
    counts = count_bytes(results[0])
    classes = {str(v): int(counts[v]) for v in np.flatnonzero(counts)}
    summary: Summary = {"classes": classes, "halved": halved}
    if config.pyramids[-1].name == CONFIDENCE and (mean := _mean_confidence(results, config.pyramids[-1])) is not None:
        summary["lowest"] = [[mean, index]]
    return Receipt(shards, summary, redone)


def _mean_confidence(results: list[Array], pyramid: Pyramid) -> float | None:
    """Mean of the highest probability over the pixels of a block that have a class; None where none has."""
    known = results[0].reshape(results[0].shape[-2:]) != VOID
    if not known.any():
        return None
    highest = results[-1].take(0, pyramid.channel_axis).reshape(known.shape)[known]
    return round(float(highest.mean(dtype=np.float64)) / (255 if highest.dtype == np.uint8 else 1), 4)


def wanted(config: PredictConfig, box: Box) -> Mask | None:
    """Where the user asked for a prediction in a box of the image (y, x); None for everywhere."""
    if not config.boxes and config.area is None:
        return None
    asked = np.zeros(box.shape, bool) if config.boxes else np.ones(box.shape, bool)
    for part in config.boxes:
        asked[box.intersect(part).relative_to(box).slices] = True
    if config.area is not None and asked.any():
        asked &= config.area.where(box)
    return asked


def compute_block(config: PredictConfig, block: Block) -> tuple[list[Array], int]:
    """Class ids (and stored probabilities) of a block, with void where there is nothing to predict.

    Any box of the image will do: its tiles start on the phase of the network's stride, whichever block they serve.
    """
    image, plan, predictor = config.input, config.plan, config.predictor
    results = [_empty_block(p, block) for p in config.pyramids]
    keep = wanted(config, block.box)
    if keep is not None and not keep.any():
        return results, 0
    valid = image.valid(block.plane, block.box)
    keep = valid if keep is None else keep if valid is None else keep & valid
    target = Target(block.box, image.grid, results, tuple(p.name for p in config.pyramids))
    tiles = tiles_of(image.grid.cover(block.box, predictor.stride), plan.core, predictor.halo, predictor.stride)
    if keep is not None:
        tiles = [t for t in tiles if keep[target.place(t.core)].any()]
    if not tiles:
        return results, 0
    reach = reach_of(tiles)
    pixels = image.read(block.plane, reach)
    halved = sum(_compute_tile(tile, pixels, reach, predictor, target) for tile in tiles)
    if keep is not None:
        for pyramid, result in zip(config.pyramids, results, strict=True):
            result[..., ~keep] = pyramid.fill
    return results, halved


def _empty_block(pyramid: Pyramid, block: Block) -> Array:
    lead = [1] * len(pyramid.leading)
    if pyramid.channel_axis is not None:
        lead[pyramid.channel_axis] = pyramid.leading[pyramid.channel_axis]
    return np.full((*lead, *block.box.shape), pyramid.fill, pyramid.dtype)


@dataclass(frozen=True, slots=True)
class Target:
    """A box of the image that network pixels are spread over."""

    box: Box
    grid: Grid
    results: list[Array]
    """Class ids and what is asked for of probabilities and confidence, (..., y, x)."""
    names: tuple[str, ...] = (CLASSES,)
    """What each result is."""

    def place(self, core: Box) -> tuple[slice, slice]:
        """The part of the box whose pixels get the classes of these network pixels."""
        slices = []
        for axis, index in enumerate(self._indices()):
            first, stop = np.searchsorted(index, (core.start[axis], core.stop[axis]))
            slices.append(slice(int(first), int(stop)))
        return slices[0], slices[1]

    def _indices(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        start, stop = self.box.start, self.box.stop
        return self.grid.index(0, start[0], stop[0]), self.grid.index(1, start[1], stop[1])

    def spread(self, pixels: Array, core: Box) -> Array:
        """Values of network pixels (..., y, x) on the pixels of `place(core)`."""
        for axis, (index, part) in enumerate(zip(self._indices(), self.place(core), strict=True)):
            pixels = pixels.take(index[part] - core.start[axis], pixels.ndim - 2 + axis)
        return pixels


def _compute_tile(tile: Tile, pixels: Array, reach: Box, predictor: Predictor, target: Target) -> int:
    """Run one tile and put its core in place; a tile too large for the device's memory is halved. Returns how often."""
    ask = len(target.results) > 1
    try:
        with _computing:
            check_wanted()
            part = pixels[(slice(None), *tile.read.relative_to(reach).slices)]
            classes, probabilities = predictor.predict(part[None], probabilities=ask)
    except MemoryError:
        sides = tuple(max(n // 2 // s, 1) * s for n, s in zip(tile.computed.shape, tile.stride, strict=True))
        if sides == tile.computed.shape:
            raise
        smaller = tiles_of(tile.core, (sides[0], sides[1]), tile.halo, tile.stride)
        return 1 + sum(_compute_tile(t, pixels, reach, predictor, target) for t in smaller)
    place: Any = (..., *target.place(tile.core))
    kept: Any = tuple(slice(0, n) for n in tile.core.shape)
    target.results[0][place] = target.spread(classes[(0, *kept)], tile.core)
    if ask and probabilities is not None:
        found = probabilities[(0, slice(None), *kept)]
        for name, stored in zip(target.names[1:], target.results[1:], strict=True):
            quantized = _quantize(confidence(found) if name == CONFIDENCE else found, stored.dtype)
            stored[place] = target.spread(quantized, tile.core).reshape(stored[place].shape)
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
    folded: Summary = {"classes": classes, "halved": total.get("halved", 0) + part.get("halved", 0)}
    if lowest := [*total.get("lowest", []), *part.get("lowest", [])]:
        folded["lowest"] = sorted(lowest)[:N_LOWEST]
    return folded


@dataclass(frozen=True, slots=True)
class Layout:
    """How a prediction is laid down."""

    out: Path
    version: str
    """Of NGFF."""
    sharded: bool
    probabilities: str | None
    """Their dtype where they are stored too."""
    confidence: str | None = None
    """That of highest probability and entropy, where they are."""


def class_pyramids(image: Input, plan: Plan, predictor: Predictor, layout: Layout) -> tuple[Pyramid, ...]:
    """The arrays that a prediction writes."""
    axes = image.source.axes.replace("c", "")
    planes = plan.image.planes
    levels, passes = lay_levels(plan.image.shape, plan.block, math.prod(planes), chunk=None, sharded=layout.sharded)
    common: dict[str, Any] = {
        "out": layout.out,
        "levels": levels,
        "passes": passes,
        "version": layout.version,
        "georeference": image.source.georeference,
    }
    classes = Pyramid(
        name=CLASSES, leading=planes, axes=axes, channel_axis=None, dtype="|u1", is_labels=True, fill=VOID, **common
    )
    at = axes.index("z") if "z" in axes else axes.index("y")
    asked = [
        (PROBABILITIES, layout.probabilities, predictor.n_classes),
        (CONFIDENCE, layout.confidence, len(CONFIDENCE_CHANNELS)),
    ]
    others = (
        Pyramid(
            name=name,
            leading=(*planes[:at], n, *planes[at:]),
            axes=f"{axes[:at]}c{axes[at:]}",
            channel_axis=at,
            dtype=np.dtype(dtype).str,
            is_labels=False,
            **common,
        )
        for name, dtype, n in asked
        if dtype is not None
    )
    return classes, *others


def run_predict(
    config: PredictConfig,
    runner: Runner,
    *,
    arguments: dict[str, Any],
    boxes: Boxes | None = None,
    progress: Progress = no_progress,
) -> list[Any]:
    """Write the class map with its pyramid and metadata; the caller holds the lock.

    `boxes` are all that were ever asked for of this output: what they leave alone, and is recorded, is kept.
    """
    asked = boxes or Boxes((None,))

    def prepare() -> None:
        asked.write(out, STAGE)
        set_status(out, config.pyramids[0].version, "running")
        for pyramid in config.pyramids:
            write_metadata(pyramid, config.input.source, _meaning(config, pyramid))
            pyramid.create()

    out, grid = config.pyramids[0].out, config.plan.grid
    requests = asked.over(grid)
    stage = Stage(STAGE, out, predict_block, config, len(grid), arguments, fold_counts, prepare, requests, grid)
    reports = [execute(stage, runner, progress)]
    for pyramid in config.pyramids:
        name = STAGE if pyramid.is_labels else f"{STAGE}-{pyramid.name}"
        reports += complete_pyramid(pyramid, name, runner, progress, asked)
    return reports


def prediction_folder(out: Path) -> Path:
    return stage_folder(out, STAGE)


def _meaning(config: PredictConfig, pyramid: Pyramid) -> dict[str, Any]:
    """Names and colors of classes, or of the two figures of confidence."""
    names: Sequence[str] = config.predictor.class_names
    if pyramid.is_labels:
        return {"image-label": ngff.image_label(names, VOID, pyramid.version)}
    names = CONFIDENCE_CHANNELS if pyramid.name == CONFIDENCE else names
    top = 255.0 if pyramid.dtype == "|u1" else 1.0
    return {"omero": ngff.omero(names, [(0.0, top, 0.0, top)] * len(names))}
