"""Where patches may have their centers: positions drawn once, by class and by weight, from all of the training part.

Each block of a sample gives a bounded draw of each of its strata (the pixels of a class, the pixels between objects)
and the stratum's total. From these come lists in which every pixel of the training part is as likely as it should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box

Places = NDArray[np.int64]
OF_BLOCK = 4096
"""Most positions that a stratum of a block gives."""
OF_ALL = 1 << 16
"""Most positions of a list."""
BORDER = -1
"""The stratum of the border term."""


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """Positions of one stratum of a block."""

    sample: int
    stratum: int
    """A class, or BORDER."""
    total: float
    """Pixels of the class, or the sum of their border terms."""
    places: Places
    """(n, 2): y, x; each pixel of the class is equally likely, or in proportion to its border term."""


def draw_class(classes: NDArray[np.uint8], k: int, box: Box, sample: int, generator: np.random.Generator) -> Draw:
    """A draw without repetition from the pixels of class k in a block of classes."""
    found = np.flatnonzero(classes == k)
    taken = found if len(found) <= OF_BLOCK else generator.choice(found, OF_BLOCK, replace=False)
    return Draw(sample, k, float(len(found)), _places(taken, box))


def draw_border(border: NDArray[np.float32], box: Box, sample: int, generator: np.random.Generator) -> Draw | None:
    """A draw with repetition, by the border term; None where it is 0 everywhere."""
    found = np.flatnonzero(border)
    if not found.size:
        return None
    sums = np.cumsum(border.ravel()[found], dtype=np.float64)
    at = np.searchsorted(sums, generator.random(OF_BLOCK) * sums[-1], side="right")
    return Draw(sample, BORDER, float(sums[-1]), _places(found[np.minimum(at, len(found) - 1)], box))


def _places(flat: NDArray[np.int64], box: Box) -> Places:
    return np.stack(np.unravel_index(flat, box.shape), axis=1).astype(np.int64) + box.start


def lists_of(
    draws: Sequence[Draw], n_samples: int, of_classes: Sequence[float], n_classes: int, seed: int
) -> list[dict[str, Places]]:
    """The lists of each sample: "class:K", "weight", and "known", evenly among all pixels that are not void.

    Lists of a name belong together: one of all samples' positions, drawn evenly, is drawn as the name says.
    """
    weights: dict[str, Mapping[int, float]] = {f"class:{k}": {k: 1.0} for k in range(n_classes)}
    weights["known"] = dict.fromkeys(range(n_classes), 1.0)
    weights["weight"] = {BORDER: 1.0, **{k: of_classes[k] if of_classes else 1.0 for k in range(n_classes)}}
    lists: list[dict[str, Places]] = [{} for _ in range(n_samples)]
    for number, (name, by_stratum) in enumerate(weights.items()):
        generator = np.random.default_rng([seed, number])
        chosen = _choose(draws, [d.total * by_stratum.get(d.stratum, 0.0) for d in draws], generator)
        for i in range(n_samples):
            own = [places for d, places in zip(draws, chosen, strict=True) if d.sample == i]
            lists[i][name] = np.concatenate([np.empty((0, 2), np.int64), *own])
    return lists


def _choose(draws: Sequence[Draw], totals: Sequence[float], generator: np.random.Generator) -> list[Places]:
    """Of each draw as many positions as its total's share of OF_ALL, or of what is there where that is less."""
    sums = np.array(totals, np.float64)
    if not sums.sum():
        return [np.empty((0, 2), np.int64) for _ in draws]
    available = sum(len(d.places) for d, total in zip(draws, totals, strict=True) if total)
    n = min(OF_ALL, max(available, OF_BLOCK))
    ends = np.round(np.cumsum(sums) / sums.sum() * n).astype(np.int64)
    counts = np.diff(ends, prepend=0)
    return [_resized(d.places, int(m), generator) for d, m in zip(draws, counts, strict=True)]


def _resized(places: Places, n: int, generator: np.random.Generator) -> Places:
    """n of these: each equally often but for the rest, which is drawn."""
    whole, rest = divmod(n, len(places))
    return np.concatenate([np.tile(places, (whole, 1)), generator.permutation(places)[:rest]])
