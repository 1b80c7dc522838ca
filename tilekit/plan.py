"""The plan: which core and block an image, a network and a memory ask for, and what that will cost. Integers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any

from tilekit.allocator import heap_bytes
from tilekit.errors import InputError
from tilekit.predictor import Predictor
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
    """Multiply-adds of all tiles over those of one pass over the whole image."""
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
    stride, halo = predictor.stride, predictor.halo
    if block is None:
        block = block_side(image.shape, stride)
    try:
        check_block(block, stride)
    except ValueError as error:
        raise InputError(str(error)) from None
    buffers = _buffer_bytes(image, predictor, block, probability_bytes)
    room = None if memory is None else memory - PROCESS_BYTES - buffers
    if core is None:
        core = _even_core(block, stride, tile) if tile else _largest_core(predictor, image.shape, block, room)
    tile_bytes = heap_bytes(predictor.activation_bytes(*core))
    if room is not None and tile_bytes > room:
        need = PROCESS_BYTES + buffers + tile_bytes
        raise InputError(
            f"a worker needs {need / GIB:.2f} GiB for a block of {block} and a core of {core[0]} pixels but has "
            f"{memory / GIB if memory else 0:.2f}; give more --memory, or fewer --workers, a smaller --block or --tile"
        )
    counts = [_core_lengths(n, block, c, s) for n, c, s in zip(image.shape, core, stride, strict=True)]
    grid = BlockGrid(image.planes, image.shape, block)
    n_pixels = grid.n_planes * image.shape[0] * image.shape[1]
    work = grid.n_planes * sum(
        predictor.multiply_adds(y, x) * ny * nx for y, ny in counts[0].items() for x, nx in counts[1].items()
    )
    return Plan(
        image=image,
        halo=(halo.before, halo.after),
        stride=stride,
        core=core,
        block=block,
        n_tiles=grid.n_planes * counts[0].total() * counts[1].total(),
        n_blocks=len(grid),
        redundancy=work / (predictor.multiply_adds_per_pixel * n_pixels),
        multiply_adds=work,
        tile_bytes=tile_bytes,
        task_bytes=tile_bytes + buffers,
        output_bytes=n_pixels * (1 + predictor.n_classes * probability_bytes) * 4 // 3,
    )


def _core_lengths(n: int, block: int, core: int, stride: int) -> Counter[int]:
    """How many tiles of each computed length one axis has."""
    lengths: Counter[int] = Counter()
    for side, times in ((block, n // block), (n % block, 1)):
        if side and times:
            lengths[core] += times * (side // core)
            if side % core:
                lengths[round_up(side % core, stride)] += times
    return lengths


def _buffer_bytes(image: ImageFacts, predictor: Predictor, block: int, probability_bytes: int) -> int:
    """Two blocks at once (one computed, one read or written), each with what it reads, writes and encodes."""
    sides = [block + b + a for b, a in zip(predictor.halo.before, predictor.halo.after, strict=True)]
    read = 2 * image.channels * image.itemsize * sides[0] * sides[1]
    written = 3 * block * block * (1 + predictor.n_classes * probability_bytes)
    return 2 * (read + written)


def _even_core(block: int, stride: Pair, side: int) -> Pair:
    return tuple(min(max(side // s, 1) * s, block) for s in stride)  # type: ignore[return-value]


def _largest_core(predictor: Predictor, shape: Sequence[int], block: int, room: int | None) -> Pair:
    """The fewest tiles per block whose activations fit, evened out."""
    stride = predictor.stride
    used = [min(block, round_up(n, s)) for n, s in zip(shape, stride, strict=True)]
    n = 1
    while True:
        core = tuple(round_up(-(-side // n), s) for side, s in zip(used, stride, strict=True))
        activations = predictor.activation_bytes(*core)
        fits = activations <= ACTIVATION_BYTES and (room is None or heap_bytes(activations) <= room)
        if fits or max(core) <= lcm(*stride):
            return core  # type: ignore[return-value]
        n += 1
