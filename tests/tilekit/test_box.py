"""Laws of boxes, against sets of positions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilekit.box import Box, bounding, grid_boxes

N_AXES = st.shared(st.integers(1, 3), key="axes")


def per_axis(numbers: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, ...]]:
    return N_AXES.flatmap(lambda n: st.tuples(*[numbers] * n))


starts = per_axis(st.integers(-9, 9))
shapes = per_axis(st.integers(0, 7))
sides = per_axis(st.integers(1, 5))
margins = per_axis(st.integers(0, 4))
boxes = st.builds(
    lambda start, shape: Box(start, tuple(a + n for a, n in zip(start, shape, strict=True))), starts, shapes
)


def positions(box: Box) -> set[tuple[int, ...]]:
    return set(product(*(range(a, b) for a, b in zip(box.start, box.stop, strict=True))))


@given(boxes)
def test_n_pixels_counts_positions(box: Box) -> None:
    assert box.n_pixels == len(positions(box)) == np.prod(box.shape)


@given(boxes, sides)
def test_grid_boxes_partition(within: Box, side: tuple[int, ...]) -> None:
    cells = list(grid_boxes(within, side))
    assert sum(cell.n_pixels for cell in cells) == within.n_pixels
    assert set().union(*map(positions, cells)) == positions(within)
    assert all(cell.n_pixels for cell in cells)


@given(boxes, sides)
def test_grid_boxes_are_on_the_grid_in_row_major_order(within: Box, side: tuple[int, ...]) -> None:
    cells = list(grid_boxes(within, side))
    assert cells == sorted(cells)
    for cell in cells:
        for axis, n in enumerate(side):
            assert (cell.start[axis] - within.start[axis]) % n == 0
            assert cell.shape[axis] == n or cell.stop[axis] == within.stop[axis]


@given(boxes, boxes)
def test_intersect_holds_what_both_hold(a: Box, b: Box) -> None:
    assert positions(a.intersect(b)) == positions(a) & positions(b)


@given(boxes, boxes)
def test_contains_of_boxes_with_pixels(a: Box, b: Box) -> None:
    if b.n_pixels:
        assert a.contains(b) == (positions(b) <= positions(a))


@given(boxes, boxes)
def test_bounding_is_the_smallest_that_contains_both(a: Box, b: Box) -> None:
    around = bounding([a, b])
    assert around.contains(a)
    assert around.contains(b)
    assert around.start == tuple(map(min, a.start, b.start))
    assert around.stop == tuple(map(max, a.stop, b.stop))


@given(boxes, margins, margins)
def test_grow_adds_its_margins(box: Box, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    grown = box.grow(before, after)
    assert grown.contains(box)
    assert grown.relative_to(box).start == tuple(-n for n in before)
    assert grown.shape == tuple(map(sum, zip(box.shape, before, after, strict=True)))


@given(boxes, starts)
def test_shift_and_relative_to_undo_each_other(box: Box, offset: tuple[int, ...]) -> None:
    there = Box(offset, offset)
    assert box.relative_to(there).shift(offset) == box
    assert box.shift(offset).shape == box.shape


@given(boxes, st.integers(1, 6))
def test_coarser_holds_every_touched_cell(box: Box, factor: int) -> None:
    if box.n_pixels:
        touched = {tuple(i // factor for i in at) for at in positions(box)}
        assert positions(box.coarser(factor)) == touched


@given(shapes)
def test_whole_is_what_a_full_slice_reads(shape: tuple[int, ...]) -> None:
    whole = Box.whole(shape)
    assert whole.shape == shape
    assert np.empty(shape)[whole.slices].shape == shape


@given(boxes)
def test_of_reads_every_spelling_alike(box: Box) -> None:
    shape = tuple(max(n, 0) for n in box.stop)
    pairs = list(zip(box.start, box.stop, strict=True))
    assert Box.of(box, shape) == box
    assert Box.of(box.slices, shape) == box
    assert Box.of(pairs, shape) == box


@given(shapes, st.integers(0, 3))
def test_of_takes_missing_axes_whole(shape: tuple[int, ...], n_given: int) -> None:
    n_given = min(n_given, len(shape))
    given_axes = shape[len(shape) - n_given :]
    assert Box.of([slice(None)] * n_given, shape) == Box.whole(shape)
    assert Box.of([(0, n) for n in given_axes], shape) == Box.whole(shape)


def test_of_refuses_more_axes_than_the_image_has() -> None:
    with pytest.raises(ValueError, match="box of 3 axes does not fit an image of 2"):
        Box.of([(0, 1)] * 3, (4, 4))


@pytest.mark.parametrize(("start", "stop"), [((2,), (1,)), ((0,), (1, 1))])
def test_a_box_that_ends_before_it_starts_is_refused(start: tuple[int, ...], stop: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must not exceed its stop"):
        Box(start, stop)
