"""Objects: the tasks that find the components of a class map and join them into objects of the whole image.

    find    label each block; keep what its components add up to, and which of them touch its faces
    join    a tree over the blocks: components that face each other are one object (`seams`)
    count   which objects begin in a block, row by row: with that, every id is a sum of counts

The same three stages find holes in the background, where small ones are to be filled first. `jobs.label` writes ids.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
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
from tilekit.split import split_objects
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

    def folder(self, stage: str) -> Path:
        return self.out / FOLDER / f"label-{self.name}-{stage}"

    def key(self, stage: str, index: int) -> str:
        return f"{WORK}/{self.name}/{stage}/{index}.npz"


def new_finding(classes: Source, out: Path, side: int, connectivity: int, **options: Any) -> Finding:
    planes = tuple(classes.shape[:-2])
    grid = BlockGrid(planes, (classes.shape[-2], classes.shape[-1]), side)
    return Finding(classes, out, grid, connectivity, run=uuid4().hex, **options)


def first_key(finding: Finding, plane: Sequence[int], box: Box, positions: Array) -> Array:
    """Row-major position in the whole image, plane after plane, of positions within a box."""
    height, width = finding.grid.shape
    y, x = np.divmod(positions, box.shape[1])
    number = 0
    for i, n in zip(plane, finding.grid.planes, strict=True):
        number = number * n + i
    keys: Array = (number * height + box.start[0] + y) * width + box.start[1] + x
    return keys


def read_box(finding: Finding, plane: Sequence[int], box: Box) -> Array:
    """Classes of a box (y, x) inside the image, void kept."""
    sides = zip(box.start, box.stop, strict=True)
    pixels = finding.classes.read([*((i, i + 1) for i in plane), *sides]).reshape(box.shape)
    if pixels.dtype.kind == "i" and pixels.min() < 0:
        raise InputError(f"{finding.classes.name}: class {pixels.min()} at {box.start} is below 0; map it to another")
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


class Found(NamedTuple):
    """Components of a block."""

    runs: Runs
    classes: Array
    """(y, x), as they were labeled."""
    first: Array
    """Key of the first pixel of each in this block, (n,)."""
    whole: Array | None = None
    """Where objects are split: for each the key of its first pixel anywhere, and its area, (n, 2); -1 where unknown."""


def find_components(finding: Finding, block: Block) -> Found:
    """Components of a block, its holes filled and its objects split as asked."""
    classes = read_classes(finding, block)
    if finding.split_below:
        return _find_pieces(finding, block, classes)
    if finding.holes:
        runs = find_runs((classes == 0).view(np.uint8), finding.around, VOID)
    else:
        classes = fill_holes(finding, block, classes) if finding.fill_below else classes
        runs = find_runs(classes, finding.connectivity, VOID)
    return Found(runs, classes, first_key(finding, block.plane, block.box, first_pixels(runs, classes.shape[1])))


def _find_pieces(finding: Finding, block: Block, classes: Array) -> Found:
    """Split objects are seen whole in a window around the block; what is too large stays to be joined."""
    margin = (finding.split_below, finding.split_below)
    window = block.box.grow(margin, margin).intersect(Box.whole(finding.grid.shape))
    around = read_box(finding, block.plane, window)
    top, left = window.start
    pieces = split_objects(around, finding.connectivity, VOID, finding.split_below, (top, left))
    parts = np.where(pieces > 0, pieces + VOID, around)
    all_runs = find_runs(parts, finding.connectivity, VOID)
    numbers = np.zeros(parts.shape, np.int32)
    paint(all_runs, np.arange(len(all_runs.first) + 1, dtype=np.int32), numbers)
    inside = block.box.relative_to(window).slices
    runs = find_runs(parts[inside], finding.connectivity, VOID)
    first = first_pixels(runs, classes.shape[1])
    number = numbers[inside].reshape(-1)[first] - 1
    whole = np.stack(
        [
            first_key(finding, block.plane, window, first_pixels(all_runs, parts.shape[1])),
            places(all_runs, 0, 0)[:, 0],
        ],
        axis=1,
    )[number]
    whole[parts[inside].reshape(-1)[first] < VOID] = -1
    return Found(runs, classes, first_key(finding, block.plane, block.box, first), whole)


def find_in_block(index: int, finding: Finding) -> Receipt:
    """Stage find: the table of a block's components, and its node of the tree."""
    redone = mark_started(finding.folder("find"), index)
    block = finding.grid.block(index)
    found = find_components(finding, block)
    table = _tabulate(finding, block, found)
    lines = faces(found.runs, block.box.shape[1])
    if found.whole is not None:
        unknown = np.concatenate([[False], found.whole[:, 0] < 0])
        lines = tuple(np.where(unknown[line], line, 0) for line in lines)
    node, entries = block_node(lines, table, closed_faces(finding.grid, block))
    kept = {f.name: getattr(table, f.name) for f in fields(Table)} | {"entries": entries}
    if found.whole is not None:
        kept["whole"] = found.whole
    shards = [
        put_file(finding.out, finding.key("node-0", index), node.to_bytes()),
        put_file(finding.out, finding.key("found", index), pack(kept)),
    ]
    return Receipt(shards, {"void": int(np.count_nonzero(found.classes == VOID))}, redone)


def _tabulate(finding: Finding, block: Block, found: Found) -> Table:
    runs = found.runs
    area = places(runs, 0, 0)[:, 0]
    kind = found.classes.reshape(-1)[first_pixels(runs, block.box.shape[1])].astype(np.int64)
    low, high = kind, kind
    if finding.holes:
        low, high = lowest_and_highest_beside(runs, read_classes(finding, block, 1), 0)
    return Table(found.first, area, kind, low, high)


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
    """What the components of a block are in the whole image."""
    found = load_file(finding.out / finding.key("found", index), finding.run)
    table = Table(*(found[f.name].copy() for f in fields(Table)))
    entries = found["entries"] - 1
    if len(entries):
        table.put(entries, resolve(np.arange(len(entries)), list(path_up(finding, index))))
    if "whole" in found:
        known = found["whole"][:, 0] >= 0
        table.first[known], table.area[known] = found["whole"][known].T
    return table


def fill_holes(finding: Finding, block: Block, classes: Array) -> Array:
    """Classes with small holes filled: background that one class alone surrounds, of fewer pixels than asked."""
    holes = hole_finding(finding)
    runs = find_components(holes, block).runs
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
    unsplit = int((own & (found["whole"][:, 0] < 0)).sum()) if "whole" in found else 0
    summary = {"rows": {str(index // finding.grid.per_axis[1]): len(keys)}, "unsplit": unsplit}
    return Receipt([shard], summary, redone)


def _row_in_block(finding: Finding, block: Block, keys: Array) -> Array:
    rows: Array = keys // finding.grid.shape[1] % finding.grid.shape[0] - block.box.start[0]
    return rows


def fold_rows(total: Summary, part: Summary) -> Summary:
    """Add the objects of some block rows to those of others."""
    rows = dict(total.get("rows", {}))
    for row, n in part.get("rows", {}).items():
        rows[row] = rows.get(row, 0) + n
    return {"rows": rows, "unsplit": total.get("unsplit", 0) + part.get("unsplit", 0)}
