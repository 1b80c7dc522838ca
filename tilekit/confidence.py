"""How sure a network is: the highest of its probabilities, and their entropy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHANNELS = ("highest probability", "entropy")


def confidence(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of k probabilities (k, y, x) both figures (2, y, x), 0 to 1: entropy is over log k, of shares that sum to one.

    >>> confidence(np.array([0.5, 0.5, 1.0, 0.0], np.float32).reshape(2, 2, 1).swapaxes(0, 1)).squeeze().tolist()
    [[0.5, 1.0], [1.0, 0.0]]
    """
    total = probabilities.sum(0)
    shares = probabilities / np.where(total > 0, total, 1)
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    entropy = (0 - (shares * logs).sum(0)) / np.float32(np.log(len(probabilities)))
    return np.stack([probabilities.max(0), np.clip(entropy, 0, 1)])
