"""What tifffile and rasterio log while a file is opened, kept from the user's terminal and given to the door."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_heard = threading.local()
MOST_LINES = 50_000
"""About a second of complaints; a file of 40 kB can have more than a million."""


class TooManyComplaints(BaseException):
    """Not an Exception, since tifffile logs those and goes on."""


class _Keep(logging.Filter):
    """Holds back the lines of a thread that listens; those of all others pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        lines = getattr(_heard, "lines", None)
        if lines is None:
            return True
        if record.levelno >= _heard.level:
            if len(lines) == MOST_LINES:
                raise TooManyComplaints(lines[-1])
            lines.append(re.sub(r"^<tifffile\.[^>]*> ?", "", record.getMessage().split("\n")[0]))
        return False


@contextmanager
def listening(loggers: Sequence[str] = ("tifffile",), level: int = logging.WARNING) -> Iterator[list[str]]:
    """What these loggers say meanwhile in this thread, from this level on, one line each."""
    for logger in map(logging.getLogger, loggers):
        if not any(isinstance(f, _Keep) for f in logger.filters):
            logger.addFilter(_Keep())
    before = getattr(_heard, "lines", None), getattr(_heard, "level", level)
    _heard.lines, _heard.level = [], level
    try:
        yield _heard.lines
    finally:
        _heard.lines, _heard.level = before
