"""Where on a planet an image lies: its CRS as text, and the affine transform or control points of its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f) in rasterio's order: x = a·column + b·row + c, y = d·column + e·row + f, at pixel corners."""


@dataclass(frozen=True, slots=True)
class ControlPoint:
    """A place whose position both in the image and on the ground is known."""

    row: float
    column: float
    x: float
    y: float
    z: float = 0.0


@dataclass(frozen=True, slots=True)
class Georeference:
    """Position of an image on the ground.

    >>> Georeference("EPSG:32633", (10.0, 0.0, 500000.0, 0.0, -10.0, 6000000.0)).at_scale((2.0, 2.0)).transform
    (20.0, 0.0, 500000.0, 0.0, -20.0, 6000000.0)
    """

    crs: str | None
    """WKT; None where the file gives a transform without saying in which CRS."""
    transform: Affine | None = None
    """Of pixel corners at this level; None where only control points, or nothing, is known."""
    gcps: tuple[ControlPoint, ...] = ()
    """Ground control points, in pixels of this level."""

    @property
    def is_rectilinear(self) -> bool:
        """True where rows and columns run along the axes of the CRS, so that 1-D coordinates can say it."""
        return self.transform is not None and self.transform[1] == 0 and self.transform[3] == 0

    def at_scale(self, scale: Sequence[float]) -> Georeference:
        """Of a level of which one pixel covers (y, x) = `scale` pixels of this one, corners in common."""
        sy, sx = scale
        t = self.transform
        moved = None if t is None else (t[0] * sx, t[1] * sy, t[2], t[3] * sx, t[4] * sy, t[5])
        points = tuple(ControlPoint(p.row / sy, p.column / sx, p.x, p.y, p.z) for p in self.gcps)
        return Georeference(self.crs, moved, points)
