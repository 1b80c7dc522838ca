"""Decision thresholds: a weighted loss shifts the probabilities, so what decides is tuned on validation images.

A class is that of the largest p / t. Of two classes t is (1 - t, t): the second holds above t. Of more, one factor per
class is moved at a time, from all equal, while the score grows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

STEPS = tuple(round(0.05 * n, 2) for n in range(1, 20))
FACTORS = (0.5, 0.7, 1.4, 2.0)
Thresholds = tuple[float, ...]


def decide(probabilities: NDArray[np.float32], thresholds: Thresholds) -> NDArray[np.uint8]:
    """Classes (y, x) of probabilities (k, y, x); ties go to the lower class.

    >>> decide(np.float32([[[0.6]], [[0.4]]]), (0.7, 0.3)).tolist()
    [[1]]
    """
    scaled = probabilities / np.asarray(thresholds, np.float32).reshape(-1, 1, 1)
    best: NDArray[np.uint8] = scaled.argmax(0).astype(np.uint8)
    return best


def tune(score: Callable[[Thresholds], float], n_classes: int) -> tuple[Thresholds, float]:
    """The thresholds of the highest score, and the score; of equal ones the nearest to no preference."""
    if n_classes == 2:
        scores = {t: score((round(1 - t, 2), t)) for t in STEPS}
        best = max(scores, key=lambda t: (scores[t] if scores[t] == scores[t] else -np.inf, -abs(t - 0.5)))
        return (round(1 - best, 2), best), scores[best]
    return _climb(score, tuple([0.5] * n_classes))


def _climb(score: Callable[[Thresholds], float], start: Thresholds) -> tuple[Thresholds, float]:
    best, highest = start, score(start)
    for k in range(len(start)):
        for factor in FACTORS:
            changed = min(start[k] * factor, 0.95)
            candidate = (*best[:k], changed, *best[k + 1 :])
            found = score(candidate)
            if found > highest:
                best, highest = candidate, found
    return best, highest
