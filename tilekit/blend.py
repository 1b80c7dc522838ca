"""Blending: a network that cannot be exact, in windows on one grid for the whole image, with a fixed taper.

    windows   |<---- 2 steps ---->|         each begins at a multiple of the step, wherever tiles and blocks do
                        |<---- 2 steps ---->|
    taper        . - ' - .   . - ' - .      sin² of the place: those of all windows over a pixel sum to one

A pixel's probability is the sum over the four windows that hold it, always in the same order, each computed by itself
from the same pixels: equal bytes whatever tiles, blocks and workers. So a blended network is exact, of the stride
`step`; only it is not the network's one pass over the whole image, which would see all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.predictor import Predictor
from tilekit.tiling import Halo, Pair, round_up

WINDOW = 512
"""Side of what one window predicts, in pixels, where the network asks for no other."""


@dataclass(frozen=True, slots=True)
class Blended:
    """A predictor (tilekit.predictor) made of another, which is asked for one window at a time."""

    predictor: Predictor
    step: int
    """Half the side of a window, a multiple of the network's stride."""

    @classmethod
    def of(cls, predictor: Predictor, window: int | None = None) -> Blended:
        """With windows of about `window` pixels; None: as the network asks for, or `WINDOW`."""
        side = window or getattr(predictor, "window", None) or WINDOW
        return cls(predictor, round_up(-(-side // 2), lcm(*predictor.stride)))

    @property
    def window(self) -> int:
        """Side in pixels of what one window predicts."""
        return 2 * self.step

    @property
    def halo(self) -> Halo:
        """The windows that reach into a core begin a step before it, and end a step after it."""
        (by, bx), (ay, ax) = self.predictor.halo.before, self.predictor.halo.after
        return Halo((by + self.step, bx + self.step), (ay + self.step, ax + self.step))

    @property
    def stride(self) -> Pair:
        return self.step, self.step

    @property
    def in_channels(self) -> int:
        return self.predictor.in_channels

    @property
    def n_classes(self) -> int:
        return self.predictor.n_classes

    @property
    def class_names(self) -> Sequence[str]:
        return self.predictor.class_names

    @property
    def exact(self) -> bool:
        """Tiles of it equal one blended pass."""
        return True

    @property
    def inexact_reason(self) -> str | None:
        return None

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        return self.predictor.pixel_size

    @property
    def channel_names(self) -> Sequence[str] | None:
        return getattr(self.predictor, "channel_names", None)

    @property
    def precision(self) -> str:
        return getattr(self.predictor, "precision", "float32")

    @property
    def digest(self) -> str:
        """The network's; that it was blended is told beside."""
        return self.predictor.digest

    @property
    def multiply_adds_per_pixel(self) -> float:
        """Of the network's one pass: what windows do twice and four times counts as redundancy."""
        return self.predictor.multiply_adds_per_pixel

    def multiply_adds(self, y: int, x: int) -> float:
        n = (y // self.step + 1) * (x // self.step + 1)
        return n * self.predictor.multiply_adds(self.window, self.window)

    def activation_bytes(self, y: int, x: int) -> int:
        """A window's, beside the sum of all."""
        summed = (y + self.window) * (x + self.window)
        return self.predictor.activation_bytes(self.window, self.window) + (8 * self.n_classes + 12) * summed

    def predict(
        self, x: NDArray[Any], probabilities: bool = False
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """As of any predictor: class ids and, asked for, probabilities of the core."""
        found = np.stack([self._blend(image) for image in x])
        return self.predictor.decide(found), found if probabilities else None

    def decide(self, probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
        return self.predictor.decide(probabilities)

    def _blend(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Probabilities (k, y, x) of the core of an image (c, before + y + after, ...)."""
        halo, step, side = self.predictor.halo, self.step, self.window
        sides = [b + side + a for b, a in zip(halo.before, halo.after, strict=True)]
        ny, nx = ((n - s) // step + 1 for n, s in zip(image.shape[1:], sides, strict=True))
        total = np.zeros((self.n_classes, (ny + 1) * step, (nx + 1) * step), np.float32)
        taper = _taper(side)[:, None] * _taper(side)
        for y, x in product(range(0, ny * step, step), range(0, nx * step, step)):
            part = image[None, :, y : y + sides[0], x : x + sides[1]]
            found = self.predictor.predict(part, probabilities=True)[1]
            assert found is not None
            total[:, y : y + side, x : x + side] += found[0] * taper
        return np.ascontiguousarray(total[:, step:-step, step:-step])


def _taper(n: int) -> NDArray[np.float32]:
    """Weights over a window of n pixels; with those of the next window, half a window on, they sum to one.

    >>> (_taper(4)[:2] + _taper(4)[2:]).round(6).tolist()
    [1.0, 1.0]
    """
    return np.asarray(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2, np.float32)
