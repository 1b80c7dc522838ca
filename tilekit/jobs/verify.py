"""Verify: law 1 on a finished output. Random boxes across seams, predicted by the planned tiles and in one pass."""

from __future__ import annotations

import random
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
from tilekit.sources import open_image
from tilekit.store import group_attributes, read_region
from tilekit.tiling import Pair, Tile, round_up, tiles_of

TIE = 1e-4
"""Two classes whose probabilities differ by less may be taken for each other."""


def verify(out: str | Path, predictor: Predictor, *, boxes: int = 12, side: int = 256, seed: int = 0) -> dict[str, Any]:
    """Predict boxes of `side` pixels twice: largest difference of a probability, and class pixels unlike the store.

    `differing_pixels` leaves out ties, void pixels and what the run was not asked for; `ties` counts the former.
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
    chosen = random.Random(seed)
    planes = tuple(n for a, n in zip(source.axes[:-2], source.shape, strict=False) if a != "c")
    worst, differing, ties = 0.0, 0, 0
    for box in _boxes_on_seams(image.shape, core, block, side, boxes, chosen):
        plane = tuple(chosen.randrange(n) for n in planes)
        box = _aligned(box, predictor.stride, image.shape)
        whole = _one_pass(image, plane, box, predictor)
        tiled = _by_tiles(image, plane, box, predictor, core, block)
        worst = max(worst, float(np.abs(whole - tiled).max()))
        stored = read_region(out / CLASSES / "0", (*(slice(i, i + 1) for i in plane), *box.slices)).reshape(box.shape)
        wrong, tied = _compare(whole, _classes(image, plane, box, predictor), stored)
        differing, ties = differing + wrong, ties + tied
    return {"boxes": boxes, "max_abs_dp": worst, "differing_pixels": differing, "ties": ties}


def _boxes_on_seams(shape: Pair, core: Pair, block: int, side: int, n: int, chosen: random.Random) -> list[Box]:
    """Boxes centred on seams of tiles and blocks where there are any, and the image's corners."""
    boxes = []
    for i in range(n):
        centre = []
        for length, step in zip(shape, core, strict=True):
            within = (
                sorted({b + t for b in range(0, length, block) for t in range(0, block, step)} & set(range(1, length)))
                if length <= block * 64
                else [block * chosen.randrange(1, length // block)]
            )
            centre.append(chosen.choice(within) if within and chosen.random() < 0.8 else chosen.randrange(length))
        if i < 2:
            centre = [0, 0] if i == 0 else [shape[0] - 1, shape[1] - 1]
        start = tuple(max(min(c - side // 2, m - side), 0) for c, m in zip(centre, shape, strict=True))
        boxes.append(Box(start, tuple(min(a + side, m) for a, m in zip(start, shape, strict=True))))
    return boxes


def _aligned(box: Box, stride: Pair, shape: Pair) -> Box:
    """The box with its start moved back onto the stride's phase."""
    start = tuple(a // s * s for a, s in zip(box.start, stride, strict=True))
    return Box(start, tuple(min(b, n) for b, n in zip(box.stop, shape, strict=True)))


def _predict(
    image: Input, plane: tuple[int, ...], tile: Tile, predictor: Predictor
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    pixels, _ = image.fill_nodata(read_mirrored(lambda b: image.read(plane, b), tile.read, image.shape))
    classes, probabilities = predictor.predict(pixels[None], probabilities=True)
    assert probabilities is not None
    ny, nx = tile.core.shape
    return classes[0, :ny, :nx], probabilities[0, :, :ny, :nx]


def _one_pass(image: Input, plane: tuple[int, ...], box: Box, predictor: Predictor) -> NDArray[np.float32]:
    return _predict(image, plane, Tile(box, predictor.halo, predictor.stride), predictor)[1]


def _classes(image: Input, plane: tuple[int, ...], box: Box, predictor: Predictor) -> NDArray[np.uint8]:
    return _predict(image, plane, Tile(box, predictor.halo, predictor.stride), predictor)[0]


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
    """Pixels whose stored class is another one, outside ties and within them; void pixels are left out."""
    unlike = (stored != classes) & (stored != VOID)
    best = np.partition(probabilities, -2, axis=0)[-2:]
    tie = best[1] - best[0] <= TIE
    return int((unlike & ~tie).sum()), int((unlike & tie).sum())
