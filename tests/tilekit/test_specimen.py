"""The specimen is one picture whichever box is asked for, and its truth is consistent."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilekit.box import Box, grid_boxes
from tilekit.errors import InputError
from tilekit.specimen import BAND, CELL, LIGHT, PIECE, Specimen

FAR_ALONG = Specimen(1_000_000, seed=7)
GOLDEN_GREY = [
    [72, 77, 78, 86],
    [90, 95, 83, 91],
    [90, 83, 87, 85],
    [71, 63, 73, 62],
    [72, 68, 69, 66],
    [107, 102, 93, 81],
]
GOLDEN_IDS = [0, 214534129, 214575797]
READERS = ["read", "truth", "ids"]


def boxes_near(y: int, x: int) -> st.SearchStrategy[Box]:
    """Boxes of up to 90 pixels a side (empty ones too) around a place where something changes over."""
    start = st.tuples(st.integers(y - 60, y + 60), st.integers(x - 60, x + 60))
    side = st.tuples(st.integers(0, 90), st.integers(0, 90))
    return st.builds(lambda a, n: Box(a, (a[0] + n[0], a[1] + n[1])), start, side)


def two_boxes() -> st.SearchStrategy[tuple[Box, Box]]:
    seams = [(LIGHT * CELL, LIGHT * CELL), (BAND * 3, PIECE * CELL), (999_850, 500_000), (60, 999_850)]
    return st.sampled_from(seams).flatmap(lambda seam: st.tuples(boxes_near(*seam), boxes_near(*seam)))


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=40)
@given(pair=two_boxes())
def test_two_boxes_agree_on_what_they_share(reader: str, pair: tuple[Box, Box]) -> None:
    shared = pair[0].intersect(pair[1])
    one, other = (getattr(FAR_ALONG, reader)(box) for box in pair)
    assert (one.shape, other.shape) == (pair[0].shape, pair[1].shape)
    if shared.n_pixels:
        views = (a[shared.relative_to(box).slices] for a, box in zip((one, other), pair, strict=True))
        np.testing.assert_array_equal(*views)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("side", [(7, 1700), (97, 101), (512, 512)])
def test_blocks_put_together_are_the_whole(reader: str, side: tuple[int, int]) -> None:
    specimen = Specimen((BAND + 150, PIECE * CELL + 130), seed=2)
    whole = getattr(specimen, reader)(Box.whole(specimen.shape))
    assert whole.shape == specimen.shape
    for box in grid_boxes(Box.whole(specimen.shape), side):
        np.testing.assert_array_equal(getattr(specimen, reader)(box), whole[box.slices])


def test_a_smaller_specimen_is_a_piece_of_a_larger_one() -> None:
    box = Box((0, 0), (130, 77))
    np.testing.assert_array_equal(Specimen((130, 77), seed=3).read(box), Specimen(4000, seed=3).read(box))
    np.testing.assert_array_equal(Specimen((130, 77), seed=3).truth(box), Specimen(4000, seed=3).truth(box))


def test_pixels_do_not_change_between_versions() -> None:
    box = Box((123546, 654321), (123552, 654325))
    assert FAR_ALONG.read(box).tolist() == GOLDEN_GREY
    assert np.unique(FAR_ALONG.ids(box)).tolist() == GOLDEN_IDS


@pytest.fixture(scope="module")
def square() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint32]]:
    specimen = Specimen(2000, seed=5)
    box = Box.whole(specimen.shape)
    return specimen.read(box), specimen.truth(box), specimen.ids(box)


def test_truth_is_where_ids_are(square: tuple[NDArray[Any], ...]) -> None:
    _, truth, ids = square
    assert (truth.dtype.name, ids.dtype.name) == ("uint8", "uint32")
    np.testing.assert_array_equal(truth, (ids > 0).astype(np.uint8))


def neighbors(ids: NDArray[Any], reach: int = 1) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """The pixels of the middle, with those at each offset of up to `reach`: views of one shape."""
    middle = ids[reach:-reach, reach:-reach]
    for dy, dx in product(range(2 * reach + 1), repeat=2):
        yield middle, ids[dy : dy + middle.shape[0], dx : dx + middle.shape[1]]


def test_no_two_objects_touch(square: tuple[NDArray[Any], ...]) -> None:
    for here, there in neighbors(square[2]):
        assert ((here == there) | (here == 0) | (there == 0)).all()


def test_an_object_is_in_one_piece(square: tuple[NDArray[Any], ...]) -> None:
    ids = np.pad(square[2][:600, :600], 1)
    reached = np.zeros(ids.shape, np.bool)
    reached.ravel()[np.unique(ids, return_index=True)[1]] = True
    for _ in range(2 * CELL):  # from the first pixel of each, a step at a time
        grown = [
            (here == there) & near for (here, there), (_, near) in zip(neighbors(ids), neighbors(reached), strict=True)
        ]
        reached[1:-1, 1:-1] = np.any(grown, axis=0)
    np.testing.assert_array_equal(np.unique(ids[(ids > 0) & ~reached]), [])


def test_an_id_is_the_number_of_a_grid_cell_nearby(square: tuple[NDArray[Any], ...]) -> None:
    ids = square[2]
    y, x = np.nonzero(ids)
    row, column = np.divmod(ids[y, x].astype(np.int64) - 1, 2000 // CELL + 2)
    assert np.abs(row * CELL - CELL // 2 - y).max() <= CELL  # grid row 0 lies half outside, above the image
    assert np.abs(column * CELL - CELL // 2 - x).max() <= CELL


def test_most_objects_are_parted_from_another_by_one_pixel_alone(square: tuple[NDArray[Any], ...]) -> None:
    ids = square[2]
    close = [here[(here != there) & (here > 0) & (there > 0)] for here, there in neighbors(ids, 2)]
    assert len(np.unique(np.concatenate(close))) > 0.5 * len(np.unique(ids))


def test_no_global_threshold_finds_the_cells(square: tuple[NDArray[Any], ...]) -> None:
    image, truth, _ = square
    cell, rest = (np.bincount(image[truth == k], minlength=256)[::-1].cumsum()[::-1] for k in (1, 0))
    iou = cell / (cell[0] + rest)
    print(f"best global threshold: IoU {iou.max():.3f} at {iou.argmax()}; all called cell: {iou[0]:.3f}")
    assert iou.max() < 0.65


def test_light_is_uneven_and_values_do_not_saturate() -> None:
    specimen = Specimen(20_000, seed=1)
    grey = [
        specimen.read(Box((y, x), (y + 200, x + 200))) for y in range(0, 19_000, 2000) for x in range(0, 19_000, 2000)
    ]
    means = [g.mean() for g in grey]
    assert max(means) > 1.6 * min(means)
    assert np.mean(np.isin(grey, (0, 255))) < 1e-3


def test_it_is_a_source_and_a_value() -> None:
    specimen = Specimen((50, 70), seed=4)
    assert pickle.loads(pickle.dumps(specimen)) == specimen
    assert specimen.fingerprint == {"kind": "specimen", "size": [50, 70], "seed": 4}
    assert (specimen.axes, specimen.shape, specimen.levels) == ("yx", (50, 70), [(50, 70)])
    assert specimen.read((slice(0, 9), slice(1, 5))).shape == (9, 4)
    assert not np.array_equal(specimen.read(Box.whole((50, 70))), Specimen((50, 70)).read(Box.whole((50, 70))))


def test_a_box_outside_is_refused_with_both_shapes() -> None:
    with pytest.raises(InputError, match=r"box \(0, 0\) to \(51, 70\) reaches outside \(50, 70\); clip it"):
        Specimen((50, 70)).read(Box((0, 0), (51, 70)))


@pytest.mark.parametrize("size", [0, (5, 0), 2**21])
def test_a_size_without_pixels_or_beyond_uint32_ids_is_refused(size: Any) -> None:
    with pytest.raises(InputError, match="at least 1 and below"):
        Specimen(size)
