"""Components of blocks, joined over the tree, are those of the whole image; without a store."""

from __future__ import annotations

from typing import Any

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tilekit.box import Box, grid_boxes
from tilekit.components import faces, find_runs, first_pixels, paint, places, values
from tilekit.seams import FAN, Node, Table, block_node, join, resolve

Array = NDArray[Any]
VOID = 255
maps = arrays(
    np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.sampled_from([0, 0, 1, 1, 2, VOID])
)


def whole_image(classes: Array, connectivity: int) -> Array:
    kept = np.where(classes == VOID, 0, classes)
    labels: Array = cc3d.connected_components(kept, connectivity=connectivity, out_dtype=np.uint32)
    return labels


def blockwise(classes: Array, side: int, connectivity: int) -> Array:
    """For each pixel the row-major position of its object's first pixel, -1 for background."""
    height, width = classes.shape
    ny, nx = -(-height // side), -(-width // side)
    out = np.full(classes.shape, -1, np.int64)
    found, level = {}, {}
    for number, box in enumerate(grid_boxes(Box.whole(classes.shape), (side, side))):
        place = divmod(number, nx)
        runs = find_runs(classes[box.slices], connectivity, VOID)
        y, x = np.divmod(first_pixels(runs, box.shape[1]), box.shape[1])
        first = (y + box.start[0]) * width + x + box.start[1]
        kind = classes.reshape(-1)[first].astype(np.int64)
        table = Table(first, places(runs, 0, 0)[:, 0], kind, kind, kind)
        closed = (place[0] == 0, place[0] == ny - 1, place[1] == 0, place[1] == nx - 1)
        node, entries = block_node(faces(runs, box.shape[1]), table, closed)
        found[place], level[place] = (box, runs, table, entries), Node.from_bytes(node.to_bytes())
    above: dict[tuple[int, int], list[tuple[Node, int]]] = {place: [] for place in found}
    shape, reach = (ny, nx), 1
    while shape != (1, 1):
        parents = {}
        for i in range(-(-shape[0] // FAN)):
            for j in range(-(-shape[1] // FAN)):
                columns = range(j * FAN, min(j * FAN + FAN, shape[1]))
                rows = range(i * FAN, min(i * FAN + FAN, shape[0]))
                parents[i, j] = join([[level[y, x] for x in columns] for y in rows], connectivity)
        for (y, x), path in above.items():
            y, x = y // reach, x // reach
            n_columns = min(x // FAN * FAN + FAN, shape[1]) - x // FAN * FAN
            path.append((parents[y // FAN, x // FAN], y % FAN * n_columns + x % FAN))
        level, shape, reach = parents, (-(-shape[0] // FAN), -(-shape[1] // FAN)), reach * FAN
    for place, (box, runs, table, entries) in found.items():
        first = table.first.copy()
        if above[place]:
            first[entries - 1] = resolve(np.arange(len(entries)), above[place]).first
        part = np.full(box.shape, -1, np.int64)
        paint(runs, np.concatenate([[-1], first]), part)
        out[box.slices] = part
    return out


def as_ids(first: Array) -> Array:
    """Dense from 1 in the order of first pixels."""
    known = np.unique(first[first >= 0])
    return np.where(first >= 0, np.searchsorted(known, first) + 1, 0)


@settings(max_examples=150, deadline=None)
@given(classes=maps, side=st.integers(3, 17), connectivity=st.sampled_from([4, 8]))
def test_any_map_and_any_block(classes: Array, side: int, connectivity: int) -> None:
    np.testing.assert_array_equal(as_ids(blockwise(classes, side, connectivity)), whole_image(classes, connectivity))


def test_diagonals_meet_at_the_corner_of_four_blocks() -> None:
    classes = np.eye(6, dtype=np.uint8)
    assert len(np.unique(blockwise(classes, 3, 8))) == 2
    assert len(np.unique(blockwise(classes, 3, 4))) == 7


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_sums_of_components(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    classes = (rng.random((50, 70)) < 0.5).astype(dtype)
    pixels = rng.normal(size=classes.shape)
    pixels[rng.random(classes.shape) < 0.1] = np.nan
    labels = whole_image(classes.astype(np.uint8), 4)
    runs = find_runs(classes, 4, VOID)
    n = len(runs.first)
    assert n == labels.max()
    area, y_sum, x_sum, y_min, y_max, x_min, x_max = places(runs, 1000, 2000).T
    sums = values(runs, pixels)
    for i in range(n):
        y, x = np.nonzero(labels == i + 1)
        y, x = y + 1000, x + 2000
        expected = (len(y), y.sum(), x.sum(), y.min(), y.max(), x.min(), x.max())
        assert (area[i], y_sum[i], x_sum[i], y_min[i], y_max[i], x_min[i], x_max[i]) == expected
        known = pixels[labels == i + 1]
        known = known[~np.isnan(known)]
        assert sums[i, 0] == len(known)
        if len(known):
            np.testing.assert_allclose(sums[i, 1:], [known.sum(), known.min(), known.max()])
