"""The boxes asked for of one output, run after run: their union is predicted, and a new one rewrites its blocks.

They are numbered. Blocks are recorded with the number of requests known when they were written, and are done again
where a later one touches them. A request is on disk before any block is written for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilekit.box import Box
from tilekit.documents import parse_json
from tilekit.errors import InputError
from tilekit.ledger import FOLDER, Requests, write_atomic
from tilekit.tiling import BlockGrid


@dataclass(frozen=True, slots=True)
class Boxes:
    """(y, x), in the order in which they were asked for; None is the whole image."""

    boxes: tuple[Box | None, ...] = ()

    @classmethod
    def read(cls, out: Path, stage: str) -> Boxes:
        """Those of an output; none where it has not begun."""
        try:
            stored = parse_json(_path(out, stage).read_bytes())
            return cls(tuple(None if b is None else _box(*b) for b in stored))
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{_path(out, stage)}: is no record of boxes ({error}); start over with --overwrite"
            ) from None

    def write(self, out: Path, stage: str) -> None:
        """Keep them; on disk when this returns."""
        path = _path(out, stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(self.to_json()))

    def to_json(self) -> list[Any]:
        """As start and stop of each."""
        return [None if b is None else [list(b.start), list(b.stop)] for b in self.boxes]

    def asking(self, box: Box | None) -> Boxes:
        """With one more, unless it repeats the last, or the whole image was asked for before."""
        if (self.boxes and self.boxes[-1] == box) or (box is None and None in self.boxes):
            return self
        return Boxes((*self.boxes, box))

    @property
    def union(self) -> tuple[Box, ...]:
        """Boxes that together hold what was asked for; empty for the whole image."""
        return () if None in self.boxes else tuple(b for b in self.boxes if b is not None)

    def over(self, grid: BlockGrid, level: int = 0) -> Requests:
        """As the ledger of a stage needs them, whose blocks partition a level."""

        def needed(index: int) -> int:
            block = grid.block(index).box
            return next((n for n in range(len(self.boxes), 0, -1) if self._touches(n - 1, block, level)), 0)

        return Requests(len(self.boxes), needed)

    def _touches(self, number: int, block: Box, level: int) -> bool:
        """Whether a request rewrites a block; the whole image leaves those that a box before it held."""
        box = self.boxes[number]
        if box is not None:
            return block.intersect(box.coarser(1 << level)).n_pixels > 0
        return level > 0 or not any(b is not None and b.contains(block) for b in self.boxes[:number])


def _box(start: list[int], stop: list[int]) -> Box:
    (y0, x0), (y1, x1) = start, stop
    if not all(type(n) is int and n >= 0 for n in (y0, x0, y1, x1)):
        raise ValueError(f"{start} to {stop} is no box")
    return Box((y0, x0), (y1, x1))


def _path(out: Path, stage: str) -> Path:
    return out / FOLDER / stage / "boxes.json"
