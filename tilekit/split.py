"""Splitting objects that touch: a watershed on the distance to the object's border, from the tops of its hills.

The field's usual recipe (distance transform, h-maxima, seeded watershed). An object is split by itself: what lies
beside it changes nothing, so that whoever sees it whole splits it alike.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from tilekit.components import find_runs, paint, places
from tilekit.errors import InputError

Array = NDArray[Any]
PROMINENCE = 1.0
"""Pixels by which a hill of the distance must rise above the saddle to its neighbor to be an object of its own."""


def check_can_split() -> None:
    """Refuse where the library that splits is missing."""
    if find_spec("skimage") is None:
        raise InputError("--split takes scikit-image; install it with pip install 'tilekit[split]'")


def split_objects(
    classes: Array, connectivity: int, void: int, largest: int, origin: tuple[int, int] = (0, 0)
) -> Array:
    """Pieces of the objects in a window of classes (y, x), int64 (y, x), from 1; 0 where nothing is split.

    Split are objects of up to `largest` pixels in height and in width, which the caller's margin shows whole.
    `origin` is the window's place in the image.
    """
    runs = find_runs(classes, connectivity, void)
    extent = places(runs, 0, 0)
    height, width = extent[:, 4] - extent[:, 3] + 1, extent[:, 6] - extent[:, 5] + 1
    kept = (height <= largest) & (width <= largest)
    objects = np.zeros(classes.shape, np.int32)
    paint(runs, np.concatenate([[0], np.where(kept, np.arange(1, len(kept) + 1), 0)]).astype(np.int32), objects)
    return _watershed(objects, classes, 1 if connectivity == 4 else 2, _order(classes.shape, largest, origin))


def _order(shape: tuple[int, ...], largest: int, origin: tuple[int, int]) -> Array:
    """Less than half of what two distances differ by, another for each pixel of an object: no two are flooded at once.

    A window's own order of equal distances would depend on what else it shows.
    """
    side = 2 * largest
    y, x = (np.arange(n) + at for n, at in zip(shape, origin, strict=True))
    order: Array = (y % side)[:, None] * side + (x % side)
    return order * (1 / (4 * largest)) / side**2


def _watershed(objects: Array, classes: Array, connectivity: int, order: Array) -> Array:
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    pieces = np.zeros(objects.shape, np.int64)
    for kind in np.unique(classes[objects > 0]):
        mask = (objects > 0) & (classes == kind)
        distance = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        seeds, n = label(h_maxima(distance, PROMINENCE), structure=np.ones((3, 3)))
        parts = watershed(order - distance, seeds, mask=mask, connectivity=connectivity)
        parts = np.where(parts > 0, parts, objects + n)  # an object without a hill stays one
        pieces[mask] = parts[mask] + pieces.max()
    return pieces
