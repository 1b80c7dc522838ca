"""Lengths in micrometers."""

from __future__ import annotations

from math import isfinite
from typing import Any

METERS = {
    "m": 1.0, "meter": 1.0, "metre": 1.0, "km": 1e3, "kilometer": 1e3, "dm": 1e-1, "decimeter": 1e-1,
    "cm": 1e-2, "centimeter": 1e-2, "mm": 1e-3, "millimeter": 1e-3, "µm": 1e-6, "μm": 1e-6, "um": 1e-6,
    "\\u00b5m": 1e-6, "micron": 1e-6, "microns": 1e-6, "micrometer": 1e-6, "micrometre": 1e-6, "nm": 1e-9,
    "nanometer": 1e-9, "pm": 1e-12, "picometer": 1e-12, "å": 1e-10, "angstrom": 1e-10, "in": 0.0254, "inch": 0.0254,
    "inches": 0.0254, "ft": 0.3048, "foot": 0.3048, "yd": 0.9144, "yard": 0.9144, "mile": 1609.344,
}  # fmt: skip
"""Units as OME-XML, OME-NGFF and ImageJ spell them, in lower case."""


def micrometers(value: Any, unit: str | None) -> float | None:
    """A positive length in micrometers; None where the number or the unit says nothing.

    >>> micrometers("250", "nm")
    0.25
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    meters = METERS.get((unit or "").strip().lower())
    if meters is None or not (isfinite(number) and number > 0):
        return None
    return number * (meters * 1e6)
