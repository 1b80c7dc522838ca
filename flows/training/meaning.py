"""What the values of a truth mean: ids or classes from 0, and UNKNOWN; what means nothing is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.training.sections import Data
from tilekit.errors import InputError
from tilekit.jobs.drawing import UNKNOWN
from tilekit.predictor import MAX_CLASSES

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Meaning:
    """How values are read."""

    kind: str
    """ids or classes."""
    mapping: tuple[tuple[int, int | None], ...] | None = None
    """Pairs of a value and what it means; None is void."""
    void: int | None = None
    """Mapped value that means void."""
    n_classes: int | None = None
    """Classes that there are; None where any number is one."""

    @classmethod
    def of(cls, data: Data) -> Meaning:
        """What a configuration says."""
        mapping, known = data.mapping, None
        if data.kind == "classes":
            targets = {target for target in (mapping or {}).values() if target not in (None, data.void_value)}
            known = len(data.class_names) if data.class_names else max(targets, default=0) + 1 if mapping else None
        return cls(data.kind, None if mapping is None else tuple(sorted(mapping.items())), data.void_value, known)

    def read(self, values: Array, name: str) -> Array:
        """Ids or classes, int32 or int64, UNKNOWN where void."""
        wide: Array = values.astype(np.int32 if values.dtype.itemsize <= 2 else np.int64)
        out, is_void, covered = wide.copy(), np.zeros(wide.shape, bool), np.zeros(wide.shape, bool)
        for value, target in self.mapping or ():
            here = wide == value
            covered |= here
            if target is None:
                is_void |= here
            else:
                out[here] = target
        if self.void is not None:
            is_void |= out == self.void
        wrong: NDArray[np.bool_] = np.less(out, 0)
        if self.kind == "classes":
            wrong |= np.greater_equal(out, self._limit)
        wrong &= ~is_void
        if self.kind == "classes" and self.mapping is not None:
            wrong |= ~covered
        if wrong.any():
            raise self._refusal(np.unique(wide[wrong]), name)
        out[is_void] = UNKNOWN
        return out

    @property
    def _limit(self) -> int:
        return self.n_classes or MAX_CLASSES

    def _refusal(self, values: Array, name: str) -> InputError:
        """Why these values mean nothing, and what to do."""
        some = ", ".join(map(str, values[:8].tolist())) + (", ..." if len(values) > 8 else "")
        holds = f"{name}: the truth holds {some}"
        if self.kind == "ids":
            return InputError(f"{holds}, object ids are 0 or more; add {values[0]}=void to [data] map")
        if self.mapping is not None:
            way_out = f"add {values[0]}=CLASS or {values[0]}=void"
            return InputError(f"{holds}, which [data] map does not cover; {way_out}")
        named = " as class_names has them" if self.n_classes else ""
        way_out = "say what it means in [data] map, or name the class"
        return InputError(f"{holds}, classes are 0 to {self._limit - 1}{named}; {way_out}")
