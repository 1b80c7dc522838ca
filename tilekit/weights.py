"""The weight map of the U-Net paper: how much each pixel counts in the loss, so that touching objects are told apart.

    w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2))

    1 1 1 . . . . . 2 2        w_c: weight of the pixel's class, background or object
        |<-d1->|               d1, d2: distances of a background pixel to the nearest and the second nearest object,
               |<--d2->|               from its center to the center of the object's nearest pixel

Ronneberger, Fischer and Brox 2015, equation 2. Inside objects the second term is 0, as it is where fewer than two are
near. First the ridge: pixels of an object beside another one become background, so that objects that touch are apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.errors import InputError

Array = NDArray[Any]
W0, SIGMA = 10.0, 5.0
"""The paper's."""
TOLERANCE = 1e-6
"""What the border term may lack: no more than float32 rounds off a weight of 10."""
MAX_REACH = 1 << 11
"""Pixels up to which squared distances are whole numbers of float32."""


def reach(sigma: float = SIGMA, w0: float = W0, tolerance: float = TOLERANCE) -> int:
    """Pixels around a place that its border term depends on.

    The term is left out where d1 + d2 > cut, and there at most w0 exp(-cut^2 / (2 sigma^2)) = tolerance. d1 is at least
    1, so no object further than cut - 1 counts.

    >>> reach(sigma=5, w0=10)
    27
    """
    return max(int(_cut(w0, sigma, tolerance)) - 1, 0)


def _cut(w0: float, sigma: float, tolerance: float) -> float:
    """The largest d1 + d2 at which the border term counts; 0 where it never does."""
    return sigma * math.sqrt(2 * math.log(w0 / tolerance)) if w0 > tolerance else 0.0


def ridge(ids: Array) -> Array:
    """Ids (y, x) in which pixels with another id, not 0, among their 8 neighbors are background.

    Both sides of a border give way, so that no order matters. True of a pixel that lies 1 further inside than the
    array's edge, or at the image's.
    """
    from tilekit.compiled_weights import ridge_pixels

    out = np.empty(ids.shape, as_ids(ids).dtype)
    ridge_pixels(np.pad(as_ids(ids), 1), out)
    return out


def border_weights(
    ids: Array, w0: float = W0, sigma: float = SIGMA, *, tolerance: float = TOLERANCE
) -> NDArray[np.float32]:
    """The border term (y, x) around objects that are apart, 0 inside them and where fewer than two are near.

    That of the whole image to the tolerance, wherever `reach` pixels around are in the array or outside the image.
    """
    return weigh(ids, Box.whole(ids.shape), (0.0, 0.0), w0=w0, sigma=sigma, tolerance=tolerance)


def weigh(
    ids: Array,
    box: Box,
    levels: Sequence[float],
    *,
    w0: float = W0,
    sigma: float = SIGMA,
    tolerance: float = TOLERANCE,
) -> NDArray[np.float32]:
    """The weights of a box of the array: `levels` of background and object, and the border term."""
    from tilekit.compiled_weights import weigh_pixels

    check_border(w0, sigma, tolerance)
    ids, cut = as_ids(ids), _cut(w0, sigma, tolerance)
    background, inside = (float(level) for level in levels)
    if cut < 2 or not ids.max(initial=0):  # no two distances are less
        return np.where(ids[box.slices] == 0, np.float32(background), np.float32(inside))
    out = np.empty(box.shape, np.float32)
    weigh_pixels(ids, (box.start[0], box.start[1]), cut, float(w0), float(sigma), (background, inside), out)
    return out


def class_weights(counts: Sequence[int]) -> tuple[float, ...]:
    """N / (K N_k) for pixel counts N_k of K classes, N in all: balanced, and 1 where all are equally frequent.

    0 for a class that has no pixel.

    >>> class_weights([30, 10])
    (0.6666666666666666, 2.0)
    """
    n = sum(counts)
    return tuple(n / (len(counts) * count) if count else 0.0 for count in counts)


def check_border(w0: float, sigma: float, tolerance: float = TOLERANCE) -> None:
    """Refuse what gives no border term, or one that reaches too far."""
    if not (0 <= w0 < math.inf):
        raise InputError(f"w0 {w0:g}: must be 0 or more; 10 is the U-Net paper's")
    if not (0 < sigma < math.inf):
        raise InputError(f"sigma {sigma:g}: must be above 0 pixels; 5 is the U-Net paper's")
    if (pixels := reach(sigma, w0, tolerance)) > MAX_REACH:
        raise InputError(f"sigma {sigma:g} looks {pixels} pixels far, at most {MAX_REACH} can be; choose a smaller one")


def as_ids(pixels: Array) -> Array:
    """Ids as uint32, or uint64 where they are wider; refuses floats and numbers below 0."""
    if pixels.dtype.kind not in "uib":
        raise InputError(f"object ids of type {pixels.dtype}, must be integers; convert them")
    if pixels.dtype.kind == "i" and pixels.size and (lowest := pixels.min()) < 0:
        raise InputError(f"object id {lowest} is below 0; map it to another")
    wide = np.uint64 if pixels.dtype.itemsize > 4 else np.uint32
    return np.ascontiguousarray(pixels, wide)
