"""A scheduler that keeps nothing of the runs it had."""

from __future__ import annotations

import time

import dask
from dask.utils import key_split
from distributed import Client, LocalCluster

from tilekit.lean import dask_setup


def test_a_scheduler_runs_tasks_and_keeps_no_spans() -> None:
    here = {"processes": False, "dashboard_address": "127.0.0.1:0", "n_workers": 1, "threads_per_worker": 1}
    with LocalCluster(**here) as cluster, Client(cluster, set_as_default=False) as client:
        spans = cluster.scheduler.extensions["spans"]
        assert client.submit(abs, -1, pure=False).result() == 1
        assert len(spans.spans) == 1, "Dask keeps one itself"
        dask_setup(cluster.scheduler)
        before = len(spans.spans)
        for number in range(3):
            assert client.submit(abs, -number, pure=False).result() == number
        assert len(spans.spans) == before


def test_a_driver_that_left_leaves_nothing() -> None:
    here = {"processes": False, "dashboard_address": "127.0.0.1:0", "n_workers": 1, "threads_per_worker": 1}
    with dask.config.set({"distributed.scheduler.events-cleanup-delay": "100ms"}), LocalCluster(**here) as cluster:
        dask_setup(cluster.scheduler)
        topics = cluster.scheduler._broker._topics
        with Client(cluster, set_as_default=False) as client:
            assert client.submit(abs, -1, pure=False).result() == 1
            assert client.id in topics
            assert key_split.cache_info().currsize > 0
        end = time.monotonic() + 20
        while client.id in topics and time.monotonic() < end:
            time.sleep(0.05)
        assert client.id not in topics
        assert key_split.cache_info().currsize == 0
