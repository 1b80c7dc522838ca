"""What tifffile logs while a file is opened, kept from the user's terminal and given to the door."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_heard = threading.local()


class _Keep(logging.Filter):
    """Holds back the lines of a thread that listens; those of all others pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        lines = getattr(_heard, "lines", None)
        if lines is None:
            return True
        if record.levelno >= logging.WARNING:
            lines.append(re.sub(r"^<tifffile\.[^>]*> ?", "", record.getMessage().split("\n")[0]))
        return False


@contextmanager
def listening() -> Iterator[list[str]]:
    """Warnings and errors that tifffile logs meanwhile in this thread, one line each."""
    logger = logging.getLogger("tifffile")
    if not any(isinstance(f, _Keep) for f in logger.filters):
        logger.addFilter(_Keep())
    before = getattr(_heard, "lines", None)
    _heard.lines = []
    try:
        yield _heard.lines
    finally:
        _heard.lines = before
