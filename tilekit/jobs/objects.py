"""Objects: the tasks that find the components of a class map and join them into objects of the whole image.

    find    label each block; keep what its components add up to, and which of them touch its faces
    join    a tree over the blocks: components that face each other are one object (`seams`)
    count   which objects begin in a block, row by row: with that, every id is a sum of counts

The same three stages find holes in the background, where small ones are to be filled first. `jobs.label` writes ids.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.components import (
    Runs,
    faces,
    find_runs,
    first_pixels,
    lowest_and_highest_beside,
    paint,
    places,
)
from tilekit.engine import Receipt
from tilekit.errors import InputError
from tilekit.ledger import FOLDER, Summary, mark_started
from tilekit.predictor import VOID
from tilekit.seams import FAN, Node, Table, block_node, join, resolve
from tilekit.sources import Source
from tilekit.store import put_file
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
    holes: bool = False
    fill_below: int = 0
    """Holes of fewer pixels are filled before objects are found."""
    min_size: int = 0
    """Objects of fewer pixels are left out."""
    run: str = ""
    """Tells this run's files from those of another in a process that has seen both."""

    @property
    def name(self) -> str:
        return "holes" if self.holes else "objects"

    @property
    def around(self) -> int:
        """Connectivity of what lies between: background is 4-connected where objects are 8-connected."""
        return (12 - self.connectivity) if self.holes else self.connectivity

    def folder(self, stage: str) -> Path:
        return self.out / FOLDER / f"label-{self.name}-{stage}"

    def key(self, stage: str, index: int) -> str:
        return f"{WORK}/{self.name}/{stage}/{index}.npz"


def new_finding(classes: Source, out: Path, side: int, connectivity: int, **options: Any) -> Finding:
    planes = tuple(classes.shape[:-2])
    grid = BlockGrid(planes, (classes.shape[-2], classes.shape[-1]), side)
    return Finding(classes, out, grid, connectivity, run=uuid4().hex, **options)


def first_key(finding: Finding, block: Block, positions: Array) -> Array:
    """Row-major position in the whole image, plane after plane, of positions within a block."""
    height, width = finding.grid.shape
    y, x = np.divmod(positions, block.box.shape[1])
    plane = 0
    for i, n in zip(block.plane, finding.grid.planes, strict=True):
        plane = plane * n + i
    keys: Array = (plane * height + block.box.start[0] + y) * width + block.box.start[1] + x
    return keys


def read_classes(finding: Finding, block: Block, margin: int = 0) -> Array:
    """Classes of a block (y, x), unsigned, void kept; `margin` pixels more on each side, void beyond the image."""
    wanted = block.box.grow((margin, margin), (margin, margin))
    inside = wanted.intersect(Box.whole(finding.grid.shape))
    lead = [(i, i + 1) for i in block.plane]
    sides = list(zip(inside.start, inside.stop, strict=True))
    pixels = finding.classes.read([*lead, *sides]).reshape(inside.shape)
    if pixels.dtype.kind == "i" and pixels.min() < 0:
        raise InputError(
            f"{finding.classes.name}: class {pixels.min()} in {inside}; classes are not negative, map them first"
        )
    if inside == wanted:
        return pixels
    padded: Array = np.full(wanted.shape, VOID, pixels.dtype)
    padded[inside.relative_to(wanted).slices] = pixels
    return padded


def find_components(finding: Finding, block: Block) -> tuple[Runs, Array]:
    """Components of a block, and its classes (y, x) as they were labeled."""
    classes = read_classes(finding, block)
    if finding.holes:
        return find_runs((classes == 0).view(np.uint8), finding.around, VOID), classes
    if finding.fill_below:
        classes = fill_holes(finding, block, classes)
    return find_runs(classes, finding.connectivity, VOID), classes


def find_in_block(index: int, finding: Finding) -> Receipt:
    """Stage find: the table of a block's components, and its node of the tree."""
    redone = mark_started(finding.folder("find"), index)
    block = finding.grid.block(index)
    runs, classes = find_components(finding, block)
    table = _tabulate(finding, block, runs, classes)
    node, entries = block_node(faces(runs, block.box.shape[1]), table, closed_faces(finding.grid, block))
    found = {"first": table.first, "area": table.area, "low": table.low, "high": table.high, "entries": entries}
    shards = [
        put_file(finding.out, finding.key("node-0", index), node.to_bytes()),
        put_file(finding.out, finding.key("found", index), pack(found)),
    ]
    return Receipt(shards, {"void": int(np.count_nonzero(classes == VOID))}, redone)


def _tabulate(finding: Finding, block: Block, runs: Runs, classes: Array) -> Table:
    first = first_pixels(runs, block.box.shape[1])
    area = places(runs, 0, 0)[:, 0]
    kind = classes.reshape(-1)[first].astype(np.int64)
    low, high = kind, kind
    if finding.holes:
        low, high = lowest_and_highest_beside(runs, read_classes(finding, block, 1), 0)
    return Table(first_key(finding, block, first), area, kind, low, high)


def fold_void(total: Summary, part: Summary) -> Summary:
    """Add the void pixels of some blocks to those of others."""
    return {"void": total.get("void", 0) + part.get("void", 0)}


def closed_faces(grid: BlockGrid, block: Block) -> tuple[bool, bool, bool, bool]:
    start, stop = block.box.start, block.box.stop
    return start[0] == 0, stop[0] == grid.shape[0], start[1] == 0, stop[1] == grid.shape[1]


def pack(arrays: dict[str, Array]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


@lru_cache(maxsize=64)
def load_file(path: Path, run: str) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as held:
        return dict(held)


@lru_cache(maxsize=64)
def _load_node(path: Path, run: str) -> Node:
    return Node.from_bytes(path.read_bytes())


@dataclass(frozen=True, slots=True)
class JoinConfig:
    """What a task of one level of the tree needs."""

    finding: Finding
    level: int


def level_shape(grid: BlockGrid, level: int) -> tuple[int, int]:
    """Nodes per axis of a level of the tree; level 0 are the blocks."""
    ny, nx = grid.per_axis
    for _ in range(level):
        ny, nx = -(-ny // FAN), -(-nx // FAN)
    return ny, nx


def n_levels(grid: BlockGrid) -> int:
    """Levels above the blocks, up to one node per plane."""
    level = 0
    while level_shape(grid, level) != (1, 1):
        level += 1
    return level


def join_nodes(index: int, config: JoinConfig) -> Receipt:
    """Stage join: one node of a level, from up to 4 x 4 of the level below."""
    finding, level = config.finding, config.level
    redone = mark_started(finding.folder(f"join-{level}"), index)
    ny, nx = level_shape(finding.grid, level)
    below = level_shape(finding.grid, level - 1)
    plane, rest = divmod(index, ny * nx)
    i, j = divmod(rest, nx)
    rows = [
        [_child(finding, level - 1, plane, below, y, x) for x in range(j * FAN, min(j * FAN + FAN, below[1]))]
        for y in range(i * FAN, min(i * FAN + FAN, below[0]))
    ]
    node = join(rows, finding.around)
    return Receipt([put_file(finding.out, finding.key(f"node-{level}", index), node.to_bytes())], {}, redone)


def _child(finding: Finding, level: int, plane: int, shape: tuple[int, int], y: int, x: int) -> Node:
    path = finding.out / finding.key(f"node-{level}", (plane * shape[0] + y) * shape[1] + x)
    return Node.from_bytes(path.read_bytes())


def path_up(finding: Finding, index: int) -> Iterator[tuple[Node, int]]:
    """The nodes above a block, from below, and which child of each it lies in."""
    ny, nx = finding.grid.per_axis
    plane, rest = divmod(index, ny * nx)
    y, x = divmod(rest, nx)
    for level in range(1, n_levels(finding.grid) + 1):
        _, width = level_shape(finding.grid, level - 1)
        shape = level_shape(finding.grid, level)
        i, j = y // FAN, x // FAN
        child = (y % FAN) * (min(j * FAN + FAN, width) - j * FAN) + x % FAN
        number = (plane * shape[0] + i) * shape[1] + j
        yield _load_node(finding.out / finding.key(f"node-{level}", number), finding.run), child
        y, x = i, j


def whole_components(finding: Finding, index: int) -> Table:
    """What the components of a block are in the whole image; `kind` is not kept."""
    found = load_file(finding.out / finding.key("found", index), finding.run)
    entries = found["entries"] - 1
    table = Table(found["first"].copy(), found["area"].copy(), found["low"], found["low"].copy(), found["high"].copy())
    if len(entries):
        resolved = resolve(np.arange(len(entries)), list(path_up(finding, index)))
        for name in ("first", "area", "low", "high"):
            getattr(table, name)[entries] = getattr(resolved, name)
    return table


def fill_holes(finding: Finding, block: Block, classes: Array) -> Array:
    """Classes with small holes filled: background that one class alone surrounds, of fewer pixels than asked."""
    holes = hole_finding(finding)
    runs, _ = find_components(holes, block)
    whole = whole_components(holes, block.index)
    filled = (whole.area < finding.fill_below) & (whole.low == whole.high) & (whole.high != VOID)
    values = np.concatenate([[0], np.where(filled, whole.low, 0)]).astype(classes.dtype)
    classes = classes.copy()
    paint(runs, values, classes)
    return classes


def hole_finding(finding: Finding) -> Finding:
    return replace(finding, holes=True)


def own_objects(index: int, finding: Finding) -> Receipt:
    """Stage count: the objects that begin in a block, in the order of their first pixels, and how many in each row."""
    redone = mark_started(finding.folder("count"), index)
    block = finding.grid.block(index)
    found = load_file(finding.out / finding.key("found", index), finding.run)
    whole = whole_components(finding, index)
    own = (whole.first == found["first"]) & (whole.area >= max(finding.min_size, 1))
    keys = np.sort(whole.first[own])
    rows = np.bincount(_row_in_block(finding, block, keys), minlength=block.box.shape[0]).astype(np.uint32)
    shard = put_file(finding.out, finding.key("own", index), pack({"keys": keys, "rows": rows}))
    return Receipt([shard], {"rows": {str(_block_row(finding.grid, index)): len(keys)}}, redone)


def _row_in_block(finding: Finding, block: Block, keys: Array) -> Array:
    rows: Array = keys // finding.grid.shape[1] % finding.grid.shape[0] - block.box.start[0]
    return rows


def _block_row(grid: BlockGrid, index: int) -> int:
    """Number of a row of blocks, plane after plane."""
    return index // grid.per_axis[1]


def fold_rows(total: Summary, part: Summary) -> Summary:
    """Add the objects of some block rows to those of others."""
    rows = dict(total.get("rows", {}))
    for row, n in part.get("rows", {}).items():
        rows[row] = rows.get(row, 0) + n
    return {"rows": rows}
