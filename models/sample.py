"""What training reads from: annotated images by boxes, whoever opens them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box


class Sample(Protocol):
    """One annotated image, or a part of one, by boxes (y, x) of the image that may reach outside it: mirrored there.

    Read from several threads at once.
    """

    @property
    def name(self) -> str: ...
    @property
    def box(self) -> Box:
        """Where the truth of this part is known: patches have their centers here."""

    @property
    def centers(self) -> Mapping[str, NDArray[np.int64]]:
        """Positions (n, 2) inside `box`, drawn once: "known" evenly among all pixels that are not void, "class:K" among
        those of a class, "weight" by their weight. Those of all samples together are one list of its name.
        """

    def read(self, box: Box) -> NDArray[Any]:
        """Raw values (c, y, x)."""

    def truth(self, box: Box) -> NDArray[np.uint8]:
        """Class ids (y, x); 255 (void) where nothing is known, and outside `self.box`."""

    def weights(self, box: Box) -> NDArray[np.float32]:
        """Weight of each pixel in the loss (y, x), 0 where the truth is void."""
