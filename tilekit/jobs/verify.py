"""Verify: law 1 on a finished output. Random boxes across seams, predicted by the planned tiles and in one pass."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.jobs.predict import CLASSES, STAGE, Input
from tilekit.jobs.statistics import means, stored_statistics
from tilekit.ledger import read_arguments
from tilekit.mirror import read_mirrored
from tilekit.predictor import VOID, Predictor
from tilekit.sources import Source, open_image
from tilekit.store import group_attributes, read_region
from tilekit.tiling import Pair, Tile, round_up, tiles_of

TIE = 1e-4
"""Two classes whose probabilities differ by less may be taken for each other."""


def verify(out: str | Path, predictor: Predictor, *, boxes: int = 12, side: int = 256, seed: int = 0) -> dict[str, Any]:
    """Predict boxes of `side` pixels twice: largest difference of a probability, and class pixels unlike the store.

    `differing_pixels` counts those outside ties, and void where a class is expected or the other way round.
    """
    out = Path(out)
    recorded = read_arguments(out, STAGE)
    if recorded is None:
        raise InputError(f"{out}: holds no prediction of tilekit; make one with tilekit segment")
    if recorded["model"] != predictor.digest:
        raise InputError(
            f"{out}: was made by the network {recorded['model'][:12]}, this one is {predictor.digest[:12]}; "
            "give that one"
        )
    if (status := group_attributes(out).get("tilekit", {}).get("status")) != "complete":
        raise InputError(f"{out}: is not complete (status {status}); run tilekit segment again to continue it")
    source = open_image(out, level=recorded["level"])
    channels = tuple(recorded["channels"])
    image = Input(source, channels, means(stored_statistics(out), channels))
    core, block = (recorded["core"][0], recorded["core"][1]), recorded["block"]
    asked = Asked.of(recorded, image.shape)
    chosen = random.Random(seed)
    planes = tuple(n for a, n in zip(source.axes[:-2], source.shape, strict=False) if a != "c")
    worst, differing, ties = 0.0, 0, 0
    for number in range(boxes):
        plane = tuple(chosen.randrange(n) for n in planes)
        box = _aligned(_box_on_seam(number, asked.box, core, block, side, chosen), predictor.stride)
        classes, whole, valid = _predict(image, plane, Tile(box, predictor.halo, predictor.stride), predictor)
        tiled = _by_tiles(image, plane, box, predictor, core, block)
        worst = max(worst, float(np.abs(whole - tiled).max()))
        stored = read_region(out / CLASSES / "0", (*(slice(i, i + 1) for i in plane), *box.slices)).reshape(box.shape)
        wrong, tied = _compare(whole, np.where(valid & asked.where(box), classes, VOID), stored)
        differing, ties = differing + wrong, ties + tied
    return {"boxes": boxes, "max_abs_dp": worst, "differing_pixels": differing, "ties": ties}


@dataclass(frozen=True, slots=True)
class Asked:
    """Where the run was asked for a prediction."""

    box: Box
    mask: Source | None

    @classmethod
    def of(cls, recorded: dict[str, Any], shape: Pair) -> Asked:
        ranges = [[int(n) for n in part.split(":")] for part in recorded["box"].split(",")] if recorded["box"] else None
        box = Box((ranges[0][0], ranges[1][0]), (ranges[0][1], ranges[1][1])) if ranges else Box.whole(shape)
        return cls(box, open_image(recorded["mask"]["path"]) if recorded["mask"] else None)

    def where(self, box: Box) -> NDArray[np.bool_]:
        """True where a class was asked for, in a box (y, x)."""
        wanted = np.zeros(box.shape, bool)
        wanted[box.intersect(self.box).relative_to(box).slices] = True
        if self.mask is not None:
            wanted &= self.mask.read(box).reshape(-1, *box.shape)[0] != 0
        return wanted


def _box_on_seam(number: int, within: Box, core: Pair, block: int, side: int, chosen: random.Random) -> Box:
    """A box around a random seam of tiles or blocks (four of five), or any place; the first two at corners."""
    ranges = []
    for start, stop, step in zip(within.start, within.stop, core, strict=True):
        centre = chosen.randrange(start, stop)
        if chosen.random() < 0.8:
            centre = centre // block * block + centre % block // step * step
        if number < 2:
            centre = start if number == 0 else stop
        first = max(min(centre - side // 2, stop - side), start)
        ranges.append((first, min(first + side, stop)))
    return Box((ranges[0][0], ranges[1][0]), (ranges[0][1], ranges[1][1]))


def _aligned(box: Box, stride: Pair) -> Box:
    """The box with its start moved back onto the stride's phase."""
    return Box(tuple(a // s * s for a, s in zip(box.start, stride, strict=True)), box.stop)


def _predict(
    image: Input, plane: tuple[int, ...], tile: Tile, predictor: Predictor
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """Class ids (y, x), probabilities (k, y, x) and where the image is valid (y, x), of a tile's core."""
    pixels, valid = image.fill_nodata(read_mirrored(lambda b: image.read(plane, b), tile.read, image.shape))
    classes, probabilities = predictor.predict(pixels[None], probabilities=True)
    assert probabilities is not None
    ny, nx = tile.core.shape
    top, left = tile.halo.before
    shown = np.ones((ny, nx), bool) if valid is None else valid[top : top + ny, left : left + nx]
    return classes[0, :ny, :nx], probabilities[0, :, :ny, :nx], shown


def _by_tiles(
    image: Input, plane: tuple[int, ...], box: Box, predictor: Predictor, core: Pair, block: int
) -> NDArray[np.float32]:
    """Probabilities of a box, cut out of the tiles that the run's plan has there."""
    out = np.zeros((predictor.n_classes, *box.shape), np.float32)
    whole = Box.whole(image.shape)
    first = tuple(a // block * block for a in box.start)
    cover = Box(first, tuple(min(round_up(b, block), n) for b, n in zip(box.stop, image.shape, strict=True)))
    for y in range(cover.start[0], cover.stop[0], block):
        for x in range(cover.start[1], cover.stop[1], block):
            here = Box((y, x), (y + block, x + block)).intersect(whole)
            for tile in tiles_of(here, core, predictor.halo, predictor.stride):
                part = tile.core.intersect(box)
                if part.n_pixels:
                    probabilities = _predict(image, plane, tile, predictor)[1]
                    out[(slice(None), *part.relative_to(box).slices)] = probabilities[
                        (slice(None), *part.relative_to(tile.core).slices)
                    ]
    return out


def _compare(probabilities: NDArray[np.float32], classes: NDArray[np.uint8], stored: NDArray[Any]) -> tuple[int, int]:
    """Pixels whose stored class is another one, outside ties and within them; void must be where it is expected."""
    unlike = stored != classes
    best = np.partition(probabilities, -2, axis=0)[-2:]
    tie = (best[1] - best[0] <= TIE) & (stored != VOID) & (classes != VOID)
    return int((unlike & ~tie).sum()), int((unlike & tie).sum())
