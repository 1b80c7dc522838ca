"""Objects: the tasks that find the components of a class map and join them into objects of the whole image.

    find    label each block; keep what its components add up to, and which of them touch its faces
    join    a tree over the blocks: components that face each other are one object (`seams`)
    count   which objects begin in a block, row by row: with that, every id is a sum of counts

The same three stages find holes in the background, where small ones are to be filled first. `jobs.label` writes ids.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

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
from tilekit.jobs.finding import Finding, closed_faces, first_key, pack, read_box, read_classes
from tilekit.jobs.tree import whole_components
from tilekit.ledger import Summary, mark_started
from tilekit.predictor import VOID
from tilekit.seams import Table, block_node
from tilekit.split import split_objects
from tilekit.store import put_file
from tilekit.tiling import Block

Array = NDArray[Any]


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
    lines = list(faces(found.runs, block.box.shape[1]))
    if found.whole is not None:
        unknown = np.concatenate([[False], found.whole[:, 0] < 0])
        lines = [np.where(unknown[line], line, 0) for line in lines]
    node, entries = block_node(lines, table, closed_faces(finding.grid, block))
    kept = {f.name: getattr(table, f.name) for f in fields(Table)} | {"entries": entries}
    if found.whole is not None:
        kept["whole"] = found.whole
    shards = [
        put_file(finding.out, finding.key("node-0", index), node.to_bytes()),
        put_file(finding.out, finding.key("found", index), pack(kept)),
    ]
    void = int(np.count_nonzero(found.classes == VOID)) if found.classes.max() >= VOID else 0
    return Receipt(shards, {"void": void}, redone)


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


def fill_holes(finding: Finding, block: Block, classes: Array) -> Array:
    """Classes with small holes filled: background that one class alone surrounds, of fewer pixels than asked."""
    holes = finding.of_holes()
    runs = find_components(holes, block).runs
    whole = whole_components(holes, block.index)
    filled = (whole.area < finding.fill_below) & (whole.low == whole.high) & (whole.high != VOID)
    values = np.concatenate([[0], np.where(filled, whole.low, 0)]).astype(classes.dtype)
    classes = classes.copy()
    paint(runs, values, classes)
    return classes
