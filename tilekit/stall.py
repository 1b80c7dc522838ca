"""A worker on which nothing moves for too long ends itself, and its blocks are done elsewhere.

Dask gives a task all the time there is, and a read of a folder whose server is gone may take it: one such block would
hold its run for ever. What moves is told by `moved`: a block begins, a tile is computed, a batch is written. Any of
them, in any thread, counts for the whole process, as its threads wait for each other. The driver in turn ends a run
whose cluster has had no running worker for as long.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread

STALL_SECONDS = 1800.0
"""Without a sign of life; TILEKIT_STALL_SECONDS in the workers' environment replaces it, 0 is for ever."""
CLOCK_SECONDS = 60.0
"""By which the clock may be set back under Dask: its messages then wait no longer than that."""
STATUS = 75
"""Of a process that ended itself for this: try again."""


class _Watch:
    """Of one process: how many tasks are at work, and when something last moved."""

    def __init__(self) -> None:
        self.at_work = 0
        self.last = time.monotonic()
        self.lock = Lock()
        self.thread: Thread | None = None

    def keep_looking(self, limit: float) -> None:
        pause = min(limit / 4, 30.0)
        while True:
            before = time.monotonic()
            time.sleep(pause)
            now = time.monotonic()
            if now - before > 2 * pause + 1:  # the whole process was stopped, so nothing could move
                self.last = now
            if self.at_work and now - self.last > limit:
                said = f"tilekit: nothing moved here for {limit:g} s, so this worker ends itself; see docs/survival.md"
                print(said, file=sys.stderr, flush=True)
                os._exit(STATUS)


_watch = _Watch()


def moved() -> None:
    """Give a sign of life; costs less than a microsecond."""
    _watch.last = time.monotonic()


def limit_seconds() -> float:
    """How long nothing may move on a worker."""
    return float(os.environ.get("TILEKIT_STALL_SECONDS", STALL_SECONDS))


@contextmanager
def watched() -> Iterator[None]:
    """In here this process ends where nothing moves for too long."""
    moved()
    with _watch.lock:
        _watch.at_work += 1
        if _watch.thread is None and (limit := limit_seconds()) > 0:
            _watch.thread = Thread(target=_watch.keep_looking, args=(limit,), daemon=True)
            _watch.thread.start()
    try:
        yield
    finally:
        with _watch.lock:
            _watch.at_work -= 1


def watch_cluster(has_workers: Callable[[], bool], lost: Callable[[str], None], ended: Event) -> None:
    """Call `lost` with the reason once there has been no running worker, or no answer, for too long; returns then.

    That is so where all workers are gone, paused for want of memory, or the scheduler hangs. A clock that is set back
    ends it, too: Dask times its messages by it, and they may wait until it has caught up.
    """
    limit = limit_seconds()
    limit = limit if limit > 0 else math.inf
    pause = min(limit / 4, 30.0)
    ahead = time.time() - time.monotonic()
    last = asked = time.monotonic()
    while not ended.wait(min(pause, 1.0)):
        now = time.monotonic()
        back = ahead - (time.time() - now)
        if back > CLOCK_SECONDS:
            lost(f"the clock was set back by {back:.0f} s, for which Dask's messages may wait")
            return
        ahead = max(ahead, ahead - back)
        if now - asked < pause:
            continue
        asked = now
        if has_workers():
            last = time.monotonic()
        elif time.monotonic() - last > limit:
            lost(f"no worker of the cluster runs, or its scheduler gives no answer, for {limit:g} s")
            return
