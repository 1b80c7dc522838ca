"""What a training run does with its time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

STATE_SECONDS = 120.0
"""Longest time between two stored states."""


class Clock:
    """Seconds of training and of waiting for patches since the last pause, and since the last stored state."""

    def __init__(self) -> None:
        self.last_stored = time.monotonic()
        self._restart()

    def _restart(self) -> None:
        self._started, self._waited, self._updates = time.monotonic(), 0.0, 0
        self._stopped: float | None = None

    def waiting(self, source: Iterator[T]) -> Iterator[T]:
        """The same, counting the time until each arrives."""
        while True:
            asked = time.monotonic()
            try:
                item = next(source)
            except StopIteration:
                return
            self._waited += time.monotonic() - asked
            self._updates += 1
            yield item

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For what is no training."""
        self._stopped = time.monotonic()
        yield
        self._restart()

    def is_time_to_store(self) -> bool:
        """True once in a while."""
        return time.monotonic() - self.last_stored > STATE_SECONDS

    def rates(self, patches: int) -> dict[str, float]:
        """Patches per second, of `patches` to an update, and the share of the time spent waiting for them."""
        seconds = max((self._stopped or time.monotonic()) - self._started, 1e-9)
        return {
            "patches_per_second": round(self._updates * patches / seconds, 3),
            "waiting": round(self._waited / seconds, 4),
        }
