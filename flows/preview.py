"""A preview: a few boxes of an image, predicted exactly as the run will and drawn, before the run begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil, floor, hypot, sqrt
from pathlib import Path

import numpy as np

from flows.halved import halved
from flows.overlay import RGB, overlay, panels, read_png, stretch, write_png
from tilekit.box import Box
from tilekit.engine import Progress
from tilekit.errors import InputError, RunError
from tilekit.jobs.input import Input, read_channels
from tilekit.jobs.predict import Layout, PredictConfig, class_pyramids, compute_block, wanted
from tilekit.jobs.segment import Job
from tilekit.jobs.statistics import means, stored_statistics
from tilekit.ngff import class_colors
from tilekit.plan import Plan
from tilekit.run import Runner
from tilekit.sources import Source
from tilekit.tiling import Block, round_up

SIDE = 1024
"""Side in pixels of a box, about: whole tiles, or an even part of one."""
PLACES = 12
"""Places along each axis that are looked at, at most."""
SAMPLE = 256
"""Side in pixels of what is read of a place, from a coarse level where there is one."""
COARSEST = 16
"""Pixels of the image per pixel of that level, at most."""
THUMBNAIL = 384
"""Height in pixels of a box in the index, at most."""
OPACITY = 0.3


@dataclass(frozen=True, slots=True)
class PreviewConfig:
    """What a task needs."""

    predict: PredictConfig
    plane: tuple[int, ...]
    """Position on the leading axes (t, z)."""
    boxes: tuple[Box, ...]
    """What is shown, each inside one of the run's blocks."""
    folder: Path


def preview_stage(job: Job, n: int, runner: Runner, progress: Progress) -> list[str]:
    """Predict and draw n boxes (fewer where the image has fewer) into OUT-preview; paths of the pictures, index last.

    The classes are those that the run will write, with two exceptions of what is known only later: near nodata of an
    image not yet ingested, means are those of the places looked at; the mask `auto` is not applied.
    """
    config = _choose(job, n)
    folder = config.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another output") from None
    for old in (*folder.glob("box-*.png"), *folder.glob("index.png")):
        old.unlink()
    progress("preview", 0, len(config.boxes))
    paths: dict[int, Path] = {}
    for outcome in runner.run(preview_box, config, range(len(config.boxes))):
        if outcome.error is not None:
            raise RunError(f"{folder}: box {outcome.index + 1} cannot be predicted: {outcome.error}")
        paths[outcome.index] = outcome.receipt
        progress("preview", len(paths), len(config.boxes))
    ordered = [paths[i] for i in sorted(paths)]
    write_png(folder / "index.png", _contact_sheet(ordered))
    return [str(path) for path in (*ordered, folder / "index.png")]


def preview_box(index: int, config: PreviewConfig) -> Path:
    """Predict one box by the run's tiles and draw it, image beside overlay; the picture's path."""
    predict, box = config.predict, config.boxes[index]
    tiles = _tiles_around(box, predict.plan)
    (classes, *_), _ = compute_block(predict, Block(index, config.plane, tiles))
    shown = box.intersect(predict.boxes[0]) if predict.boxes else box
    picture = _picture(predict.input, config.plane, shown)
    colors = {k: color[:3] for k, color in enumerate(class_colors(predict.predictor.n_classes)) if k}
    part = classes.reshape(tiles.shape)[shown.relative_to(tiles).slices]
    path = config.folder / f"box-{index + 1}_y{shown.start[0]}_x{shown.start[1]}.png"
    write_png(path, panels([picture, overlay(picture, part, colors=colors, opacity=OPACITY)]))
    return path


def _picture(image: Input, plane: tuple[int, ...], box: Box) -> RGB:
    """What the network is given of the image: three channels in color, else the first; black where nothing is valid."""
    pixels, valid = read_channels(image.source, image.channels, plane, box), image.valid(plane, box)
    if valid is not None:
        pixels = np.where(valid, pixels, pixels[:, valid].min(initial=pixels.max()) if valid.any() else 0)
    return stretch(np.moveaxis(pixels, 0, -1) if len(pixels) == 3 else pixels[0])


def _choose(job: Job, n: int) -> PreviewConfig:
    """The n boxes with the most content, far from each other; the same for the same input."""
    plane = tuple(side // 2 for side in job.plan.grid.planes)
    coarse = Input.of(_coarse_level(job.image), job.channels, (0.0,) * len(job.channels))
    image = Input(job.image, _level_read(job), job.plan.image.seen, job.channels, coarse.fill, job.equal)
    config = PredictConfig(
        input=image,
        predictor=job.predictor,
        plan=job.plan,
        pyramids=class_pyramids(image, job.plan, job.predictor, Layout(job.out, job.version, False, None)),
        boxes=() if job.options.box is None else (job.options.box,),
        area=job.area,
        folder=job.out,
    )
    found: list[tuple[Box, float]] = []
    sums, counts = np.zeros(len(job.channels)), np.zeros(len(job.channels))
    for box in _places(job):
        asked = wanted(config, box)
        sample = _sample(box, image.source.shape[-2:], coarse.source.shape[-2:])
        pixels, valid = read_channels(coarse.source, job.channels, plane, sample), coarse.valid(plane, sample)
        inside = pixels[:, np.ones(sample.shape, bool) if valid is None else valid].astype(np.float64)
        share = inside[0].size / pixels[0].size * (1.0 if asked is None else float(asked.mean()))
        if share:
            found.append((box, float(inside.std(1).sum()) * share * box.n_pixels))
            sums, counts = sums + inside.sum(1), counts + inside.shape[1]
    if not found:
        raise InputError(
            f"{job.image.name}: no pixel to predict at any of the {PLACES} x {PLACES} places that a preview looks "
            "at, all are nodata or masked; name a place with --box"
        )
    statistics = stored_statistics(job.out)
    fill = means(statistics, job.channels) if statistics else tuple(map(float, sums / counts))
    predict = replace(config, input=replace(image, fill=fill))
    folder = job.out.with_name(f"{job.out.stem}-preview")
    return PreviewConfig(predict, plane, tuple(_spread(found, n, image.source.shape[-2:])), folder)


def _level_read(job: Job) -> Source:
    """The level of the output that the network's pixels are computed from, which is not written yet."""
    level = job.plan.image.level
    if job.in_place:
        return job.image if level == job.image.level else replace(job.image.reference, level=level).open()
    return halved(job.image, level) if level else job.image


def _places(job: Job) -> list[Box]:
    """Boxes to choose from, each in one block: evenly over the image, or over the part that is asked for."""
    plan = job.plan
    area = job.options.box or Box.whole(plan.image.shape)
    ranges = []
    for axis, core in enumerate(_core(plan)):
        step = _step(core)
        parts = max(round(step / SIDE), 1)
        per_block = ceil(plan.block / step) * parts

        def start(i: int, step: int = step, parts: int = parts, per_block: int = per_block) -> int:
            block, inside = divmod(i, per_block)
            return block * plan.block + inside * step // parts

        limits = (area.start[axis], area.stop[axis] - 1)
        lowest, highest = (p // plan.block * per_block + p % plan.block * parts // step for p in limits)
        chosen = sorted({round(i) for i in np.linspace(lowest, highest, PLACES)})
        side = plan.image.shape[axis]
        ends = (min(start(i + 1), start(i) // plan.block * plan.block + plan.block, side) for i in chosen)
        ranges.append([(start(i), end) for i, end in zip(chosen, ends, strict=True)])
    return [Box((y0, x0), (y1, x1)) for (y0, y1), (x0, x1) in product(*ranges)]


def _core(plan: Plan) -> tuple[int, int]:
    """Sides of a tile in pixels of the image; of a resampled image, whose tiles depend on the box, those of a box."""
    return plan.core if plan.image.seen.is_image else (SIDE, SIDE)


def _step(core: int) -> int:
    """Pixels of the tiles that are predicted at once along an axis."""
    return core * max(SIDE // core, 1)


def _tiles_around(box: Box, plan: Plan) -> Box:
    """The run's tiles that a box lies in, which are all in one of its blocks."""
    ranges = []
    for a, b, core, side in zip(box.start, box.stop, _core(plan), plan.image.shape, strict=True):
        block = a // plan.block * plan.block
        stop = block + round_up(b - block, core)
        ranges.append((block + (a - block) // core * core, min(stop, block + plan.block, side)))
    return Box(tuple(a for a, _ in ranges), tuple(b for _, b in ranges))


def _coarse_level(source: Source) -> Source:
    """The coarsest level of the image on which a box is still worth looking at."""
    best = source.level
    for k, shape in enumerate(source.levels[source.level :], start=source.level):
        if source.shape[-1] <= COARSEST * shape[-1] and source.shape[-2] <= COARSEST * shape[-2]:
            best = k
    return source if best == source.level else replace(source.reference, level=best).open()


def _sample(box: Box, shape: Sequence[int], coarse: Sequence[int]) -> Box:
    """The middle of a box, at most SAMPLE pixels a side, in pixels of a level of shape `coarse`."""
    ranges = []
    for a, b, n, m in zip(box.start, box.stop, shape, coarse, strict=True):
        first, stop = min(floor(a * m / n), m - 1), min(ceil(b * m / n), m)
        middle = (first + stop) // 2
        ranges.append((max(first, middle - SAMPLE // 2), min(stop, middle + SAMPLE // 2)))
    return Box(tuple(a for a, _ in ranges), tuple(b for _, b in ranges))


def _spread(found: Sequence[tuple[Box, float]], n: int, shape: Sequence[int]) -> list[Box]:
    """The box with the highest score, then each time the one with the highest that is not near one chosen."""
    left, chosen = dict(found), list[Box]()
    far = sqrt(shape[0] * shape[1] / n)

    def worth(box: Box) -> float:
        apart = (hypot(*(a - b for a, b in zip(box.start, c.start, strict=True))) for c in chosen)
        return left[box] * min(1.0, min(apart, default=far) / far)

    while left and len(chosen) < n:
        best = max(left, key=worth)
        chosen.append(best)
        del left[best]
    return chosen


def _contact_sheet(paths: Sequence[Path]) -> RGB:
    """All pictures one below the other, made smaller."""
    pictures = [read_png(path) for path in paths]
    small = [p[:: (step := ceil(p.shape[0] / THUMBNAIL)), ::step] for p in pictures]
    width = max(p.shape[1] for p in small)
    rows = [np.pad(p, ((0, 4), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in small]
    return np.concatenate(rows)
