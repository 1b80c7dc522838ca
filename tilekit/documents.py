"""JSON from outside: whatever is none is a ValueError, however it is none."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """A JSON document. ValueError for what is none, or is nested deeper than Python's stack.

    >>> parse_json('{"a": [1]}')
    {'a': [1]}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
