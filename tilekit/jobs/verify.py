"""Verify: law 1 on a finished output. Random boxes across seams, predicted by the planned tiles and in one pass."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.average import Averaged
from tilekit.blend import Blended
from tilekit.box import Box
from tilekit.boxes import Boxes
from tilekit.errors import InputError
from tilekit.jobs.area import Area, open_area
from tilekit.jobs.auto_mask import stored_auto_mask
from tilekit.jobs.input import Input
from tilekit.jobs.predict import CLASSES, STAGE, Target
from tilekit.jobs.statistics import means, stored_statistics
from tilekit.ledger import read_arguments
from tilekit.place import as_path
from tilekit.predictor import VOID, Predictor
from tilekit.resample import Grid
from tilekit.sources import open_image
from tilekit.store import group_attributes, read_region
from tilekit.tiling import Pair, Tile, tiles_of

TIE = 1e-4
"""Two classes whose probabilities differ by less may be taken for each other."""


def verify(out: str | Path, predictor: Predictor, *, boxes: int = 12, side: int = 256, seed: int = 0) -> dict[str, Any]:
    """Predict boxes of `side` pixels twice: largest difference of a probability, and class pixels unlike the store.

    `differing_pixels` counts those outside ties, and void where a class is expected or the other way round;
    `classes_compared` those where a class, not void, is expected. Of a blended output (`blended` tells the side of its
    windows) this shows that it depends on neither tiles nor blocks, not that it is the network's one pass.
    """
    out = as_path(out)
    recorded = read_arguments(out, STAGE)
    if recorded is None:
        raise InputError(f"{out}: holds no prediction of tilekit; make one with tilekit segment")
    if recorded["model"] != predictor.digest:
        raise InputError(
            f"{out}: was made by the network {recorded['model'][:12]}, this one is {predictor.digest[:12]}; "
            "give that one"
        )
    if "average" in recorded:
        predictor = Averaged.of([predictor], flips=True)
    if "blend" in recorded:
        predictor = Blended.of(predictor, recorded["blend"])
    if (status := group_attributes(out).get("tilekit", {}).get("status")) != "complete":
        raise InputError(f"{out}: is not complete (status {status}); run tilekit segment again to continue it")
    run = _recorded_run(out, recorded)
    image, grid, stride = run.input, run.input.grid, predictor.stride
    chosen = random.Random(seed)
    planes = tuple(n for a, n in zip(image.source.axes[:-2], image.source.shape, strict=False) if a != "c")
    worst, differing, ties, compared = 0.0, 0, 0, 0
    for number in range(boxes):
        plane = tuple(chosen.randrange(n) for n in planes)
        asked = chosen.choice(run.boxes)
        box = _box_on_seam(number, asked, run, side, chosen)
        tile = Tile(grid.cover(box, stride), predictor.halo, stride)
        classes, whole = _predict(image, plane, tile, predictor)
        tiled = _by_tiles(run, plane, box, tile.core, predictor)
        worst = max(worst, float(np.nanmax(np.abs(whole - tiled))))
        target = Target(box, grid, [])
        valid = image.valid(plane, box)
        shown = run.where(box) if valid is None else run.where(box) & valid
        compared += int(shown.sum())
        expected = np.where(shown, target.spread(classes, tile.core), VOID)
        stored = read_region(out / CLASSES / "0", (*(slice(i, i + 1) for i in plane), *box.slices)).reshape(box.shape)
        wrong, tied = _compare(target.spread(whole, tile.core), expected, stored)
        differing, ties = differing + wrong, ties + tied
    return {
        "boxes": boxes,
        "max_abs_dp": worst,
        "differing_pixels": differing,
        "ties": ties,
        "classes_compared": compared,
        **({"blended": recorded["blend"]} if "blend" in recorded else {}),
    }


@dataclass(frozen=True, slots=True)
class Run:
    """What the ledger says of a finished run."""

    input: Input
    core: Pair
    block: int
    boxes: tuple[Box, ...]
    """Where a prediction was asked for, together."""
    area: Area | None

    def where(self, box: Box) -> NDArray[np.bool_]:
        """True where a class was asked for, in a box (y, x)."""
        asked = np.zeros(box.shape, bool)
        for part in self.boxes:
            asked[box.intersect(part).relative_to(box).slices] = True
        return asked if self.area is None else asked & self.area.where(box)


def _recorded_run(out: Path, recorded: dict[str, Any]) -> Run:
    source = open_image(out, level=recorded["labels_level"])
    level = replace(source.reference, level=recorded["level"]).open()
    grid = Grid(**{name: tuple(value) for name, value in recorded["resampling"].items()})
    channels = tuple(recorded["channels"])
    image = Input(source, level, grid, channels, means(stored_statistics(out), channels))
    mask: dict[str, Any] | None = recorded["mask"]
    area = None
    if mask is not None:
        area = stored_auto_mask(out, source, mask) if "auto" in mask else open_area(mask["path"], source)
        if area is not None and dict(area.fingerprint) != mask:
            raise InputError(f"{mask['path']}: has changed since {out} was made by it; restore it, or segment again")
    core = (recorded["core"][0], recorded["core"][1])
    return Run(image, core, recorded["block"], Boxes.read(out, STAGE).union or (Box.whole(grid.image),), area)


def _box_on_seam(number: int, within: Box, run: Run, side: int, chosen: random.Random) -> Box:
    """A box around a random seam of tiles or blocks (four of five), or any place; the first two at corners."""
    ranges = []
    for start, stop, core, factor in zip(within.start, within.stop, run.core, run.input.grid.factor, strict=True):
        block, step = run.block, max(round(core * factor), 1)
        centre = chosen.randrange(start, stop)
        if chosen.random() < 0.8:
            centre = centre // block * block + centre % block // step * step
        if number < 2:
            centre = start if number == 0 else stop
        first = max(min(centre - side // 2, stop - side), start)
        ranges.append((first, min(first + side, stop)))
    return Box((ranges[0][0], ranges[1][0]), (ranges[0][1], ranges[1][1]))


def _predict(
    image: Input, plane: tuple[int, ...], tile: Tile, predictor: Predictor
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Class ids (y, x) and probabilities (k, y, x) of a tile's core."""
    classes, probabilities = predictor.predict(image.read(plane, tile.read)[None], probabilities=True)
    assert probabilities is not None
    ny, nx = tile.core.shape
    return classes[0, :ny, :nx], probabilities[0, :, :ny, :nx]


def _by_tiles(run: Run, plane: tuple[int, ...], box: Box, near: Box, predictor: Predictor) -> NDArray[np.float32]:
    """Probabilities of the network pixels `near` of a box, cut out of the tiles that the run's plan has there.

    NaN where a tile has none: between two blocks of an image that is coarser than the network.
    """
    grid, block = run.input.grid, run.block
    out = np.full((predictor.n_classes, *near.shape), np.nan, np.float32)
    first = [a // block * block for a in box.start]
    for y in range(first[0], box.stop[0], block):
        for x in range(first[1], box.stop[1], block):
            here = Box((y, x), (y + block, x + block)).intersect(Box.whole(grid.image))
            for tile in tiles_of(grid.cover(here, predictor.stride), run.core, predictor.halo, predictor.stride):
                part = tile.core.intersect(near)
                if part.n_pixels:
                    probabilities = _predict(run.input, plane, tile, predictor)[1]
                    out[(slice(None), *part.relative_to(near).slices)] = probabilities[
                        (slice(None), *part.relative_to(tile.core).slices)
                    ]
    return out


def _compare(probabilities: NDArray[np.float32], classes: NDArray[np.uint8], stored: NDArray[Any]) -> tuple[int, int]:
    """Pixels whose stored class is another one, outside ties and within them; void must be where it is expected."""
    unlike = stored != classes
    best = np.partition(probabilities, -2, axis=0)[-2:]
    tie = (best[1] - best[0] <= TIE) & (stored != VOID) & (classes != VOID)
    return int((unlike & ~tie).sum()), int((unlike & tie).sum())
