"""What a scheduler that lives for weeks loads first (deploy/dask.yaml): without it Dask's keeps 20 KiB of every run.

Spans, by which a dashboard could tell computations apart, are kept until the scheduler ends, and nothing switches them
off: they are told nothing. Of each driver that left a topic stays, empty, and the names of its tasks are in a cache of
10^5: both go once its events do.
"""

from __future__ import annotations

from typing import Any

from dask.utils import key_split


def dask_setup(scheduler: Any) -> None:
    """Called by `distributed.scheduler.preload` before the first task."""
    spans = scheduler.extensions.get("spans")
    if spans is not None:
        spans.observe_tasks = lambda *_, **__: {}
        spans.heartbeat = lambda *_: None
    if broker := getattr(scheduler, "_broker", None):
        empty = broker.truncate

        def forget(topic: str | None = None) -> None:
            """In place of emptying a topic; called once a driver has left."""
            empty(topic)
            if topic is not None:
                broker._topics.pop(topic, None)
            key_split.cache_clear()

        broker.truncate = forget
