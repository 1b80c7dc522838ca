"""The Cell Tracking Challenge's SEG measure as its document words it, object by object."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def brute_force_seg(prediction: NDArray[Any], truth: NDArray[Any]) -> float:
    """Mean over the truth's objects of the Jaccard index with the one predicted object that covers more than half."""
    found = []
    for reference in np.unique(truth[truth > 0]):
        here = truth == reference
        jaccard = 0.0
        for segment in np.unique(prediction[here & (prediction > 0)]):
            there = prediction == segment
            if (here & there).sum() > 0.5 * here.sum():
                jaccard = (here & there).sum() / (here | there).sum()
        found.append(jaccard)
    return float(np.mean(found)) if found else float("nan")
