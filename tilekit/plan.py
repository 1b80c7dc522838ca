"""The plan: which core and block an image, a network and a memory ask for, and what that will cost. Integers alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import ceil, floor, lcm
from typing import Any

from tilekit.allocator import heap_bytes
from tilekit.errors import InputError
from tilekit.predictor import Predictor
from tilekit.resample import BAND, Grid
from tilekit.tiling import BlockGrid, Pair, block_side, check_block, round_up

GIB = 1 << 30
PROCESS_BYTES = 700 << 20
"""Resident memory of a worker before its first block: interpreter, torch, zarr, dask; rounded up."""
ACTIVATION_BYTES = 5 * GIB // 4
"""Activations of one tile that a plan allows: a core of 1024 for the paper's network, and a heap of 1.3 to 2 GiB as
measured (2.9 as promised at worst). More would save under 7% of the work."""
MULTIPLY_ADDS_PER_SECOND = 60e9
"""Of one CPU core in float32, for the estimate of time alone."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a plan needs to know of an image."""

    planes: tuple[int, ...]
    """Sides of the leading axes (t, z)."""
    channels: int
    """Channels that the network is given."""
    shape: Pair
    itemsize: int
    """Bytes per value."""
    level: int = 0
    """Level of the pyramid that the network reads."""
    grid: Grid | None = None
    """The network's pixels over the image; None where they are the image's own."""

    @property
    def seen(self) -> Grid:
        """The network's pixels."""
        return self.grid or Grid.of(self.shape)


@dataclass(frozen=True, slots=True)
class Plan:
    """Tiles and blocks of one prediction, and their cost."""

    image: ImageFacts
    halo: tuple[Pair, Pair]
    """Before and after, each (y, x)."""
    stride: Pair
    core: Pair
    """Sides of a tile's core (y, x), multiples of the stride."""
    block: int
    """Side of the square that one task writes."""
    n_tiles: int
    n_blocks: int
    redundancy: float
    """Multiply-adds of all tiles over those of one pass over all pixels that the network sees."""
    multiply_adds: float
    tile_bytes: int
    """What the heap grows to for the activations of one tile, at worst."""
    task_bytes: int
    """What a worker holds for its blocks: one computed, one being read or written."""
    output_bytes: int
    """Uncompressed, with its pyramid."""

    @property
    def worker_bytes(self) -> int:
        """The promise: resident memory of a worker process stays below this."""
        return PROCESS_BYTES + self.task_bytes

    @property
    def grid(self) -> BlockGrid:
        return BlockGrid(self.image.planes, self.image.shape, self.block)

    def seconds(self, workers: int) -> float:
        """A rough estimate for this many CPU cores."""
        return self.multiply_adds / MULTIPLY_ADDS_PER_SECOND / max(workers, 1)

    def to_json(self) -> dict[str, Any]:
        before, after = self.halo
        return {
            "halo": {"before": list(before), "after": list(after)},
            "stride": list(self.stride),
            "core": list(self.core),
            "block": self.block,
            "n_tiles": self.n_tiles,
            "n_blocks": self.n_blocks,
            "redundancy": round(self.redundancy, 4),
            "tile_bytes": self.tile_bytes,
            "task_bytes": self.task_bytes,
            "worker_bytes": self.worker_bytes,
            "output_bytes": self.output_bytes,
            "level": self.image.level,
            "resampling": list(self.image.seen.ratio),
            "network_shape": list(self.image.seen.shape),
        }


def make_plan(
    image: ImageFacts,
    predictor: Predictor,
    *,
    tile: int | None = None,
    core: Pair | None = None,
    block: int | None = None,
    memory: int | None = None,
    probability_bytes: int = 0,
) -> Plan:
    """Choose core and block; `memory` is what one worker may use, `probability_bytes` those of one stored probability.
    `tile` is the core's side as asked for; `core` that of a run to be continued.

    The block depends on the image and the network alone. The core is the largest that fits the memory (1.25 GiB of
    activations unless less is there), evened out over the block. Raises InputError where not even the smallest fits.
    """
    stride, halo, grid = predictor.stride, predictor.halo, image.seen
    phase = stride if grid.is_image else (1, 1)  # elsewhere tiles start on it wherever the block does
    if block is None:
        block = block_side(image.shape, phase)
    try:
        check_block(block, phase)
    except ValueError as error:
        raise InputError(str(error)) from None
    spans = [_spans(grid, axis, block, stride[axis]) for axis in (0, 1)]
    most: Pair = (max(spans[0]), max(spans[1]))
    buffers = _buffer_bytes(image, predictor, block, most, probability_bytes)
    room = None if memory is None else memory - PROCESS_BYTES - buffers
    if core is None:
        core = _even_core(block, grid, stride, tile) if tile else _largest_core(predictor, most, room)
    tile_bytes = heap_bytes(predictor.activation_bytes(*core))
    if room is not None and tile_bytes > room:
        need = PROCESS_BYTES + buffers + tile_bytes
        raise InputError(
            f"a worker needs {need / GIB:.2f} GiB for a block of {block} and a core of {core[0]} pixels but has "
            f"{memory / GIB if memory else 0:.2f}; give more --memory, or fewer --workers, a smaller --block or --tile"
        )
    counts = [_core_lengths(n, c, s) for n, c, s in zip(spans, core, stride, strict=True)]
    blocks = BlockGrid(image.planes, image.shape, block)
    n_seen = blocks.n_planes * grid.shape[0] * grid.shape[1]
    work = blocks.n_planes * sum(
        predictor.multiply_adds(y, x) * ny * nx for y, ny in counts[0].items() for x, nx in counts[1].items()
    )
    n_pixels = blocks.n_planes * image.shape[0] * image.shape[1]
    return Plan(
        image=image,
        halo=(halo.before, halo.after),
        stride=stride,
        core=core,
        block=block,
        n_tiles=blocks.n_planes * counts[0].total() * counts[1].total(),
        n_blocks=len(blocks),
        redundancy=work / (predictor.multiply_adds_per_pixel * n_seen),
        multiply_adds=work,
        tile_bytes=tile_bytes,
        task_bytes=tile_bytes + buffers,
        output_bytes=n_pixels * (1 + predictor.n_classes * probability_bytes) * 4 // 3,
    )


def _spans(grid: Grid, axis: int, block: int, stride: int) -> Counter[int]:
    """How many blocks of each length, in network pixels, one axis has."""
    n = grid.image[axis]
    spans = (grid.span(axis, start, min(start + block, n), stride) for start in range(0, n, block))
    return Counter(stop - first for first, stop in spans)


def _core_lengths(spans: Counter[int], core: int, stride: int) -> Counter[int]:
    """How many tiles of each computed length one axis has."""
    lengths: Counter[int] = Counter()
    for side, times in spans.items():
        if side // core:
            lengths[core] += times * (side // core)
        if side % core:
            lengths[round_up(side % core, stride)] += times
    return lengths


def _buffer_bytes(image: ImageFacts, predictor: Predictor, block: int, most: Pair, probability_bytes: int) -> int:
    """Two blocks at once (one computed, one read or written), each with what it reads, writes and encodes."""
    grid, halo = image.seen, predictor.halo
    side = (block, block) if grid.is_image else most
    sides = [n + b + a for n, b, a in zip(side, halo.before, halo.after, strict=True)]
    read = 2 * image.channels * image.itemsize * sides[0] * sides[1]
    if not grid.is_image:  # pixels of the level that they come from, and of the image, by which void is decided
        level = [ceil(n * s + 2 * max(s, 1) + 2) for n, s in zip(sides, grid.ratio, strict=True)]
        bands = 4 * BAND * 8 * max(sides[1], level[1])
        read += 2 * image.channels * image.itemsize * (level[0] * level[1] + block * block) + bands
    written = 3 * block * block * (1 + predictor.n_classes * probability_bytes)
    return 2 * (read + written)


def _even_core(block: int, grid: Grid, stride: Pair, side: int) -> Pair:
    sides = [round_up(floor((block - 0.5) / f) + 1, s) for f, s in zip(grid.factor, stride, strict=True)]
    return tuple(min(max(side // s, 1) * s, n) for n, s in zip(sides, stride, strict=True))  # type: ignore[return-value]


def _largest_core(predictor: Predictor, used: Pair, room: int | None) -> Pair:
    """The fewest tiles per block whose activations fit, evened out."""
    stride = predictor.stride
    n = 1
    while True:
        core = tuple(round_up(-(-side // n), s) for side, s in zip(used, stride, strict=True))
        activations = predictor.activation_bytes(*core)
        fits = activations <= ACTIVATION_BYTES and (room is None or heap_bytes(activations) <= room)
        if fits or max(core) <= lcm(*stride):
            return core  # type: ignore[return-value]
        n += 1
