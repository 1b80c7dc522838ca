"""Objects: the tasks that find the components of a class map and join them into objects of the whole image.

    find    label each block; keep what its components add up to, and which of them touch its faces
    join    a tree over the blocks: components that face each other are one object (`seams`)
    count   which objects begin in a block, row by row: with that, every id is a sum of counts

The same three stages find holes in the background, where small ones are to be filled first. `jobs.label` writes ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.components import (
    Runs,
    areas,
    faces,
    find_runs,
    first_pixels,
    lowest_and_highest_beside,
    paint,
)
from tilekit.engine import Receipt
from tilekit.jobs.finding import Finding, closed_faces, first_key, read_box, read_classes
from tilekit.jobs.tree import whole_components
from tilekit.ledger import Summary, mark_started
from tilekit.packing import pack, read_arrays
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
    """Components of a block: of its background, or of what is not, holes filled and objects split as asked."""
    if finding.split_below and not finding.holes:
        return _find_pieces(finding, block)
    classes = read_filled(finding, block.plane, block.box)
    pixels = (classes == 0).view(np.uint8) if finding.holes else classes
    runs = find_runs(pixels, finding.around, VOID)
    return Found(runs, classes, first_key(finding, block.plane, block.box, first_pixels(runs, classes.shape[1])))


def _find_pieces(finding: Finding, block: Block) -> Found:
    """Split objects are seen whole in a window around the block; what is too large stays to be joined."""
    margin = (finding.split_below, finding.split_below)
    window = block.box.grow(margin, margin).intersect(Box.whole(finding.grid.shape))
    around = read_filled(finding, block.plane, window)
    top, left = window.start
    pieces = split_objects(around, finding.connectivity, VOID, finding.split_below, (top, left))
    parts = np.where(pieces > 0, pieces + VOID, around)
    all_runs = find_runs(parts, finding.connectivity, VOID)
    numbers = np.zeros(parts.shape, np.int32)
    paint(all_runs, np.arange(len(all_runs.first) + 1, dtype=np.int32), numbers)
    inside = block.box.relative_to(window).slices
    runs = find_runs(parts[inside], finding.connectivity, VOID)
    first = first_pixels(runs, block.box.shape[1])
    number = numbers[inside].reshape(-1)[first] - 1
    whole = np.stack(
        [
            first_key(finding, block.plane, window, first_pixels(all_runs, parts.shape[1])),
            areas(all_runs),
        ],
        axis=1,
    )[number]
    whole[parts[inside].reshape(-1)[first] < VOID] = -1
    return Found(runs, around[inside], first_key(finding, block.plane, block.box, first), whole)


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
        put_file(finding.out, finding.key("runs", index), pack(found.runs._asdict())),
    ]
    void = int(np.count_nonzero(found.classes == VOID)) if found.classes.max() >= VOID else 0
    return Receipt(shards, {"void": void}, redone)


def _tabulate(finding: Finding, block: Block, found: Found) -> Table:
    runs = found.runs
    area = areas(runs)
    kind = found.classes.reshape(-1)[first_pixels(runs, block.box.shape[1])].astype(np.int64)
    low, high = kind, kind
    if finding.holes:
        low, high = lowest_and_highest_beside(runs, read_classes(finding, block, 1), 0)
    return Table(found.first, area, kind, low, high)


def fold_void(total: Summary, part: Summary) -> Summary:
    """Add the void pixels of some blocks to those of others."""
    return {"void": total.get("void", 0) + part.get("void", 0)}


def read_runs(finding: Finding, index: int) -> Runs:
    """The runs of a block, as they were found."""
    return Runs(**read_arrays(finding.out / finding.key("runs", index)))


def read_filled(finding: Finding, plane: Sequence[int], box: Box) -> Array:
    """Classes of a box inside the image, small holes filled if asked: background that one class alone surrounds."""
    classes = read_box(finding, plane, box)
    if finding.holes or not finding.fill_below:
        return classes
    holes, classes = finding.of_holes(), classes.copy()
    for block in finding.grid.touched(plane, box):
        whole, shared = whole_components(holes, block.index), block.box.intersect(box)
        filled = (whole.area < finding.fill_below) & (whole.low == whole.high) & (whole.high != VOID)
        values = np.concatenate([[0], np.where(filled, whole.low, 0)]).astype(classes.dtype)
        part = classes[shared.relative_to(box).slices]
        paint(read_runs(holes, block.index), values, part, *shared.relative_to(block.box).start)
    return classes
