"""What those who watch are told of a run: metrics over HTTP while it runs, and a line of JSON per event."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.harness import BLOCK, N_BLOCKS, SIDE, TILE, TILEKIT, environment, make_image, make_model
from tilekit.engine import Receipt, Stage, execute
from tilekit.errors import InputError, RunError
from tilekit.run import SerialRunner
from tilekit.tiling import BlockGrid
from tilekit.watch import EVENTS, JsonLines, Metrics, watch

Samples = dict[tuple[str, str], float]
GRID = BlockGrid((), (10, 25), 10)
"""Three blocks: 100, 100 and 50 pixels."""


class Heard(logging.Handler):
    """Events as they would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(JsonLines().format(record)))


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler = Heard()
    yield from listening(handler)


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    made = CollectorRegistry()
    for _ in listening(Metrics(made)):
        yield made


def listening(handler: Any) -> Iterator[Any]:
    EVENTS.addHandler(handler)
    EVENTS.setLevel(logging.INFO)
    yield handler
    EVENTS.removeHandler(handler)
    EVENTS.setLevel(logging.NOTSET)


def task(index: int, config: dict[str, Any]) -> Receipt:
    """Block 1 fails once, block 2 as often as it is asked to."""
    config["tries"][index] += 1
    if config["tries"][index] <= config["failures"].get(index, 0):
        raise RuntimeError(f"no luck with block {index}")
    return Receipt([[f"shard-{index}", 1000 + index, "digest"], ["empty", -1, ""]], {}, index == 0)


def run(folder: Path, failures: dict[int, int]) -> None:
    config = {"tries": Counter(), "failures": failures}
    stage = Stage("predict", folder, task, config, len(GRID), {}, lambda total, part: total, grid=GRID)
    execute(stage, SerialRunner())


def test_each_block_is_told_with_its_figures(tmp_path: Path, heard: Heard) -> None:
    run(tmp_path, {1: 1})
    assert [(line["event"], line.get("block")) for line in heard.lines] == [
        ("begun", None),
        *[("started", 0), ("done", 0)],
        *[("started", 1), ("retried", 1), ("done", 1)],
        *[("started", 2), ("done", 2)],
        ("ended", None),
    ]
    assert {(line["stage"], line["output"]) for line in heard.lines} == {("predict", str(tmp_path))}
    assert len({line["run"] for line in heard.lines}) == 1
    done = [line for line in heard.lines if line["event"] == "done"]
    assert [(line["pixels"], line["bytes"], line["redone"]) for line in done] == [
        (100, 1000, True),
        (100, 1001, False),
        (50, 1002, False),
    ]
    assert [line["reason"] for line in heard.lines if line["event"] == "retried"] == [
        "RuntimeError: no luck with block 1"
    ]


def test_metrics_add_up(tmp_path: Path, registry: CollectorRegistry) -> None:
    with pytest.raises(RunError):
        run(tmp_path, {1: 1, 2: 9})
    found = {name: registry.get_sample_value(f"tilekit_{name}", {"stage": "predict"}) for name in EXPECTED}
    assert found == EXPECTED


EXPECTED = {
    "planned_blocks": 3,
    "done_before_blocks": 0,
    "blocks_total": 2,
    "redone_blocks_total": 1,
    "failed_blocks_total": 1,
    "retries_total": 3,
    "pixels_total": 200,
    "written_bytes_total": 2001,
    "block_seconds_count": 2,
}


def test_nobody_watches_unless_asked(tmp_path: Path) -> None:
    watch()
    run(tmp_path, {})
    assert not EVENTS.isEnabledFor(logging.INFO)
    assert EVENTS.handlers == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TILEKIT_METRICS", "metrics", "is no port; write it like 9100"),
        ("TILEKIT_METRICS", "70000", "is no port"),
        ("TILEKIT_LOG", "/no/such/folder/log", "cannot be written"),
    ],
)
def test_what_cannot_be_served_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said):
        watch()


def test_a_run_is_scraped_while_it_runs_and_leaves_a_log(tmp_path: Path) -> None:
    make_image(tmp_path / "image.tif")
    make_model(tmp_path / "model.safetensors")
    log, taken = tmp_path / "events.jsonl", socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    taken.close()
    asked = {**environment(), "TILEKIT_LOG": str(log), "TILEKIT_METRICS": str(port)}
    command = ["segment", "image.tif", "model.safetensors", "out.zarr", "--workers", "0"]
    options = ["--block", str(BLOCK), "--tile", str(TILE), "--device", "cpu", "--json"]
    process = subprocess.Popen(
        [*TILEKIT, *command, *options], env=asked, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    scrapes = []
    while process.poll() is None:
        scrapes += scrape(f"http://127.0.0.1:{port}/metrics")
        time.sleep(0.05)
    result = json.loads(process.communicate()[0])
    assert process.returncode == 0

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    done = [line for line in lines if (line["stage"], line["event"]) == ("predict", "done")]
    assert sorted(line["block"] for line in done) == list(range(N_BLOCKS)) == list(range(result["blocks"]))
    assert sum(line["pixels"] for line in done) == SIDE**2
    assert len({line["run"] for line in lines}) == 1

    key = ("tilekit_blocks_total", "predict")
    seen = [samples[key] for samples in scrapes if key in samples]
    assert seen, "the run was over before it was scraped"
    assert seen == sorted(seen)
    assert 1 <= seen[-1] <= N_BLOCKS
    last = next(samples for samples in reversed(scrapes) if key in samples)
    sums = [sum(line["bytes"] for line in done[:n]) for n in (int(seen[-1]) - 1, int(seen[-1]))]
    assert last["tilekit_written_bytes_total", "predict"] in sums, "the log has the same blocks in the same order"
    assert last["tilekit_pixels_total", "ingest"] == SIDE**2


def scrape(address: str) -> list[Samples]:
    """What Prometheus would read now; nothing where nobody answers yet."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return []
    families = text_string_to_metric_families(text)
    return [{(s.name, s.labels.get("stage", "")): s.value for family in families for s in family.samples}]


def test_a_port_that_is_taken_stops_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        program = "from tilekit.run import open_runner\nwith open_runner() as runner: print(runner.run_id)"
        asked = {**environment(), "TILEKIT_METRICS": str(port)}
        done = subprocess.run([sys.executable, "-c", program], env=asked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"TILEKIT_METRICS {port}: {os.strerror(98)}; this run has none\n"
