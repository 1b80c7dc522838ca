"""Splits: by group, by runs of numbers, by regions; nothing is in two parts, and what cannot be split is refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.training.sections import Split
from flows.training.split import PARTS, Candidate, Piece, split
from tilekit.box import Box
from tilekit.errors import InputError


def frames(n: int, sequence: str = "a") -> list[Candidate]:
    return [Candidate(f"{sequence}{i:02}", sequence, i, None, None, (8, 8)) for i in range(n)]


def groups(text: str) -> list[Candidate]:
    return [Candidate(f"{g}{i}", f"{g}{i}", i, g, None, (8, 8)) for i, g in enumerate(text)]


def plane(y: int, x: int) -> list[Candidate]:
    return [Candidate("a", "a", None, None, None, (y, x))]


def numbers(pieces: Sequence[Piece]) -> dict[str, list[int]]:
    return {part: [p.index for p in pieces if p.part == part] for part in PARTS}


def test_order_takes_runs_validation_before_test_and_leaves_the_gap_out() -> None:
    found = numbers(split(frames(20), Split(by="order", validation=0.2, test=0.1, gap=1), 92))
    assert found == {"train": [*range(13)], "validation": [14, 15, 16], "test": [18, 19]}


def test_order_takes_the_numbers_that_are_listed_and_trains_on_the_rest() -> None:
    rules = Split(by="order", validation=("19-23",), test=("24-28", "29"))
    assert numbers(split(frames(30), rules, 0)) == {
        "train": [*range(19)],
        "validation": [*range(19, 24)],
        "test": [*range(24, 30)],
    }


def test_order_trains_on_the_numbers_that_are_listed_alone() -> None:
    rules = Split(by="order", train=("12-15",), validation=("4",), test=("0-2",))
    assert numbers(split(frames(20), rules, 0)) == {"train": [12, 13, 14, 15], "validation": [4], "test": [0, 1, 2]}


def test_each_sequence_is_split_by_itself() -> None:
    found = numbers(split(frames(4, "a") + frames(4, "b"), Split(by="order", validation=0.25), 0))
    assert found == {"train": [0, 1, 2, 4, 5, 6], "validation": [3, 7], "test": []}


def test_planes_of_one_number_stay_together() -> None:
    planes = [Candidate(f"t{t} z{z}", "a", t, None, None, (8, 8)) for t in range(4) for z in range(3)]
    assert numbers(split(planes, Split(by="order", validation=0.25), 0))["validation"] == [9, 10, 11]


@given(st.text("abcdefgh", min_size=2, max_size=30), st.floats(0.01, 0.5), st.floats(0, 0.4))
def test_no_group_is_in_two_parts_whatever_the_order_of_its_images(text: str, validation: float, test: float) -> None:
    rules = Split(validation=validation, test=test)
    if len(set(text)) < 2 + (test > 0):
        with pytest.raises(InputError, match=r"by group: .* for . parts"):
            split(groups(text), rules, 0)
        return
    parts = {(p.part, text[p.index]) for p in split(groups(text), rules, 0)}
    assert len(parts) == len(set(text))
    again = "".join(sorted(text))
    assert {(p.part, again[p.index]) for p in split(groups(again), rules, 0)} == parts


def test_groups_are_taken_as_they_are_listed() -> None:
    found = numbers(split(groups("abcab"), Split(validation=("b",), test=("c",)), 0))
    assert found == {"train": [0, 3], "validation": [1, 4], "test": [2]}


def test_the_column_says_it_all() -> None:
    rows = [Candidate(part, part, None, None, part, (8, 8)) for part in ("test", "train", "validation")]
    assert numbers(split(rows, Split(by="column"), 0)) == {"train": [1], "validation": [2], "test": [0]}


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 30), st.floats(0.05, 0.4), st.floats(0, 0.4))
def test_regions_are_disjoint_by_the_gap_and_lie_along_the_longer_side(
    y: int, x: int, halo: int, validation: float, test: float
) -> None:
    rules = Split(by="region", validation=validation, test=test)
    try:
        pieces = split(plane(y, x), rules, halo)
    except InputError as error:
        assert "too few" in str(error)  # noqa: PT017 (small images are refused, and others must not be)
        assert max(y, x) < (2 + (test > 0)) / 0.05 + 2 * halo
        return
    assert [p.part for p in pieces] == ["train", "validation", "test"][: len(pieces)]
    painted = np.zeros((y, x), int)
    for piece in pieces:
        painted[piece.box.slices] += 1
        for other in pieces:
            if other is not piece:
                assert not piece.box.grow((halo, halo), (halo, halo)).intersect(other.box).n_pixels
    assert painted.max() == 1
    assert (painted == 0).sum() == min(y, x) * halo * (len(pieces) - 1)


@given(st.data())
def test_what_is_left_of_listed_boxes_is_all_that_is_further_away_than_the_gap(data: st.DataObject) -> None:
    def box(low: int) -> str:
        y, x = data.draw(st.integers(low, low + 20)), data.draw(st.integers(0, 80))
        return f"{y}:{y + data.draw(st.integers(1, 15))},{x}:{x + data.draw(st.integers(1, 20))}"

    halo = data.draw(st.integers(0, 10))
    rules = Split(by="region", validation=(box(0),), test=(box(50),))
    pieces = split(plane(100, 100), rules, halo)
    expected = np.ones((100, 100), int)
    for piece in pieces:
        if piece.part != "train":
            expected[piece.box.grow((halo, halo), (halo, halo)).intersect(Box((0, 0), (100, 100))).slices] = 0
    painted = np.zeros((100, 100), int)
    for piece in pieces:
        if piece.part == "train":
            painted[piece.box.slices] += 1
    np.testing.assert_array_equal(painted, expected)


@pytest.mark.parametrize(
    ("candidates", "rules", "told"),
    [
        (groups("aaa"), {}, r"by group: 3 images of 1 group \(a\) for 2 parts; name finer groups"),
        (groups("ab"), {"test": 0.2}, "2 images of 2 groups .* for 3 parts"),
        (groups("ab"), {"validation": ("c",)}, "validation: there is no group 'c'; there are a, b"),
        (groups("abc"), {"validation": ("a",), "test": ("a",)}, "validation and test both have the group a"),
        (groups("ab"), {"validation": ("a", "b")}, "leaves nothing for train"),
        (frames(1), {"by": "order"}, "a has 1 frame for 2 parts; split by group"),
        (frames(9), {"by": "order", "validation": ("3-5",), "test": ("5-8",)}, "both have the number 5"),
        (frames(9), {"by": "order", "validation": ("9-12",)}, "leaves nothing for validation"),
        (frames(9), {"by": "order", "validation": ("7-8",), "gap": 7}, "leaves nothing for train"),
        (frames(9), {"by": "order", "validation": ("5-3",)}, "'5-3': is no range of numbers; write it like 19-23"),
        (plane(9, 9), {"by": "order"}, "a: its name has no number; split by group"),
        (groups("ab"), {"by": "column"}, "a0: has no part; give each row of the CSV one of train, validation, test"),
        (plane(300, 200), {"by": "region", "gap": 20}, "gap 20 is below the network's halo of 92 pixels; give 92"),
        (plane(90, 90), {"by": "region"}, "a: 90 x 90 pixels are too few for 2 regions 92 apart"),
        (plane(300, 300), {"by": "region", "validation": ("0:9",)}, "0:9: is no box; write it like y0:y1,x0:x1"),
        (plane(300, 300), {"by": "region", "validation": ("0:9,0:301",)}, "reaches outside a, which is 300 x 300"),
        (
            plane(300, 300),
            {"by": "region", "validation": ("0:9,0:9",), "test": ("0:9,100:200",)},
            r"validation 0:9,0:9 and test 0:9,100:200 overlap, or are less than 92 pixels \(gap\) apart",
        ),
        (plane(300, 300), {"by": "region", "validation": ("0:9,0:9",), "test": 0.1}, "shares or lists of boxes, not"),
        (plane(300, 300), {"by": "region", "validation": ("0:300,90:210",)}, "leaves nothing for train"),
    ],
)
def test_what_cannot_be_split_is_refused_in_one_line(
    candidates: list[Candidate], rules: dict[str, object], told: str
) -> None:
    with pytest.raises(InputError, match=told) as refused:
        split(candidates, Split(**rules), 92)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
