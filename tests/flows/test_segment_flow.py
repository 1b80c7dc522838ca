"""The flow `segment` on a Prefect server: the plain run's bytes, a task run per stage, artifacts to look at."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import BLOCK, TILE, Case, assert_same, call, make_image, make_model, shards, status

STAGES = {"ingest", "predict", "finish", "publish"}
SERVER_SECONDS = 120.0
OPTIONS: dict[str, Any] = {"block": BLOCK, "tile": TILE, "nodata": 0, "workers": 0, "device": "cpu"}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Prefect server on a free port of this machine, with a home of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    log = (home / "server.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "PREFECT_HOME": str(home)},
        stdout=log,
        stderr=log,
    )
    try:
        _wait_until_healthy(process, f"http://127.0.0.1:{port}/api/health")
        yield f"http://127.0.0.1:{port}/api"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


@pytest.fixture
def prefect_here(server: str) -> Iterator[str]:
    """Settings of this process: the server, and no heartbeat (it costs a second at the end of each flow)."""
    from prefect import settings
    from prefect.logging.handlers import APILogWorker

    changed = {settings.PREFECT_API_URL: server, settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with settings.temporary_settings(changed):
        yield server
        APILogWorker.instance().drain()  # while the server is there to take them


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    from flows.params import SegmentParameters
    from flows.work import segment_file

    folder = tmp_path_factory.mktemp("flow")
    found = Case(folder / "image.tif", folder / "model.safetensors", folder / "plain.zarr")
    make_image(found.image, 256)
    make_model(found.model)
    segment_file(str(found.image), str(found.model), str(found.undisturbed), SegmentParameters(**OPTIONS))
    return found


def ask(server: str, what: str, **body: Any) -> list[dict[str, Any]]:
    """What the server has of something, such as artifacts."""
    request = urllib.request.Request(
        f"{server}/{what}/filter", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return list(json.load(answer))


def ask_until(server: str, what: str, enough: int, **body: Any) -> list[dict[str, Any]]:
    """The same, asked until there is so much of it: what a run reports arrives after its end."""
    end = time.monotonic() + SERVER_SECONDS
    while len(found := ask(server, what, **body)) < enough and time.monotonic() < end:
        time.sleep(0.2)
    return found


def test_the_flow_gives_the_plain_runs_bytes_task_runs_by_stage_and_artifacts(
    case: Case, prefect_here: str, tmp_path: Path
) -> None:
    from flows.params import SegmentParameters
    from flows.segment import segment

    out = tmp_path / "out.zarr"
    result = segment(str(case.image), str(case.model), str(out), SegmentParameters(**OPTIONS))
    assert (result["blocks"], result["redone"], result["output"]) == (16, 0, str(out))
    assert_same(out, case.undisturbed)
    (run,) = [r for r in ask(prefect_here, "flow_runs") if r["parameters"].get("out") == str(out)]
    assert run["state"]["type"] == "COMPLETED"
    of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    tasks = ask_until(prefect_here, "task_runs", len(STAGES), **of_run)
    assert sorted(t["name"].rpartition("-")[0] for t in tasks) == sorted(STAGES)
    artifacts = {a["key"]: a for a in ask_until(prefect_here, "artifacts", 4, **of_run)}
    for stage in ("ingest", "predict"):
        assert artifacts[f"segment-progress-{stage}"]["type"] == "progress"
        assert artifacts[f"segment-progress-{stage}"]["data"] == 100
    assert artifacts["segment-summary"]["type"] == "table"
    assert '"blocks"' in str(artifacts["segment-summary"]["data"])
    assert "data:image/png;base64," in artifacts["segment-overlay"]["data"]


def test_a_flow_over_a_finished_output_does_no_work(case: Case, prefect_here: str) -> None:
    from flows.params import SegmentParameters
    from flows.segment import segment

    before = {p: p.stat().st_mtime_ns for p in shards(case.undisturbed)}
    assert before
    result = segment(str(case.image), str(case.model), str(case.undisturbed), SegmentParameters(**OPTIONS))
    assert result["redone"] == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_flow_over_several_images_lists_them_and_fails_after_the_others(
    case: Case, prefect_here: str, tmp_path: Path
) -> None:
    from flows.images import BatchError
    from flows.params import SegmentParameters
    from flows.segment import segment_images

    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    (images / "image.tif").symlink_to(case.image)
    (images / "spoiled.tif").write_text("This is not an image.\n")
    options = SegmentParameters(**OPTIONS, preview=1)
    with pytest.raises(BatchError, match="1 of 2 images failed"):
        segment_images(str(images), str(case.model), str(out), options)
    assert_same(out / "image.zarr", case.undisturbed)
    (run,) = [r for r in ask(prefect_here, "flow_runs") if r["parameters"].get("out") == str(out)]
    assert run["state"]["type"] == "FAILED"
    of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    tasks = ask_until(prefect_here, "task_runs", 4, **of_run)
    assert sorted(t["name"].rpartition("-")[0] for t in tasks) == ["finish", "ingest", "predict", "preview"]
    artifacts = ask_until(prefect_here, "artifacts", 1, key={"any_": ["segment-images-summary"]}, **of_run)
    rows = json.loads(next(a["data"] for a in artifacts if a["key"] == "segment-images-summary"))
    assert [row["status"] for row in rows] == ["complete", "failed"]


def test_a_preview_is_a_task_run_and_an_artifact(case: Case, prefect_here: str, tmp_path: Path) -> None:
    from flows.params import SegmentParameters
    from flows.segment import segment

    out = tmp_path / "out.zarr"
    result = segment(str(case.image), str(case.model), str(out), SegmentParameters(**OPTIONS, preview_only=True))
    assert Path(result["preview"][-1]) == tmp_path / "out-preview" / "index.png"
    assert not out.exists()
    (run,) = [r for r in ask(prefect_here, "flow_runs") if r["parameters"].get("out") == str(out)]
    of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    tasks = ask_until(prefect_here, "task_runs", 1, **of_run)
    assert [t["name"].rpartition("-")[0] for t in tasks] == ["preview"]
    artifacts = {a["key"]: a for a in ask_until(prefect_here, "artifacts", 2, **of_run)}
    assert "data:image/png;base64," in artifacts["segment-preview"]["data"]


def test_objects_are_a_task_run_of_segment_and_a_flow_of_their_own(
    case: Case, prefect_here: str, tmp_path: Path
) -> None:
    from flows.label import label
    from flows.params import LabelParameters, SegmentParameters
    from flows.segment import segment
    from flows.work import label_file

    out, other = tmp_path / "out.zarr", tmp_path / "objects.zarr"
    result = segment(str(case.image), str(case.model), str(out), SegmentParameters(**OPTIONS, objects=True))
    (run,) = [r for r in ask(prefect_here, "flow_runs") if r["parameters"].get("out") == str(out)]
    tasks = ask_until(prefect_here, "task_runs", 5, flow_runs={"id": {"any_": [run["id"]]}})
    assert sorted(t["name"].rpartition("-")[0] for t in tasks) == ["finish", "ingest", "label", "predict", "publish"]
    parameters = LabelParameters(workers=0, block=64)
    found = label(str(case.undisturbed / "labels/classes"), str(other), parameters)
    assert found["objects"] == result["objects"] > 0
    (run,) = [r for r in ask(prefect_here, "flow_runs") if r["parameters"].get("out") == str(other)]
    assert run["state"]["type"] == "COMPLETED"
    artifacts = ask_until(prefect_here, "artifacts", 2, flow_runs={"id": {"any_": [run["id"]]}})
    assert {"label-summary", "label-progress-label"} <= {a["key"] for a in artifacts}
    plain = tmp_path / "plain.zarr"
    label_file(str(case.undisturbed / "labels/classes"), str(plain), parameters)
    assert_same(other, plain)


def test_weigh_is_a_flow(case: Case, prefect_here: str, tmp_path: Path) -> None:
    from flows.params import WeighParameters
    from flows.weigh import weigh
    from flows.work import weigh_file

    labels, out, plain = str(case.undisturbed / "labels/classes"), tmp_path / "out.zarr", tmp_path / "plain.zarr"
    parameters = WeighParameters(workers=0, block=64, kind="classes")
    found = weigh(labels, str(out), parameters)
    (run,) = [r for r in ask(prefect_here, "flow_runs") if r["parameters"].get("out") == str(out)]
    assert run["state"]["type"] == "COMPLETED"
    artifacts = ask_until(prefect_here, "artifacts", 2, flow_runs={"id": {"any_": [run["id"]]}})
    assert {"weigh-summary", "weigh-progress-weigh"} <= {a["key"] for a in artifacts}
    assert weigh_file(labels, str(plain), parameters)["class_weights"] == found["class_weights"]
    assert_same(out, plain)


@pytest.mark.parametrize("bad", ["image", "arguments"])
def test_a_flow_with_bad_input_fails_at_once_and_is_not_retried(
    case: Case, prefect_here: str, tmp_path: Path, bad: str
) -> None:
    from flows.params import SegmentParameters
    from flows.segment import segment
    from tilekit.errors import InputError

    image, out, options = str(case.image), tmp_path / "out.zarr", OPTIONS
    if bad == "image":
        image = str(tmp_path / "absent.tif")
    else:  # found by a stage, which Prefect would retry
        import shutil

        shutil.copytree(case.undisturbed, out)
        options = {**OPTIONS, "nodata": 7}
    started = time.monotonic()
    with pytest.raises(InputError):
        segment(image, str(case.model), str(out), SegmentParameters(**options))
    print(f"failed in {time.monotonic() - started:.2f} s")
    (run,) = [r for r in ask(prefect_here, "flow_runs") if r["parameters"].get("out") == str(out)]
    assert run["state"]["type"] == "FAILED"
    tasks = ask_until(prefect_here, "task_runs", bad != "image", flow_runs={"id": {"any_": [run["id"]]}})
    assert [t["run_count"] for t in tasks] == ([] if bad == "image" else [1])


@pytest.mark.slow
def test_the_command_line_runs_the_flow_on_an_embedded_server(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    done = call(*case.arguments(out, "--workers", "0", "--prefect"))
    assert done.returncode == 0, done.stderr
    assert status(out)["status"] == "complete"
    assert_same(out, case.undisturbed)
    absent = call(*case.arguments(tmp_path / "other.zarr", "--workers", "0", "--prefect", "--level", "9"))
    assert absent.returncode == 2
    assert absent.stderr.count("\n") == 1
    assert absent.stderr.startswith("tilekit: ")
