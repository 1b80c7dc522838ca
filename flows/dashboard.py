"""The address of Dask's dashboard: a line on the terminal or in the flow run's log, and a link artifact."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tilekit.dashboard import DASHBOARD

Told = Callable[[str, str | None], None]
"""Called with the line, and the link where there is one."""


@contextmanager
def told_dashboard(tell: Told) -> Iterator[None]:
    """Tell of the cluster that this thread starts while the context lasts."""
    handler = _Handler(tell)
    level = DASHBOARD.level
    DASHBOARD.addHandler(handler)
    DASHBOARD.setLevel(logging.INFO)
    try:
        yield
    finally:
        DASHBOARD.removeHandler(handler)
        DASHBOARD.setLevel(level)


class _Handler(logging.Handler):
    def __init__(self, tell: Told) -> None:
        super().__init__()
        self._tell, self._thread = tell, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._tell(record.getMessage(), getattr(record, "link", None))
