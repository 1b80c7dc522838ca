"""Halo, stride, tiles and blocks: which pixels are read, and which are written by whom. Integers alone.

    read box of a tile = its core (rounded up to the stride) grown by the halo; what lies outside the image is mirrored

        |<- before ->|<------- core ------->|<- after ->|
        |            |######################|           |
        ^ first input pixel: a multiple of the stride from the block's phase, so that every
          tile pools the same cells of pixels as the whole image would

Cores partition their block, blocks partition the image, and a block writes whole shards: one writer each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import lcm

from tilekit.box import Box, grid_boxes

Pair = tuple[int, int]
CHUNK = 512
"""Side of a chunk, in pixels, where the block allows it."""
CHUNKS_PER_SHARD = 8
"""Chunks per axis of a shard, at most."""


def round_up(n: int, multiple: int) -> int:
    """The smallest multiple that is not below n.

    >>> round_up(17, 16)
    32
    """
    return -(-n // multiple) * multiple


@dataclass(frozen=True, slots=True)
class Halo:
    """Extra pixels that the network needs around a core."""

    before: Pair
    """Pixels above and to the left (y, x)."""
    after: Pair
    """Pixels below and to the right (y, x)."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One network call: a core with its halo."""

    core: Box
    """The part whose prediction is kept, in image coordinates (y, x)."""
    halo: Halo
    stride: Pair

    @property
    def computed(self) -> Box:
        """The core with its sides rounded up to the stride: what the network is asked for."""
        sides = (round_up(n, s) for n, s in zip(self.core.shape, self.stride, strict=True))
        return Box(self.core.start, tuple(a + n for a, n in zip(self.core.start, sides, strict=True)))

    @property
    def read(self) -> Box:
        """What the network looks at; reaches outside the image at its edges."""
        return self.computed.grow(self.halo.before, self.halo.after)


def tiles_of(block: Box, core: Pair, halo: Halo, stride: Pair) -> list[Tile]:
    """Tiles whose cores partition the block (y, x), each starting on the stride's phase."""
    for name, sides in (("core", core), ("block start", block.start)):
        if any(n % s for n, s in zip(sides, stride, strict=True)):
            raise ValueError(f"the {name} {tuple(sides)} must be a multiple of the stride {stride}")
    return [Tile(box, halo, stride) for box in grid_boxes(block, core)]


def reach_of(tiles: Sequence[Tile]) -> Box:
    """The smallest box that holds the read boxes of all tiles of a block."""
    starts = zip(*(t.read.start for t in tiles), strict=True)
    stops = zip(*(t.read.stop for t in tiles), strict=True)
    return Box(tuple(map(min, starts)), tuple(map(max, stops)))


@dataclass(frozen=True, slots=True)
class Block:
    """What one task writes: whole shards of one plane."""

    index: int
    plane: tuple[int, ...]
    """Position on the leading axes (t, z), empty where there are none."""
    box: Box
    """In image coordinates (y, x)."""


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """Blocks of one side that partition every plane of an image, numbered row by row, plane after plane."""

    planes: tuple[int, ...]
    """Sides of the leading axes (t, z); empty where there are none."""
    shape: Pair
    side: int

    @property
    def per_axis(self) -> Pair:
        return (-(-self.shape[0] // self.side), -(-self.shape[1] // self.side))

    @property
    def n_planes(self) -> int:
        n = 1
        for side in self.planes:
            n *= side
        return n

    def __len__(self) -> int:
        return self.n_planes * self.per_axis[0] * self.per_axis[1]

    def block(self, index: int) -> Block:
        """The block of this number, computed without a list of them."""
        ny, nx = self.per_axis
        rest, ix = divmod(index, nx)
        plane_number, iy = divmod(rest, ny)
        plane = []
        for side in reversed(self.planes):
            plane_number, position = divmod(plane_number, side)
            plane.append(position)
        start = (iy * self.side, ix * self.side)
        stop = tuple(min(a + self.side, n) for a, n in zip(start, self.shape, strict=True))
        return Block(index, tuple(reversed(plane)), Box(start, stop))

    def __iter__(self) -> Iterator[Block]:
        return map(self.block, range(len(self)))

    def plane_number(self, plane: Sequence[int]) -> int:
        """How many planes come before this one."""
        number = 0
        for i, n in zip(plane, self.planes, strict=True):
            number = number * n + i
        return number

    def touched(self, plane: Sequence[int], box: Box) -> Iterator[Block]:
        """The blocks that hold a pixel of a box inside a plane."""
        (ny, nx), cells = self.per_axis, box.coarser(self.side)
        for y, x in product(*map(range, cells.start, cells.stop)):
            yield self.block((self.plane_number(plane) * ny + y) * nx + x)


def block_side(shape: Pair, stride: Pair) -> int:
    """Side of the blocks of an image, from the image and the network's stride alone.

    4096 pixels (16 Mpx: seconds of work, 6 * 10^4 tasks for 10^12 pixels), less where the image would give fewer than
    16 blocks to share out; a multiple of the stride.
    """
    unit = lcm(*stride)
    for side in (4096, 2048, 1024):
        fitted = max(side // unit, 1) * unit
        if len(BlockGrid((), shape, fitted)) >= 16:
            return fitted
    return max(1024 // unit, 1) * unit


def check_block(side: int, stride: Pair) -> None:
    """Refuse a block that is not a multiple of the stride, with the nearest two that are."""
    unit = lcm(*stride)
    if side < 1 or side % unit:
        below, above = max(side // unit, 1) * unit, round_up(max(side, 1), unit)
        way_out = f"use {below}" if below >= above else f"use {below} or {above}"
        raise ValueError(f"a block of {side} pixels is not a multiple of the network's stride {unit}; {way_out}")


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a pyramid on disk."""

    shape: Pair
    chunk: int
    """Side of a chunk."""
    shard: int
    """Side of what one writer owns: the shard, or the chunk where shards are off."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Levels that are written together, by blocks of `side` pixels at level `source`."""

    source: int
    """The level that the blocks partition; pass 0 writes it too, later passes read it."""
    side: int
    levels: tuple[int, ...]
    """The levels that a block writes."""


def chunk_side(side: int, target: int = CHUNK) -> int:
    """The divisor of a block's side that is nearest in ratio to the target.

    >>> chunk_side(4096), chunk_side(1000), chunk_side(64)
    (512, 500, 64)
    """
    divisors = {d for i in range(1, int(side**0.5) + 1) if side % i == 0 for d in (i, side // i)}
    return min(divisors, key=lambda d: (max(d / target, target / d), d))


def _shard_side(side: int, chunk: int) -> int:
    """The largest run of chunks, at most 8, that divides a block's side."""
    n = side // chunk
    return chunk * max(m for m in range(1, CHUNKS_PER_SHARD + 1) if n % m == 0)


def plan_pyramid(
    shape: Pair, block: int, *, chunk: int = CHUNK, sharded: bool = True
) -> tuple[list[Level], list[Pass]]:
    """Levels down to one chunk, and the passes that write them with one writer per shard.

    Level k + 1 has half the sides of level k, rounded up: no pixel is lost. A block writes the levels on which it still
    fills a chunk; coarser ones come from later passes over the coarsest level so far.
    """
    shapes = [shape]
    while max(shapes[-1]) > chunk:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    levels: list[Level] = []
    passes: list[Pass] = []
    side = block
    while len(levels) < len(shapes):
        source = max(len(levels) - 1, 0)
        first = len(levels)
        step = first - source
        while len(levels) < len(shapes):
            halvings = len(levels) - source
            here = side >> halvings
            if halvings > step and (side % (1 << halvings) or here < chunk):
                break
            part = chunk_side(here, chunk)
            levels.append(Level(shapes[len(levels)], part, _shard_side(here, part) if sharded else part))
        passes.append(Pass(source, side, tuple(range(first, len(levels)))))
        side = chunk * CHUNKS_PER_SHARD
    return levels, passes


def check_single_writer(levels: Sequence[Level], passes: Sequence[Pass]) -> None:
    """Prove that no shard of any level has two writers, before any task runs.

    A block is `side / 2^(k - source)` pixels wide on level k; when that is a whole number of shards, every shard lies
    in one block, whatever the image's size.
    """
    for step in passes:
        for k in step.levels:
            factor = 1 << (k - step.source)
            shard = levels[k].shard
            if step.side % factor or (step.side // factor) % shard or shard % levels[k].chunk:
                raise ValueError(
                    f"level {k}: a block of {step.side} pixels is {step.side / factor:g} there, no whole number of "
                    f"shards of {shard}; two tasks would write one shard"
                )
    if [k for step in passes for k in step.levels] != list(range(len(levels))):
        raise ValueError("every level must be written by one pass")
