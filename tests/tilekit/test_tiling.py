"""Halo, stride, tiles, blocks, shards: each law against a count by hand of every pixel or shard."""

from __future__ import annotations

from itertools import combinations, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilekit.box import Box
from tilekit.tiling import (
    BlockGrid,
    Halo,
    Level,
    Pass,
    block_side,
    check_block,
    check_single_writer,
    chunk_side,
    plan_pyramid,
    reach_of,
    round_up,
    tiles_of,
)

sides = st.integers(1, 90)
shapes = st.tuples(sides, sides)
strides = st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([1, 2, 4, 5]))


def covered(shape: tuple[int, int], boxes: list[Box]) -> np.ndarray:
    """How many of the boxes each pixel lies in."""
    count = np.zeros(shape, int)
    for box in boxes:
        assert Box.whole(shape).contains(box)
        count[box.slices] += 1
    return count


@given(shapes, st.integers(1, 100), st.lists(st.integers(1, 3), max_size=2).map(tuple))
def test_blocks_partition_every_plane_of_the_image(shape, side, planes):
    grid = BlockGrid(planes, shape, side)
    blocks = list(grid)
    assert len(blocks) == len(grid)
    assert {b.plane for b in blocks} == set(np.ndindex(*planes))
    for plane in np.ndindex(*planes):
        assert (covered(shape, [b.box for b in blocks if b.plane == plane]) == 1).all()


@given(
    st.lists(st.integers(1, 5), max_size=2).map(tuple),
    st.tuples(st.integers(1, 10**7), st.integers(1, 10**7)),
    st.integers(1, 5000),
    st.data(),
)
def test_a_blocks_number_and_place_determine_each_other(planes, shape, side, data):
    grid = BlockGrid(planes, shape, side)
    index = data.draw(st.integers(0, len(grid) - 1))
    block = grid.block(index)
    rows, columns = grid.per_axis
    number = 0
    for n, position in zip(planes, block.plane, strict=True):
        number = number * n + position
    y, x = (a // side for a in block.box.start)
    assert block.index == index == (number * rows + y) * columns + x
    assert all(0 < n <= side for n in block.box.shape)
    assert all(b == n or b - a == side for a, b, n in zip(block.box.start, block.box.stop, shape, strict=True))


@given(
    shapes, strides, st.tuples(st.integers(1, 6), st.integers(1, 6)), st.tuples(st.integers(0, 5), st.integers(0, 5))
)
def test_cores_partition_their_block_and_start_on_the_strides_phase(shape, stride, cells, at):
    core = (cells[0] * stride[0], cells[1] * stride[1])
    start = (at[0] * stride[0], at[1] * stride[1])
    block = Box(start, (start[0] + shape[0], start[1] + shape[1]))
    halo = Halo((3, 1), (2, 7))
    tiles = tiles_of(block, core, halo, stride)
    assert (covered(shape, [t.core.relative_to(block) for t in tiles]) == 1).all()
    for tile in tiles:
        assert all(a % s == 0 for a, s in zip(tile.core.start, stride, strict=True))
        assert all(n % s == 0 for n, s in zip(tile.computed.shape, stride, strict=True))
        assert all(n < m + s for n, m, s in zip(tile.computed.shape, tile.core.shape, stride, strict=True))
        assert tile.read == tile.computed.grow((3, 1), (2, 7))
    reach = reach_of(tiles)
    assert all(reach.contains(t.read) for t in tiles)


@given(strides.filter(lambda s: s != (1, 1)), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_a_core_that_is_not_a_multiple_of_the_stride_is_refused(stride, core):
    block = Box((0, 0), (120, 120))
    if any(n % s for n, s in zip(core, stride, strict=True)):
        with pytest.raises(ValueError, match="must be a multiple of the stride"):
            tiles_of(block, core, Halo((0, 0), (0, 0)), stride)
    else:
        assert tiles_of(block, core, Halo((0, 0), (0, 0)), stride)


@given(st.integers(1, 20000), st.sampled_from([1, 2, 3, 8, 16, 24, 32, 256]))
def test_a_block_that_is_not_a_multiple_of_the_stride_is_refused_with_the_nearest_two(side, stride):
    if side % stride == 0:
        check_block(side, (stride, stride))
        return
    below, above = side // stride * stride, round_up(side, stride)
    nearest = f"use {below} or {above}" if below else f"use {above}"
    with pytest.raises(ValueError, match=rf"{side} pixels is not a multiple .* stride {stride}; {nearest}$"):
        check_block(side, (stride, stride))


@given(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), strides)
def test_the_default_block_is_a_multiple_of_the_stride(shape, stride):
    check_block(block_side(shape, stride), stride)


def pyramids() -> st.SearchStrategy[tuple[tuple[int, int], int, int, bool]]:
    """Shape, block, chunk and sharding; small enough to count every shard."""
    block = st.sampled_from([8, 12, 16, 24, 32, 40, 48, 56, 64, 96, 100, 128, 7, 30])
    return st.tuples(
        st.tuples(st.integers(1, 700), st.integers(1, 700)), block, st.sampled_from([4, 8, 16]), st.booleans()
    )


def writers_of_shards(
    shape: tuple[int, int], levels: list[Level], step: Pass, k: int
) -> dict[tuple[int, int], set[int]]:
    """For every shard of level k, the blocks that write a part of it, found by walking every block."""
    found: dict[tuple[int, int], set[int]] = {}
    for block in BlockGrid((), levels[step.source].shape, step.side):
        box = block.box
        for _ in range(k - step.source):
            box = Box(tuple(a // 2 for a in box.start), tuple(-(-b // 2) for b in box.stop))
        (top, left), (bottom, right) = box.start, box.stop
        shard = levels[k].shard
        for y in range(top // shard, -(-bottom // shard)):
            for x in range(left // shard, -(-right // shard)):
                found.setdefault((y, x), set()).add(block.index)
    return found


@given(pyramids())
def test_no_two_blocks_share_a_shard_on_any_level(pyramid):
    shape, block, chunk, sharded = pyramid
    levels, passes = plan_pyramid(shape, block, chunk=chunk, sharded=sharded)
    check_single_writer(levels, passes)
    for step in passes:
        for k in step.levels:
            found = writers_of_shards(shape, levels, step, k)
            assert all(len(blocks) == 1 for blocks in found.values())
            grid = tuple(-(-n // levels[k].shard) for n in levels[k].shape)
            assert set(found) == set(np.ndindex(*grid))


@given(pyramids(), st.data())
def test_the_proof_of_one_writer_agrees_with_a_count_of_all_shards(pyramid, data):
    """Also where a plan is made wrong on purpose: whatever two blocks would share, the proof refuses."""
    shape, block, chunk, sharded = pyramid
    levels, passes = plan_pyramid(shape, block, chunk=chunk, sharded=sharded)
    k = data.draw(st.integers(0, len(levels) - 1))
    n = data.draw(st.integers(1, 9))
    levels[k] = Level(levels[k].shape, levels[k].chunk, levels[k].chunk * n)
    step = next(p for p in passes if k in p.levels)
    shared = any(len(blocks) > 1 for blocks in writers_of_shards(shape, levels, step, k).values())
    try:
        check_single_writer(levels, passes)
    except ValueError:
        return
    assert not shared


@given(pyramids())
def test_levels_halve_down_to_one_chunk(pyramid):
    shape, block, chunk, sharded = pyramid
    levels, passes = plan_pyramid(shape, block, chunk=chunk, sharded=sharded)
    assert levels[0].shape == shape
    for finer, coarser in zip(levels, islice(levels, 1, None), strict=False):
        assert coarser.shape == tuple(-(-n // 2) for n in finer.shape)
        assert max(finer.shape) > chunk
    assert max(levels[-1].shape) <= chunk
    assert [k for step in passes for k in step.levels] == list(range(len(levels)))
    assert all(level.shard % level.chunk == 0 for level in levels)
    assert sharded or all(level.shard == level.chunk for level in levels)


@given(st.integers(1, 10**5), st.integers(1, 1024))
def test_a_chunk_divides_its_block(side, target):
    assert side % chunk_side(side, target) == 0


@given(st.lists(st.tuples(shapes, shapes), min_size=2, max_size=4))
def test_boxes_that_meet_share_pixels(pairs):
    boxes = [Box(a, (a[0] + n[0], a[1] + n[1])) for a, n in pairs]
    for one, other in combinations(boxes, 2):
        common = {(y, x) for y in range(one.start[0], one.stop[0]) for x in range(one.start[1], one.stop[1])}
        common &= {(y, x) for y in range(other.start[0], other.stop[0]) for x in range(other.start[1], other.stop[1])}
        assert one.intersect(other).n_pixels == len(common)
