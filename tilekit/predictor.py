"""What tilekit asks of a network: array in, class ids out, and the numbers that make tiling exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilekit.tiling import Halo, Pair

VOID = 255
"""The class id that says: no prediction here."""
MAX_CLASSES = 254


class Predictor(Protocol):
    """Picklable (as path and digest); opens its network on the worker that first computes with it."""

    @property
    def halo(self) -> Halo: ...
    @property
    def stride(self) -> Pair:
        """Total down-sampling (y, x)."""

    @property
    def in_channels(self) -> int: ...
    @property
    def n_classes(self) -> int: ...
    @property
    def class_names(self) -> Sequence[str]: ...
    @property
    def exact(self) -> bool:
        """True where tiles of it can equal one pass over the whole image."""

    @property
    def inexact_reason(self) -> str | None: ...
    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """Micrometres per pixel (y, x) that it was trained at, None where unknown."""

    @property
    def digest(self) -> str:
        """Tells this network from every other."""

    @property
    def multiply_adds_per_pixel(self) -> float:
        """Of an infinitely large core."""

    def multiply_adds(self, y: int, x: int) -> float:
        """Of one tile with a core of y by x pixels."""

    def activation_bytes(self, y: int, x: int) -> int:
        """Most bytes that are alive at once while a tile with a core of y by x pixels is computed."""

    def predict(
        self, x: NDArray[Any], probabilities: bool = False
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Raw values (b, c, before + y + after, ...) to class ids (b, y, x); probabilities (b, k, y, x) if asked."""

    def decide(self, probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Class ids (b, y, x) of probabilities (b, k, y, x), by its own rule."""


def decide(probabilities: NDArray[np.float32], head: str, thresholds: Sequence[float]) -> NDArray[np.uint8]:
    """Class ids (b, y, x) of probabilities (b, k, y, x); ties go to the lower id.

    softmax: the class of the largest p / t, or without thresholds the likeliest. sigmoid: the likeliest of the classes
    from 1 on whose p exceeds their threshold, 0 where there is none.
    """
    if head == "softmax":
        scale = np.asarray(thresholds or [1.0], np.float32).reshape(-1, 1, 1)
        likeliest: NDArray[np.uint8] = (probabilities / scale).argmax(1).astype(np.uint8)
        return likeliest
    others = probabilities[:, 1:]
    over = np.where(others > np.asarray(thresholds, np.float32).reshape(-1, 1, 1), others, -1)
    ids: NDArray[np.uint8] = np.where(over.max(1) < 0, 0, over.argmax(1) + 1).astype(np.uint8)
    return ids
