"""Joining what belongs together across the faces of blocks: a tree of nodes, each as large as its outline.

A node is a rectangle of blocks. It knows its **open** components, those that touch its faces, by what adds up of them,
and for each of its four faces which component every pixel belongs to. Joining neighbors unites components that face
each other, and closes those that no longer touch a face. At the top all are closed. Memory and time of a join grow
with the faces joined, about 60 bytes a pixel of them, never with the objects inside: 10^12 pixels in blocks of 4096
have 5 * 10^8 pixels of faces, but no join holds more than 8 * 10^6 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tilekit.packing import pack, unpack

FAN = 4
"""Children of a node along each axis."""
MANY = 1 << 62
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """What adds up of components, one entry each."""

    first: Ids
    """Row-major position of the first pixel in the whole image."""
    area: Ids
    kind: Ids
    """Class: components of unlike kinds stay apart, even face to face."""
    low: Ids
    """Lowest class beside it, where that is asked for."""
    high: Ids
    """Highest class beside it."""

    def __len__(self) -> int:
        return len(self.first)

    def take(self, index: Any) -> Table:
        return Table(*(getattr(self, f.name)[index] for f in fields(self)))

    def put(self, index: Any, other: Table) -> None:
        """Replace these entries."""
        for f in fields(self):
            getattr(self, f.name)[index] = getattr(other, f.name)

    @classmethod
    def concatenate(cls, tables: Sequence[Table]) -> Table:
        return cls(*(np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(cls)))

    def fold(self, group: Ids, n: int) -> Table:
        """One entry for each of n groups."""
        rules = ((np.minimum, MANY), (np.add, 0), (np.maximum, -1), (np.minimum, MANY), (np.maximum, -1))
        folded = []
        for (ufunc, neutral), f in zip(rules, fields(self), strict=True):
            out = np.full(n, neutral, np.int64)
            ufunc.at(out, group, getattr(self, f.name))
            folded.append(out)
        return Table(*folded)


@dataclass(frozen=True)
class Node:
    """A rectangle of blocks, joined."""

    table: Table
    """Its components: the open ones, numbered from 0, before those closed here."""
    n_open: int
    faces: tuple[Ids, Ids, Ids, Ids]
    """Top, bottom, left, right: 1 + the open component of each pixel, 0 for background."""
    up: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    """For the open components of its children, one child after the other, the component of this node."""
    starts: Ids = field(default_factory=lambda: np.zeros(1, np.int64))
    """Where each child's part of `up` begins."""

    def to_bytes(self) -> bytes:
        arrays = {f.name: getattr(self.table, f.name) for f in fields(Table)}
        arrays |= dict(zip(("top", "bottom", "left", "right"), self.faces, strict=True))
        return pack(arrays | {"up": self.up, "starts": self.starts, "n_open": np.array(self.n_open)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Node:
        a = unpack(data)
        table = Table(*(a[f.name] for f in fields(Table)))
        return cls(table, int(a["n_open"]), (a["top"], a["bottom"], a["left"], a["right"]), a["up"], a["starts"])


def block_node(lines: Sequence[Ids], table: Table, closed: Sequence[bool]) -> tuple[Node, Ids]:
    """The node of a block, and the component (from 1) of each of its entries.

    `lines` are the components (from 1) along its faces. `closed` faces have no neighbor: what touches them alone is
    complete.
    """
    lines = [np.zeros_like(line) if shut else line for line, shut in zip(lines, closed, strict=True)]
    touching = np.unique(np.concatenate(lines))
    touching = touching[touching > 0]
    number = np.zeros(len(table) + 1, np.int64)
    number[touching] = np.arange(1, len(touching) + 1)
    top, bottom, left, right = (number[line] for line in lines)
    return Node(table.take(touching - 1), len(touching), (top, bottom, left, right)), touching


def join(rows: Sequence[Sequence[Node]], connectivity: int) -> Node:
    """One node of a rectangle of nodes, in rows from top to bottom."""
    nodes = [node for row in rows for node in row]
    sizes = [node.n_open for node in nodes]
    starts = np.cumsum([0, *sizes])
    table = Table.concatenate([node.table.take(slice(0, node.n_open)) for node in nodes])
    grid = [
        [_shifted(nodes[r * len(row) + i], int(starts[r * len(row) + i])) for i in range(len(row))]
        for r, row in enumerate(rows)
    ]
    pairs = [p for row in grid for a, b in pairwise(row) for p in facing(a[3], b[2], connectivity)]
    tops = [np.concatenate([node[0] for node in row]) for row in grid]
    bottoms = [np.concatenate([node[1] for node in row]) for row in grid]
    pairs += [p for a, b in zip(bottoms, tops[1:], strict=False) for p in facing(a, b, connectivity)]
    left = np.concatenate([row[0][2] for row in grid])
    right = np.concatenate([row[-1][3] for row in grid])
    group, n = _unite(pairs, table)
    outline = (tops[0], bottoms[-1], left, right)
    open_first, n_open = _open_first(group, n, outline)
    faces = tuple(np.where(face > 0, open_first[group[face - 1]] + 1, 0) if len(group) else face for face in outline)
    up = open_first[group] if len(group) else group
    return Node(table.fold(up, n), n_open, faces, up, starts)  # type: ignore[arg-type]


def _shifted(node: Node, start: int) -> list[Ids]:
    return [np.where(face > 0, face + start, 0) for face in node.faces]


def facing(a: Ids, b: Ids, connectivity: int) -> list[tuple[Ids, Ids]]:
    """Entries of two faces whose pixels are neighbors across them, as pairs of arrays."""
    shifts = [(a, b)] if connectivity == 4 else [(a, b), (a[1:], b[:-1]), (a[:-1], b[1:])]
    both = [((p > 0) & (q > 0), p, q) for p, q in shifts]
    return [(p[met], q[met]) for met, p, q in both]


def _unite(pairs: Sequence[tuple[Ids, Ids]], table: Table) -> tuple[Ids, int]:
    """The group of each entry: those that face each other, in the same class, through whatever chain."""
    n = len(table)
    if not pairs or not n:
        return np.arange(n, dtype=np.int64), n
    a, b = (np.concatenate(side) - 1 for side in zip(*pairs, strict=True))
    same = table.kind[a] == table.kind[b]
    a, b = a[same], b[same]
    count, group = connected_components(coo_matrix((np.ones(len(a), bool), (a, b)), shape=(n, n)), directed=False)
    return group.astype(np.int64), int(count)


def _open_first(group: Ids, n: int, outline: Sequence[Ids]) -> tuple[Ids, int]:
    """New numbers of the groups, those that touch the outline first, and how many these are."""
    is_open = np.zeros(n, bool)
    for face in outline:
        is_open[group[face[face > 0] - 1]] = True
    order = np.argsort(~is_open, kind="stable")
    number = np.empty(n, np.int64)
    number[order] = np.arange(n)
    return number, int(is_open.sum())


def resolve(entries: Ids, path: Sequence[tuple[Node, int]]) -> Table:
    """What the open entries of a block have become, given the nodes above it and which child of each it lies in."""
    index, pending = entries.copy(), np.ones(len(entries), bool)
    result = Table(*(np.zeros(len(entries), np.int64) for _ in fields(Table)))
    for node, child in path:
        index[pending] = node.up[node.starts[child] + index[pending]]
        closed = pending & (index >= node.n_open)
        result.put(closed, node.table.take(index[closed]))
        pending &= ~closed
    if pending.any():
        raise AssertionError("open at the top of the tree")
    return result
