"""A try at a block, and what became of it; the same in a plain loop and on a worker."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tilekit.errors import InputError, RunError
from tilekit.stall import moved

Task = Callable[[int, Any], Any]
RETRIES = 2
PAUSES = (0.1, 1.0)
"""Seconds before a second and a third try, where a disk or a server failed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one task."""

    index: int
    receipt: Any = None
    error: BaseException | None = None
    """Why it failed for good; None where it did not."""
    seconds: float = 0.0
    """What the last try took, on its worker."""
    worker: str = ""
    """Name of the worker; empty in this process, and where workers died on it."""
    retried: tuple[str, ...] = ()
    """Why earlier tries failed."""


def attempt(task: Task, config: Any, index: int) -> Outcome:
    """Try a block, and again where that may help."""
    retried: list[str] = []
    while True:
        moved()
        started = time.perf_counter()
        try:
            receipt, error = task(index, config), None
        except Exception as raised:  # every failure of a block is reported, none stops the others
            receipt, error = None, raised
        seconds = time.perf_counter() - started
        if error is None or len(retried) == RETRIES or not is_worth_retrying(error):
            return Outcome(index, receipt, error, seconds, retried=tuple(retried))
        if isinstance(error, OSError):
            time.sleep(PAUSES[len(retried)])
        retried.append(f"{type(error).__name__}: {error}")


def is_worth_retrying(error: BaseException) -> bool:
    """False for what a second try cannot mend."""
    return not isinstance(error, (InputError, MemoryError)) and not concerns_all(error)


def concerns_all(error: BaseException) -> bool:
    """True for what would stop every other block too: a mistake of the program, a lost scheduler, a full disk."""
    if isinstance(error, OSError):
        return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, (TypeError, RunError))
