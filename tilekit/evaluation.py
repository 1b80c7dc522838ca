"""What the values of two maps mean: a truth is mapped first, void is set apart, and what has no meaning is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.errors import InputError
from tilekit.overlaps import Overlaps
from tilekit.predictor import VOID

Array = NDArray[Any]
KINDS = ("classes", "ids", "boundaries")
NOTHING = (1 << 64) - 1
"""What void becomes in a table: no class and no id has this number."""
Mapping = tuple[tuple[int, int | None], ...]
"""Pairs of a value of the truth and what it means; None is void."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How two maps are read."""

    kind: str = "classes"
    """One of KINDS."""
    mapping: Mapping | None = None
    void: int | None = None
    """Number that means void, after mapping; None where no number does."""

    @classmethod
    def of(cls, kind: str, mapping: dict[int, int | None] | None = None, void: Any = "auto") -> Rules:
        """Rules as a person gives them; void "auto" is 255 for classes, and none for ids and boundaries."""
        if kind not in KINDS:
            raise InputError(f"kind {kind!r}: must be one of {', '.join(KINDS)}")
        if void == "auto":
            void = VOID if kind == "classes" else None
        if kind == "boundaries" and (mapping is not None or void is not None):
            raise InputError("boundary maps have no void and no map: 0 is membrane, all else inside; leave both out")
        targets = {value for value in (mapping or {}).values() if value is not None}
        if kind == "classes" and not targets <= set(range(256)):
            raise InputError("--map: classes are 0 to 255, or void")
        return cls(kind, None if mapping is None else tuple(sorted(mapping.items())), void)

    def is_coded(self, values: Array) -> bool:
        """True where a prediction with these values is written in the truth's own numbers, and so is mapped like it.

        It is where each of its values has an entry in the map, and one of them means no class by itself: a truth scored
        against itself, but no class map of the mapped classes. Ids are where the map has each negative one.
        """
        if self.mapping is None:
            return False
        found = set(values.tolist())
        if self.kind == "ids":
            found = {value for value in found if value < 0}
        targets = {meaning for _, meaning in self.mapping if self.kind == "classes"}
        return found <= {value for value, _ in self.mapping} and not found <= targets

    def truth_of(self, table: Overlaps, name: str) -> Array:
        """What the truth's values mean, uint64, void as NOTHING.

        InputError, naming the file, for a value that no entry of the map covers, is negative, or is no class.
        """
        wanted, is_void = self._mapped(table.truth, name)
        if self.void is not None:
            is_void |= wanted == self.void
        self._check(wanted[~is_void], name, "say what it means by --map {value}=void or another number")
        return _set(wanted, is_void)

    def prepare(self, table: Overlaps, prediction: str, truth: str, *, coded: bool = False) -> Overlaps:
        """The table row by row in uint64, truth mapped and the prediction too where it is `coded` like it.

        Void is NOTHING, of the prediction in class maps alone: predicted void is wrong, or background among ids.
        """
        found, is_void = self._mapped(table.prediction, prediction) if coded else (table.prediction, None)
        if is_void is None:
            is_void = np.zeros(len(table), np.bool)
            if self.kind == "classes" and self.void is not None:  # 255 is void in every class map of tilekit
                is_void = (found == self.void) | (found == VOID)
        wanted = self.truth_of(table, truth)
        self._check(found[~is_void & (wanted != NOTHING)], prediction, "a prediction holds classes, ids or void")
        found = _set(found, is_void)
        if self.kind == "ids":
            found[is_void] = 0
        return Overlaps(found, wanted, table.counts)

    def pixels(self, prediction: Array, truth: Array, *, coded: bool) -> tuple[Array, Array]:
        """Two maps of one shape as they are meant: uint64, void as NOTHING."""
        flat = Overlaps(prediction.ravel(), truth.ravel(), np.ones(truth.size, np.int64))
        meant = self.prepare(flat, "prediction", "truth", coded=coded)
        return meant.prediction.reshape(truth.shape), meant.truth.reshape(truth.shape)

    def _mapped(self, values: Array, name: str) -> tuple[Array, NDArray[np.bool]]:
        """Values as they are meant, and which of them the map calls void."""
        is_void = np.zeros(len(values), np.bool)
        if self.mapping is None:
            return values, is_void
        wanted, covered = values.astype(np.int64 if values.dtype.kind == "i" else np.uint64), is_void.copy()
        for value, meaning in self.mapping:
            here = values == value
            covered |= here
            is_void |= here & (meaning is None)
            if meaning is not None:
                wanted[here] = meaning
        if self.kind == "classes" and not covered.all():
            value = int(values[~covered][0])
            raise InputError(f"{name}: no entry of the map covers value {value}; add {value}=CLASS or {value}=void")
        return wanted, is_void

    def _check(self, values: Array, name: str, way_out: str) -> None:
        for value in (int(values.min()), int(values.max())) if values.size else ():
            out = way_out.format(value=value)
            if self.kind == "classes" and not 0 <= value <= 255:
                raise InputError(f"{name}: value {value} is no class, which are 0 to 255; {out}")
            if value < 0:
                raise InputError(f"{name}: object id {value} is negative, must be 0 (background) or more; {out}")

    def to_json(self) -> dict[str, Any]:
        mapping = None if self.mapping is None else {str(k): "void" if v is None else v for k, v in self.mapping}
        return {"kind": self.kind, "map": mapping, "void": self.void}


def _set(values: Array, is_nothing: NDArray[np.bool]) -> NDArray[np.uint64]:
    out = values.astype(np.uint64)
    out[is_nothing] = NOTHING
    return out


def parse_map(text: str | None) -> dict[int, int | None] | None:
    """What the truth's values mean, from a list.

    >>> parse_map("0=0,255=1,-1=void")
    {0: 0, 255: 1, -1: None}
    """
    if text is None:
        return None
    mapping: dict[int, int | None] = {}
    for part in text.split(","):
        key, _, meaning = part.partition("=")
        try:
            value, target = int(key), None if meaning.strip() == "void" else int(meaning)
        except ValueError:
            raise InputError(f"--map {text}: {part!r} is no entry; write it like 0=0,255=1,-1=void") from None
        if value in mapping:
            raise InputError(f"--map {text}: {value} has two entries; leave one out")
        if target is not None and target < 0:
            raise InputError(f"--map {text}: {target} is negative; write void for what counts nowhere")
        mapping[value] = target
    return mapping


def parse_void(text: str | None) -> int | str | None:
    """Void from an option: "auto" where it is not given, None for "none".

    >>> parse_void("none"), parse_void("7"), parse_void(None)
    (None, 7, 'auto')
    """
    if text is None:
        return "auto"
    if text == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--void {text}: is no number; write a number or none") from None
