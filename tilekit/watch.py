"""DOOR prometheus_client: being watched. What becomes of each block, as lines of JSON and as metrics over HTTP.

    TILEKIT_LOG=FILE               a line per event, appended
    TILEKIT_METRICS=[HOST:]PORT    http://HOST:PORT/metrics in the driver, while its process lives; HOST is 127.0.0.1

Both are off unless the environment asks, and are handlers of one logger, `tilekit.events`, which a program may listen
to in other ways: the message is the event, `facts` of the record is what is known of it. docs/watching.md lists them.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from tilekit.errors import InputError

EVENTS = logging.getLogger("tilekit.events")
SECONDS = (0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
"""Bounds of the histogram of seconds per block."""


def note(event: str, **facts: Any) -> None:
    """Tell those who watch, if any."""
    if EVENTS.isEnabledFor(logging.INFO):
        EVENTS.info(event, extra={"facts": facts})


def watch() -> None:
    """Start what the environment asks for, once per process."""
    if path := os.environ.get("TILEKIT_LOG"):
        _start_log(path)
    if address := os.environ.get("TILEKIT_METRICS"):
        _start_metrics(address)


@lru_cache
def _start_log(path: str) -> None:
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise InputError(f"TILEKIT_LOG {path}: cannot be written ({error.strerror}); name another file") from None
    handler.setFormatter(JsonLines())
    _listen(handler)


@lru_cache
def _start_metrics(address: str) -> None:
    """Serve metrics; where another run of this machine has the port, this one says so and is not watched."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise InputError(f"TILEKIT_METRICS {address}: is no port; write it like 9100, or 0.0.0.0:9100")
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise InputError("TILEKIT_METRICS: needs prometheus_client; pip install 'tilekit[metrics]'") from None
    registry = CollectorRegistry()
    try:
        start_http_server(int(port), host or "127.0.0.1", registry)
    except OSError as error:
        logging.getLogger("tilekit").warning("TILEKIT_METRICS %s: %s; this run has none", address, error.strerror)
        return
    _listen(Metrics(registry))


def _listen(handler: logging.Handler) -> None:
    EVENTS.addHandler(handler)
    EVENTS.setLevel(logging.INFO)
    EVENTS.propagate = False  # to a terminal, where it would be noise


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        flow = {"flow_run": os.environ.get("PREFECT__FLOW_RUN_ID")}
        facts = {**getattr(record, "facts", {}), **flow}
        known = {name: value for name, value in facts.items() if value not in (None, "")}
        return json.dumps({"time": time, "event": record.getMessage(), **known}, default=str)


class Metrics(logging.Handler):
    """Counts events, by stage."""

    def __init__(self, registry: Any) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        super().__init__()
        by = {"labelnames": ["stage"], "registry": registry}
        self.planned = Gauge("tilekit_planned_blocks", "Blocks of the stage that was begun last.", **by)
        self.before = Gauge("tilekit_done_before_blocks", "Those of them that an earlier run had done.", **by)
        self.blocks = Counter("tilekit_blocks", "Blocks done.", **by)
        self.redone = Counter("tilekit_redone_blocks", "Those of them that had been begun before.", **by)
        self.failed = Counter("tilekit_failed_blocks", "Blocks that failed for good.", **by)
        self.retries = Counter("tilekit_retries", "Tries of a block that failed and were repeated.", **by)
        self.pixels = Counter("tilekit_pixels", "Pixels done, of the plane (y, x) of a block.", **by)
        self.bytes = Counter("tilekit_written_bytes", "Bytes of the shards and files that blocks wrote.", **by)
        self.block = Histogram("tilekit_block_seconds", "Seconds of a block on its worker.", buckets=SECONDS, **by)
        self.stage = Counter("tilekit_stage_seconds", "Seconds of stages from beginning to end.", **by)

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, Any] = getattr(record, "facts", {})
        stage, event = facts["stage"], record.getMessage()
        if event == "begun":
            self.planned.labels(stage).set(facts["blocks"])
            self.before.labels(stage).set(facts["done_before"])
        elif event == "done":
            self.blocks.labels(stage).inc()
            self.redone.labels(stage).inc(facts["redone"])
            self.pixels.labels(stage).inc(facts["pixels"] or 0)
            self.bytes.labels(stage).inc(facts["bytes"])
            self.block.labels(stage).observe(facts["seconds"])
        elif event == "retried":
            self.retries.labels(stage).inc()
        elif event == "failed":
            self.failed.labels(stage).inc()
        elif event == "ended":
            self.stage.labels(stage).inc(facts["seconds"])
