"""Decide again: a class map of a store's probabilities by other thresholds, without predicting again."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box, grid_boxes
from tilekit.copies import remove_tree
from tilekit.engine import Progress, Receipt, Stage, execute, no_progress
from tilekit.errors import InputError
from tilekit.jobs.label import open_classes
from tilekit.jobs.output import (
    Pyramid,
    complete_pyramid,
    is_sharded,
    lay_levels,
    set_status,
    stage_folder,
    write_metadata,
    writing,
)
from tilekit.jobs.predict import CLASSES, PROBABILITIES, fold_counts
from tilekit.jobs.predict import STAGE as PREDICT
from tilekit.ledger import FOLDER, mark_started, written_digest
from tilekit.predictor import VOID, decide
from tilekit.run import Runner
from tilekit.sources import Source, open_image
from tilekit.stats import count_bytes
from tilekit.store import group_attributes, read_region, store_version, update_group
from tilekit.tiling import Block, block_side

SIDE = 1024
"""Of what is decided at once, in pixels: a block's probabilities may be many times its class map."""


@dataclass(frozen=True, slots=True)
class DecideConfig:
    """What a task needs."""

    pyramid: Pyramid
    channel_axis: int
    """Of the probabilities."""
    head: str
    thresholds: tuple[float, ...]
    folder: Path


def decide_again(
    out: Path,
    thresholds: Sequence[float],
    name: str,
    runner: Runner,
    *,
    block: int | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write out/labels/NAME, with its pyramid, of out/probabilities; void stays void."""
    classes, _ = open_classes(out, None)
    chances = _probabilities(out)
    k = chances.shape[axis := chances.axes.index("c")]
    head, layer, stage = _rule(out, thresholds, k), f"labels/{name}", f"decide-{name}"
    if not name.isidentifier() or layer in (CLASSES, "labels/objects", "labels/valid"):
        raise InputError(f"{out}: a class map cannot be named {name!r}; choose a name of letters, as decided")
    version, started = store_version(out), time.perf_counter()
    pyramid = _pyramid(classes, out, layer, version, block)
    config = DecideConfig(pyramid, axis, head, tuple(thresholds), stage_folder(out, stage))
    grid = pyramid.grid(pyramid.passes[0])
    arguments = {"thresholds": list(thresholds), "block": grid.side, "written": written_digest(out, PREDICT)}

    def prepare() -> None:
        set_status(out, version, "running")
        known = group_attributes(out / CLASSES)
        write_metadata(pyramid, classes, {"image-label": known.get("ome", known)["image-label"]})
        update_group(out / layer, version, {"tilekit": {"thresholds": list(thresholds)}})
        pyramid.create()

    with writing(out):
        if overwrite:
            for path in (out / layer, *(out / FOLDER).glob(f"{stage}*")):
                remove_tree(path)
        job = Stage(stage, out, decide_block, config, len(grid), arguments, fold_counts, prepare, grid=grid)
        reports = [execute(job, runner, progress), *complete_pyramid(pyramid, stage, runner, progress)]
        set_status(out, version, "complete")
    return {
        "classes": reports[0].summary.get("classes", {}),
        "blocks": reports[0].blocks,
        "redone": sum(r.redone for r in reports),
        "seconds": round(time.perf_counter() - started, 3),
        "output": str(out / layer),
    }


def decide_block(index: int, config: DecideConfig) -> Receipt:
    """Decide the pixels of a block that have a class."""
    redone = mark_started(config.folder, index)
    pyramid = config.pyramid
    step = pyramid.passes[0]
    block = pyramid.grid(step).block(index)
    classes = read_region(pyramid.out / CLASSES / "0", pyramid.region(block.plane, block.box)).astype(np.uint8)
    known = classes.reshape(block.box.shape)  # a view: what is decided is decided in place
    for box in grid_boxes(block.box, (SIDE, SIDE)):
        part = known[box.relative_to(block.box).slices]
        found = decide(_read(config, block, box)[None], config.head, config.thresholds)[0]
        np.copyto(part, found, where=part != VOID)
    counts = count_bytes(known)
    summary = {"classes": {str(v): int(counts[v]) for v in np.flatnonzero(counts)}}
    return Receipt(pyramid.write_block(step, block.plane, block.box, classes), summary, redone)


def _read(config: DecideConfig, block: Block, box: Box) -> NDArray[np.float32]:
    """Stored probabilities (k, y, x)."""
    region: list[Any] = [*(slice(i, i + 1) for i in block.plane), *box.slices]
    region.insert(config.channel_axis, slice(None))
    stored = read_region(config.pyramid.out / PROBABILITIES / "0", tuple(region))
    found = stored.astype(np.float32) / np.float32(255 if stored.dtype == np.uint8 else 1)
    return found.reshape(-1, *box.shape)


def _probabilities(out: Path) -> Source:
    if not (out / PROBABILITIES).is_dir():
        raise InputError(f"{out}: has no {PROBABILITIES}; segment it with --probabilities float16 or uint8")
    return open_image(out / PROBABILITIES)


def _rule(out: Path, thresholds: Sequence[float], k: int) -> str:
    """Soft-max's where each class has its threshold, sigmoid's where all but the background have."""
    if len(thresholds) not in (k, k - 1):
        raise InputError(
            f"{out}: {len(thresholds)} thresholds, the probabilities are of {k} classes; give {k} (the class of the "
            f"largest p / t), or {k - 1} for all but the background (the likeliest of those above theirs)"
        )
    if not all(math.isfinite(t) and 0 < t < 1 for t in thresholds):
        raise InputError(f"{out}: thresholds {tuple(thresholds)} must be above 0 and below 1; correct them")
    return "softmax" if len(thresholds) == k else "sigmoid"


def _pyramid(classes: Source, out: Path, layer: str, version: str, block: int | None) -> Pyramid:
    """Like the class map's."""
    planes, shape = tuple(classes.shape[:-2]), (classes.shape[-2], classes.shape[-1])
    levels, passes = lay_levels(
        shape,
        block or block_side(shape, (1, 1)),
        math.prod(planes),
        chunk=None,
        sharded=is_sharded(out, version, classes),
    )
    return Pyramid(
        out=out, name=layer, leading=planes, axes=classes.axes, channel_axis=None, dtype="|u1", levels=levels,
        passes=passes, version=version, is_labels=True, fill=VOID, georeference=classes.georeference,
    )  # fmt: skip
