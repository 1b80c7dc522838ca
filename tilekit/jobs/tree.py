"""The tree over the blocks of a class map: joining what faces each other, and what a block's components have become."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.engine import Receipt
from tilekit.jobs.finding import Finding
from tilekit.ledger import Summary, mark_started
from tilekit.packing import pack, read_arrays
from tilekit.seams import FAN, Node, Table, join, resolve
from tilekit.store import put_file
from tilekit.tiling import Block, BlockGrid

Array = NDArray[Any]


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
    return _whole(finding, index, read_arrays(finding.out / finding.key("found", index)))


def _whole(finding: Finding, index: int, found: dict[str, Array]) -> Table:
    table = Table(*(found[f.name].copy() for f in fields(Table)))
    entries = found["entries"] - 1
    if len(entries):
        table.put(entries, resolve(np.arange(len(entries)), list(path_up(finding, index))))
    if "whole" in found:
        known = found["whole"][:, 0] >= 0
        table.first[known], table.area[known] = found["whole"][known].T
    return table


def own_objects(index: int, finding: Finding) -> Receipt:
    """Stage count: the objects that begin in a block, in the order of their first pixels, and how many in each row."""
    redone = mark_started(finding.folder("count"), index)
    block = finding.grid.block(index)
    found = read_arrays(finding.out / finding.key("found", index))
    whole = _whole(finding, index, found)
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
