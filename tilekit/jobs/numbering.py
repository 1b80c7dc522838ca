"""Numbering: final ids of objects, written block by block with the sums for their table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.components import Runs, beside, faces, paint
from tilekit.engine import Receipt
from tilekit.jobs.finding import Finding, closed_faces, load_file, read_classes
from tilekit.jobs.measure import Measuring, measure_block, put_parts
from tilekit.jobs.objects import read_runs
from tilekit.jobs.output import Pyramid, stage_folder
from tilekit.jobs.tree import whole_components
from tilekit.ledger import mark_started
from tilekit.predictor import VOID
from tilekit.tiling import Block

Array = NDArray[Any]
STAGE = "label"


@dataclass(frozen=True, slots=True)
class WriteConfig:
    """What a task of the last stage needs."""

    finding: Finding
    pyramid: Pyramid
    measuring: Measuring | None
    objects_per_row: tuple[int, ...]
    """Objects that begin in each row of blocks, plane after plane."""
    has_void: bool
    """True where any pixel of the class map is void."""


def write_objects(index: int, config: WriteConfig) -> Receipt:
    """Stage write: give a block's components their final ids, and write them on every level that the block owns."""
    finding, pyramid = config.finding, config.pyramid
    redone = mark_started(stage_folder(finding.out, STAGE), index)
    block = finding.grid.block(index)
    runs, whole = read_runs(finding, index), whole_components(finding, index)
    ids = ids_of(whole.first, whole.area >= max(finding.min_size, 1), config)
    values = np.concatenate([[0], ids]).astype(pyramid.dtype)

    def draw(out: Array, top: int, left: int) -> None:
        out[:] = 0
        paint(runs, values, out, top, left)

    shards = pyramid.write_drawn(block.plane, block.box, draw)
    if config.measuring is not None:
        parts = {"id": ids, "class": whole.kind, "edge": _is_cut(config, block, runs).astype(np.int64)}
        shards += put_parts(finding.out, index, parts | measure_block(config.measuring, block, runs))
    return Receipt(shards, {}, redone)


def _is_cut(config: WriteConfig, block: Block, runs: Runs) -> Array:
    """True for each component with a pixel at the image's edge or beside void."""
    cut = np.zeros(len(runs.first), bool)
    lines = faces(runs, block.box.shape[1])
    for line, at_edge in zip(lines, closed_faces(config.finding.grid, block), strict=True):
        cut[line[line > 0] - 1] |= at_edge
    if config.has_void:
        cut |= beside(runs, read_classes(config.finding, block, 1), VOID)
    return cut


def ids_of(keys: Array, kept: Array, config: WriteConfig) -> Array:
    """Final ids of objects, by the keys of their first pixels; 0 where not kept."""
    finding, grid = config.finding, config.finding.grid
    height, width = grid.shape
    line, x = np.divmod(keys, width)
    plane, y = np.divmod(line, height)
    ny, nx = grid.per_axis
    owner = (plane * ny + y // grid.side) * nx + x // grid.side
    ids = np.zeros(len(keys), np.int64)
    for index in np.unique(owner[kept]):
        here = kept & (owner == index)
        own = load_file(finding.out / finding.key("own", int(index)), finding.run)["keys"]
        rank = np.searchsorted(own, keys[here])
        first_of_row = np.searchsorted(own, line[here] * width)
        row_of_blocks, column = divmod(int(index), nx)
        starts = row_starts(config, row_of_blocks)[column]
        ids[here] = starts[y[here] % grid.side] + rank - first_of_row + 1
    return ids


def row_starts(config: WriteConfig, row: int) -> Array:
    """For each block of a row of blocks (nx) and each of its pixel rows: how many objects begin before it."""
    finding = config.finding
    _, nx = finding.grid.per_axis
    keys = tuple(finding.key("own", row * nx + i) for i in range(nx))
    return _row_starts(finding.out, finding.run, keys, sum(config.objects_per_row[:row]))


@lru_cache(maxsize=8)
def _row_starts(out: Path, run: str, keys: tuple[str, ...], before: int) -> Array:
    counts = np.stack([load_file(out / key, run)["rows"] for key in keys]).astype(np.int64)
    in_row = counts.sum(0)
    starts: Array = before + (np.cumsum(in_row) - in_row) + (np.cumsum(counts, axis=0) - counts)
    return starts
