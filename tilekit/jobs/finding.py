"""Finding: what the tasks that find components share: the class map, its blocks, and files between the stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.ledger import FOLDER
from tilekit.packing import read_arrays
from tilekit.predictor import VOID
from tilekit.sources import Source
from tilekit.tiling import Block, BlockGrid

Array = NDArray[Any]
WORK = f"{FOLDER}/label-work"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a task needs to find components: of objects, or (`holes`) of the background between them."""

    classes: Source
    out: Path
    grid: BlockGrid
    connectivity: int
    fingerprint: Mapping[str, Any]
    """Facts that change when the class map does."""
    holes: bool = False
    fill_below: int = 0
    """Holes of fewer pixels are filled before objects are found."""
    min_size: int = 0
    """Objects of fewer pixels are left out."""
    split_below: int = 0
    """Objects of up to this height and width are split where they touch; 0 to split none."""
    run: str = ""
    """Tells this run's files from those of another in a process that has seen both."""

    @property
    def name(self) -> str:
        return "holes" if self.holes else "objects"

    @property
    def around(self) -> int:
        """Connectivity of what lies between: background is 4-connected where objects are 8-connected."""
        return (12 - self.connectivity) if self.holes else self.connectivity

    def of_holes(self) -> Finding:
        """The same, to find holes."""
        return replace(self, holes=True)

    def folder(self, stage: str) -> Path:
        return self.out / FOLDER / f"label-{self.name}-{stage}"

    def key(self, stage: str, index: int) -> str:
        return f"{WORK}/{self.name}/{stage}/{index}"


def new_finding(classes: Source, out: Path, side: int, connectivity: int, **options: Any) -> Finding:
    planes = tuple(classes.shape[:-2])
    grid = BlockGrid(planes, (classes.shape[-2], classes.shape[-1]), side)
    return Finding(classes, out, grid, connectivity, run=uuid4().hex, **options)


def first_key(finding: Finding, plane: Sequence[int], box: Box, positions: Array) -> Array:
    """Row-major position in the whole image, plane after plane, of positions within a box."""
    height, width = finding.grid.shape
    y, x = np.divmod(positions, box.shape[1])
    number = finding.grid.plane_number(plane)
    keys: Array = (number * height + box.start[0] + y) * width + box.start[1] + x
    return keys


def read_box(finding: Finding, plane: Sequence[int], box: Box) -> Array:
    """Classes of a box (y, x) inside the image, void kept."""
    sides = zip(box.start, box.stop, strict=True)
    pixels = finding.classes.read([*((i, i + 1) for i in plane), *sides]).reshape(box.shape)
    if pixels.dtype.kind == "i" and pixels.min() < 0 and finding.classes.nodata is None:
        raise InputError(f"{finding.classes.name}: class {pixels.min()} at {box.start} is below 0; map it to another")
    nodata = finding.classes.nodata
    if nodata is not None and nodata not in (0, VOID):
        pixels = np.where(pixels == nodata, np.array(VOID, pixels.dtype), pixels)
    return pixels


def read_classes(finding: Finding, block: Block, margin: int = 0) -> Array:
    """Classes of a block (y, x); `margin` pixels more on each side, void beyond the image."""
    wanted = block.box.grow((margin, margin), (margin, margin))
    inside = wanted.intersect(Box.whole(finding.grid.shape))
    pixels = read_box(finding, block.plane, inside)
    if inside == wanted:
        return pixels
    padded: Array = np.full(wanted.shape, VOID, pixels.dtype)
    padded[inside.relative_to(wanted).slices] = pixels
    return padded


def closed_faces(grid: BlockGrid, block: Block) -> tuple[bool, bool, bool, bool]:
    start, stop = block.box.start, block.box.stop
    return start[0] == 0, stop[0] == grid.shape[0], start[1] == 0, stop[1] == grid.shape[1]


@lru_cache(maxsize=16)
def load_file(path: Path, run: str) -> dict[str, Array]:
    """Arrays of a file, kept for the blocks that come next: few, as a block of noise has 30 MB of keys."""
    return read_arrays(path)
