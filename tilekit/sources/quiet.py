"""Warnings of libraries, off while a file is opened."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.RLock()
"""They are switched off for the whole process, so by one thread at a time."""


@contextmanager
def without_warnings() -> Iterator[None]:
    """No warning reaches the user meanwhile."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
