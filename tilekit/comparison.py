"""Two predictions of the same images: paired differences of their scores, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

N_RESAMPLES = 10_000
SEED = 0
LEVEL = 0.95


def paired_differences(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each score that is one number: mean of first - second over the images that have both, and its interval.

    The interval is the percentile bootstrap over images, seeded, NaN for fewer than two. `first` and `second` hold the
    scores of the same images in the same order.
    """
    names = [k for k, v in first[0].items() if isinstance(v, float)] if first else []
    return {name: _difference([a[name] - b[name] for a, b in zip(first, second, strict=True)]) for name in names}


def _difference(differences: Sequence[float]) -> dict[str, Any]:
    known = np.array([d for d in differences if d == d])
    if not known.size:
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "images": 0}
    low, high = bootstrap_interval(known)
    return {"mean": float(known.mean()), "low": low, "high": high, "images": len(known)}


def bootstrap_interval(values: np.ndarray, seed: int = SEED) -> tuple[float, float]:
    """The middle 95% of the means of N_RESAMPLES draws with replacement; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    step = max(1, 1_000_000 // len(values))
    means = [
        values[generator.integers(0, len(values), (min(step, N_RESAMPLES - i), len(values)))].mean(1)
        for i in range(0, N_RESAMPLES, step)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
