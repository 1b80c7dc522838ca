"""Sizes, pairs and boxes from text."""

from __future__ import annotations

import re

from tilekit.box import Box
from tilekit.errors import InputError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str | None) -> int | None:
    """Bytes from a size with a unit.

    >>> parse_bytes("4GB"), parse_bytes("512MiB")
    (4000000000, 536870912)
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([kmgt]?i?)b?\s*", text.lower())
    if not found or found[2] not in UNITS:
        raise InputError(f"--memory {text}: is no size; write it like 4GB or 512MiB")
    return int(float(found[1]) * UNITS[found[2]])


def parse_pair(text: str | None) -> tuple[float, float] | None:
    """Two numbers.

    >>> parse_pair("0.6, 2.5")
    (0.6, 2.5)
    """
    if text is None:
        return None
    try:
        background, inside = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--class-weights {text}: are two numbers, background's and object's, like 0.6,2.5") from None
    return background, inside


def parse_box(text: str | None) -> Box | None:
    """A box from its ranges.

    >>> parse_box("0:512,100:400").shape
    (512, 300)
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d{1,18}):(\d{1,18}),(\d{1,18}):(\d{1,18})\s*", text)
    if not found or int(found[1]) >= int(found[2]) or int(found[3]) >= int(found[4]):
        raise InputError(f"--box {text}: is no box; write it like y0:y1,x0:x1 with the smaller number first")
    y0, y1, x0, x1 = map(int, found.groups())
    return Box((y0, x0), (y1, x1))
