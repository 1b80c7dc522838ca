"""Averages: one network over the 8 rotations and flips of its input, several networks, or both.

A tile is turned with its whole halo, as wide on all sides, and cut to what the network takes where the turned core
begins:

    |<- halo ->|<------- core ------->|<- halo ->|     turned by a flip, the core's last pixel comes first; it lies
    |  |before |######################|after|    |     at a multiple of the stride too, so every tile pools the cells
    |    |after|######################|before|   |     that the turned whole image would

so law 1 holds for the average: tiles of it equal the average of passes over the whole image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.errors import InputError
from tilekit.predictor import Predictor
from tilekit.tiling import Halo, Pair

Turn = tuple[bool, bool, bool]
"""Transpose, then flip y, then flip x."""
FLIPS: tuple[Turn, ...] = tuple((t, y, x) for t in (False, True) for y in (False, True) for x in (False, True))


@dataclass(frozen=True, slots=True)
class Averaged:
    """A predictor (tilekit.predictor): the mean of the probabilities of others, decided by the rule of the first."""

    predictors: tuple[Predictor, ...]
    turns: tuple[Turn, ...] = (FLIPS[0],)

    @classmethod
    def of(cls, predictors: Sequence[Predictor], *, flips: bool = False) -> Averaged:
        """InputError where they do not take and give the same."""
        first = predictors[0]
        for other in predictors[1:]:
            for name in ("in_channels", "n_classes", "class_names", "pixel_size"):
                a, b = getattr(first, name), getattr(other, name)
                if a != b:
                    raise InputError(
                        f"networks to be averaged differ in {name.replace('_', ' ')}: {a} and {b}; take networks that "
                        "were trained alike"
                    )
        return cls(tuple(predictors), FLIPS if flips else FLIPS[:1])

    @property
    def halo(self) -> Halo:
        """As wide on all sides, where the tile is turned."""
        before, after = ([getattr(p.halo, side) for p in self.predictors] for side in ("before", "after"))
        if len(self.turns) > 1:
            n = max(max(pair) for pair in (*before, *after))
            return Halo((n, n), (n, n))
        (by, bx), (ay, ax) = ((max(p[0] for p in side), max(p[1] for p in side)) for side in (before, after))
        return Halo((by, bx), (ay, ax))

    @property
    def stride(self) -> Pair:
        y, x = (lcm(*(p.stride[axis] for p in self.predictors)) for axis in (0, 1))
        return (lcm(y, x), lcm(y, x)) if len(self.turns) > 1 else (y, x)

    @property
    def in_channels(self) -> int:
        return self.predictors[0].in_channels

    @property
    def n_classes(self) -> int:
        return self.predictors[0].n_classes

    @property
    def class_names(self) -> Sequence[str]:
        return self.predictors[0].class_names

    @property
    def exact(self) -> bool:
        return self.inexact_reason is None

    @property
    def inexact_reason(self) -> str | None:
        return next((p.inexact_reason for p in self.predictors if not p.exact), None)

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        return self.predictors[0].pixel_size

    @property
    def channel_names(self) -> Sequence[str] | None:
        return getattr(self.predictors[0], "channel_names", None)

    @property
    def window(self) -> int | None:
        """The largest that a network asks for, for blending."""
        return max((w for p in self.predictors if (w := getattr(p, "window", None))), default=None)

    @property
    def precision(self) -> str:
        return getattr(self.predictors[0], "precision", "float32")

    @property
    def digest(self) -> str:
        """Of all networks in their order; that they were turned is told beside."""
        digests = [p.digest for p in self.predictors]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def multiply_adds_per_pixel(self) -> float:
        return len(self.turns) * sum(p.multiply_adds_per_pixel for p in self.predictors)

    def multiply_adds(self, y: int, x: int) -> float:
        pairs = [(x, y) if turn[0] else (y, x) for turn in self.turns]
        return sum(p.multiply_adds(*pair) for p in self.predictors for pair in pairs)

    def activation_bytes(self, y: int, x: int) -> int:
        """The largest of all, beside the sum and a turned copy of the input."""
        largest = max(max(p.activation_bytes(y, x), p.activation_bytes(x, y)) for p in self.predictors)
        (by, bx), (ay, ax) = self.halo.before, self.halo.after
        return largest + 8 * self.n_classes * y * x + 8 * self.in_channels * (by + y + ay) * (bx + x + ax)

    def predict(
        self, x: NDArray[Any], probabilities: bool = False
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """As of any predictor: class ids and, asked for, probabilities of the core."""
        total: NDArray[np.float32] | None = None
        for predictor, turn in product(self.predictors, self.turns):
            part = _turned(x, turn)
            found = predictor.predict(self._cut(part, predictor), probabilities=True)[1]
            assert found is not None
            back = _turned_back(found, turn)
            total = back.copy() if total is None else total + back
        assert total is not None
        mean = total / np.float32(len(self.predictors) * len(self.turns))
        return self.decide(mean), mean if probabilities else None

    def decide(self, probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
        return self.predictors[0].decide(probabilities)

    def _cut(self, x: NDArray[Any], predictor: Predictor) -> NDArray[Any]:
        """What one network takes of a turned tile: its own halo around the core."""
        given, taken = self.halo, predictor.halo
        rows, columns = (
            slice(b - tb, n - a + ta)
            for n, b, a, tb, ta in zip(x.shape[2:], given.before, given.after, taken.before, taken.after, strict=True)
        )
        return np.ascontiguousarray(x[:, :, rows, columns])


def _turned(x: NDArray[Any], turn: Turn) -> NDArray[Any]:
    x = x.swapaxes(-1, -2) if turn[0] else x
    return x[..., :: -1 if turn[1] else 1, :: -1 if turn[2] else 1]


def _turned_back(x: NDArray[Any], turn: Turn) -> NDArray[Any]:
    x = x[..., :: -1 if turn[1] else 1, :: -1 if turn[2] else 1]
    return np.ascontiguousarray(x.swapaxes(-1, -2) if turn[0] else x)
