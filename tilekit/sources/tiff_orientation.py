"""The Orientation tag: which corner of the picture the first stored pixel is, as box arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

T = TypeVar("T")

GEO_TAGS = (33550, 33922, 34264, 34735)
"""Tags that place the stored rows and columns on the ground; as in GDAL, such files are read as they are stored."""


@dataclass(frozen=True)
class Orientation:
    """Turns the stored rows and columns into those that are shown: transposed first, then flipped."""

    transposed: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    def shown(self, pair: tuple[T, T]) -> tuple[T, T]:
        """Two numbers that belong to stored rows and columns, for those that are shown, or the other way round."""
        return (pair[1], pair[0]) if self.transposed else pair

    def stored_box(self, rows: slice, columns: slice, stored: tuple[int, int]) -> tuple[slice, slice]:
        """Stored rows and columns of a shown box, in an image of these stored rows and columns."""
        height, width = self.shown(stored)
        y = slice(height - rows.stop, height - rows.start) if self.flips_rows else rows
        x = slice(width - columns.stop, width - columns.start) if self.flips_columns else columns
        return self.shown((y, x))

    def as_stored(self, planes: NDArray[Any]) -> NDArray[Any]:
        """A view of shown planes (n, y, x) in which they are filled as they are stored."""
        step = {False: 1, True: -1}
        flipped = planes[:, :: step[self.flips_rows], :: step[self.flips_columns]]
        return flipped.swapaxes(1, 2) if self.transposed else flipped


ORIENTATIONS = {
    1: Orientation(),
    2: Orientation(flips_columns=True),
    3: Orientation(flips_rows=True, flips_columns=True),
    4: Orientation(flips_rows=True),
    5: Orientation(transposed=True),
    6: Orientation(transposed=True, flips_columns=True),
    7: Orientation(transposed=True, flips_rows=True, flips_columns=True),
    8: Orientation(transposed=True, flips_rows=True),
}


def has_geo_tags(page: Any) -> bool:
    """Whether the page says where it lies on the ground."""
    return any(tag in page.tags for tag in GEO_TAGS)


def orientation_of(page: Any) -> Orientation:
    """How a page is shown; as stored where the tag is missing or makes no sense, or geo tags are there."""
    if has_geo_tags(page):
        return ORIENTATIONS[1]
    tag = page.tags.valueof("Orientation")
    return ORIENTATIONS.get(tag if isinstance(tag, int) else 1, ORIENTATIONS[1])
