"""Which planes, or boxes of them, are for training, validation and test: by groups, runs of numbers, or regions.

    order    | training | gap | validation | gap | test |        numbers of a sequence
    region   | training | gap | validation | gap | test |        pixels along the longer side, or boxes that are listed

Nothing is shuffled: frames that lie side by side are alike, and a network that was trained on one knows the other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from flows.parsing import parse_box
from flows.training.sections import Split
from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.jobs.input import show
from tilekit.tiling import Pair

PARTS = ("train", "validation", "test")
Assigned = dict[str, set[int]]
"""Indices of candidates by part."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is known of a plane."""

    name: str
    sequence: str
    number: int | None
    group: str | None
    part: str | None
    shape: Pair


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of a plane, and what it is for."""

    index: int
    """Of the candidate."""
    part: str
    box: Box


def split(candidates: Sequence[Candidate], rules: Split, halo: int) -> list[Piece]:
    """What is for training, validation and test, in the order of the candidates; disjoint, and `gap` apart.

    `halo`: pixels that the network sees around a place, the least gap between regions. InputError where a part that is
    asked for has nothing, training has nothing, or parts overlap.
    """
    if rules.by == "region":
        pieces = [piece for i, c in enumerate(candidates) for piece in _regions(i, c, rules, halo)]
    else:
        ways: dict[str, Callable[[Sequence[Candidate], Split], Assigned]]
        ways = {"group": _by_group, "order": _by_order, "column": _by_column}
        parts = ways[rules.by](candidates, rules)
        whole = [Box.whole(c.shape) for c in candidates]
        pieces = [Piece(i, part, whole[i]) for i in range(len(whole)) for part in PARTS if i in parts[part]]
    for part in PARTS:
        if (part == "train" or _is_asked(rules, part)) and not any(piece.part == part for piece in pieces):
            raise InputError(f"[split] by {rules.by}: leaves nothing for {part}; change its shares or lists")
    return pieces


def _is_asked(rules: Split, part: str) -> bool:
    asked = rules.validation if part == "validation" else rules.test
    return rules.by != "column" and asked != 0


def _listed(rules: Split, part: str) -> tuple[str, ...] | None:
    """What the configuration lists for a part; None where it gives a share, or nothing."""
    asked = {"train": rules.train, "validation": rules.validation, "test": rules.test}[part]
    return asked if isinstance(asked, tuple) else None


def _share(rules: Split, part: str) -> float:
    asked = rules.validation if part == "validation" else rules.test
    return asked if isinstance(asked, float) else 0.0


def _by_column(candidates: Sequence[Candidate], rules: Split) -> Assigned:
    for candidate in candidates:
        if candidate.part not in PARTS:
            told = "has no part" if not candidate.part else f"has the part {candidate.part!r}"
            raise InputError(f"{candidate.name}: {told}; give each row of the CSV one of {', '.join(PARTS)}")
    return {part: {i for i, c in enumerate(candidates) if c.part == part} for part in PARTS}


def _by_group(candidates: Sequence[Candidate], rules: Split) -> Assigned:
    """Groups that are listed, and of the others the first in the order of their names' digests."""
    groups: dict[str, set[int]] = {}
    for i, candidate in enumerate(candidates):
        groups.setdefault(candidate.group or candidate.sequence, set()).add(i)
    n_parts = 1 + sum(_is_asked(rules, part) for part in PARTS[1:])
    if len(groups) < n_parts:
        raise InputError(
            f"[split] by group: {_counted(len(candidates), 'image')} of {_counted(len(groups), 'group')} "
            f"({', '.join(sorted(groups)[:5])}) for {n_parts} parts; name finer groups, as those "
            "whose names differ in a number alone are one, or split by order or region"
        )
    named = {part: _listed(rules, part) for part in PARTS}
    for part, names in named.items():
        for name in names or ():
            if name not in groups:
                raise InputError(
                    f"[split] {part}: there is no group {name!r}; there are {', '.join(sorted(groups)[:20])}"
                )
    _check_disjoint(named, "group")
    drawn = sorted(groups, key=lambda name: (hashlib.sha256(name.encode()).digest(), name))
    taken = _take(drawn, named, rules)
    return {part: {i for name in names for i in groups[name]} for part, names in taken.items()}


def _counted(n: int, word: str) -> str:
    return f"{n} {word}{'s' * (n != 1)}"


def _check_disjoint(named: Mapping[str, Collection[Any] | None], word: str) -> None:
    for first, second in combinations(PARTS, 2):
        if both := sorted(set(named[first] or ()) & set(named[second] or ())):
            raise InputError(f"[split] {first} and {second} both have the {word} {both[0]}; leave it out of one")


def _take(ordered: Sequence[Any], named: Mapping[str, Collection[Any] | None], rules: Split) -> dict[str, list[Any]]:
    """Those that a part lists; of the others the last ones, by its share of all, one at least; the rest is training."""
    taken = {part: [x for x in ordered if x in (named[part] or ())] for part in PARTS}
    rest = [x for x in ordered if not any(x in part for part in taken.values())]
    sharing = [part for part in PARTS[1:] if _share(rules, part)]
    while sharing:
        part = sharing.pop()
        left = len(sharing) + (named["train"] is None)  # parts that need one, too
        n = max(1, min(round(_share(rules, part) * len(ordered)), len(rest) - left))
        taken[part], rest = rest[-n:], rest[:-n]
    if named["train"] is None:
        taken["train"] = rest
    return taken


def _by_order(candidates: Sequence[Candidate], rules: Split) -> Assigned:
    """Runs of the numbers of each sequence; numbers within the gap of a later part are left out."""
    sequences: dict[str, dict[int, set[int]]] = {}
    for i, c in enumerate(candidates):
        if c.number is None:
            raise InputError(f"{c.name}: its name has no number; split by group, or name the frames by numbers")
        sequences.setdefault(c.group or c.sequence, {}).setdefault(c.number, set()).add(i)
    named = {part: _numbers(part, _listed(rules, part)) for part in PARTS}
    _check_disjoint(named, "number")
    found: Assigned = {part: set() for part in PARTS}
    n_parts = 1 + sum(_share(rules, part) > 0 for part in PARTS[1:])
    for name, frames in sequences.items():
        if len(frames) < n_parts:
            raise InputError(
                f"[split] by order: {name} has {_counted(len(frames), 'frame')} for {n_parts} parts; split by group"
            )
        taken = _take(sorted(frames), named, rules)
        for k, part in enumerate(PARTS):
            others = [m for other in PARTS[k + 1 :] for m in taken[other]]
            apart = [n for n in taken[part] if all(abs(n - m) > (rules.gap or 0) for m in others)]
            found[part] |= {i for n in apart for i in frames[n]}
    return found


def _numbers(part: str, ranges: Sequence[str] | None) -> set[int] | None:
    """Those of ranges such as 19-23 and 7."""
    if ranges is None:
        return None
    numbers: set[int] = set()
    for text in ranges:
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", text)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last - first > 10**6:
            raise InputError(f"[split] {part} = {text!r}: is no range of numbers; write it like 19-23")
        numbers.update(range(first, last + 1))
    return numbers


def _regions(index: int, c: Candidate, rules: Split, halo: int) -> Iterator[Piece]:
    """Boxes of a plane: bands along its longer side by shares, or those that are listed and what is left of them."""
    gap = halo if rules.gap is None else rules.gap
    if gap < halo:
        raise InputError(
            f"[split] gap {gap} is below the network's halo of {halo} pixels; give {halo} or more, or none"
        )
    listed = {part: _boxes(part, _listed(rules, part), c) for part in PARTS}
    boxes = listed if any(listed.values()) else _bands(c, rules, gap)
    if listed is boxes:
        if any(_share(rules, part) for part in PARTS[1:]):
            raise InputError("[split] by region: takes shares or lists of boxes, not both; list boxes for each part")
        _check_apart(boxes, gap)
        if not boxes["train"]:
            boxes["train"] = _without(
                Box.whole(c.shape), [b.grow((gap, gap), (gap, gap)) for p in PARTS for b in boxes[p]]
            )
    for part in PARTS:
        yield from (Piece(index, part, box) for box in boxes[part])


def _boxes(part: str, texts: Sequence[str] | None, c: Candidate) -> list[Box]:
    """Boxes as they are listed; refuses one that reaches outside the image."""
    boxes = []
    for text in texts or ():
        try:
            box = parse_box(text)
        except InputError as error:
            raise InputError(f"[split] {part}: {str(error).removeprefix('--box ')}") from None
        assert box is not None
        if not Box.whole(c.shape).contains(box):
            raise InputError(
                f"[split] {part} = {text!r}: reaches outside {c.name}, which is {c.shape[0]} x {c.shape[1]}"
            )
        boxes.append(box)
    return boxes


def _check_apart(boxes: Mapping[str, Sequence[Box]], gap: int) -> None:
    named = [(part, box) for part in PARTS for box in boxes[part]]
    for (part, box), (other, second) in combinations(named, 2):
        n = 0 if part == other else gap
        if box.grow((n, n), (n, n)).intersect(second).n_pixels:
            raise InputError(
                f"[split] {part} {show(box)} and {other} {show(second)} overlap, or are less than {n} pixels (gap) "
                "apart; move one"
            )


def _bands(c: Candidate, rules: Split, gap: int) -> dict[str, list[Box]]:
    axis = 0 if c.shape[0] >= c.shape[1] else 1
    parts = [part for part in PARTS if part == "train" or _share(rules, part)]
    n = c.shape[axis] - gap * (len(parts) - 1)
    sides = {part: max(1, round(_share(rules, part) * n)) for part in parts[1:]}
    sides = {"train": n - sum(sides.values()), **sides}
    if sides["train"] < 1:
        raise InputError(
            f"{c.name}: {c.shape[0]} x {c.shape[1]} pixels are too few for {len(parts)} regions {gap} apart; split by "
            "group, or take a larger image"
        )
    bands: dict[str, list[Box]] = {part: [] for part in PARTS}
    start = 0
    for part, side in sides.items():
        low, high = [0, 0], list(c.shape)
        low[axis], high[axis] = start, start + side
        bands[part].append(Box(tuple(low), tuple(high)))
        start += side + gap
    return bands


def _without(whole: Box, holes: Iterable[Box]) -> list[Box]:
    """Boxes that partition what is left of one."""
    left = [whole]
    for hole in holes:
        left = [part for box in left for part in _cut(box, hole)]
    return left


def _cut(box: Box, hole: Box) -> list[Box]:
    """What is left above, below, left and right of a hole."""
    gone = box.intersect(hole)
    if not gone.n_pixels:
        return [box]
    (top, left), (bottom, right) = box.start, box.stop
    (y0, x0), (y1, x1) = gone.start, gone.stop
    parts = [
        Box((top, left), (y0, right)),
        Box((y1, left), (bottom, right)),
        Box((y0, left), (y1, x0)),
        Box((y0, x1), (y1, right)),
    ]
    return [part for part in parts if part.n_pixels]
