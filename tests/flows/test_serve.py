"""`tilekit serve`: one command watches a folder, on a server of its own; Ctrl-C ends all; begun again, it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from flows.serve import FILE
from tests.faults.harness import ROOT, TILEKIT, begun, call, environment, make_image, make_model
from tests.flows.prefect_server import running, wait_for


def test_each_deployment_names_a_flow_and_no_machine() -> None:
    text = FILE.read_text()
    assert str(Path.home()) not in text
    assert str(ROOT) not in text
    deployments = yaml.safe_load(text)["deployments"]
    assert {d["name"] for d in deployments} >= {"ingest", "segment", "train", "evaluate", "inbox", "label", "weigh"}
    assert all(d["schedules"] for d in deployments)
    assert [d["name"] for d in deployments if d["schedules"][0]["active"]] == ["inbox"]


def test_a_model_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    done = call("serve", "--inbox", str(tmp_path / "in"), "--model", "absent.safetensors")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "absent.safetensors: no such model" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_command_watches_a_folder_and_ends_with_nothing_left(tmp_path: Path) -> None:
    folder, out, model = tmp_path / "in", tmp_path / "in-out", tmp_path / "model.safetensors"
    folder.mkdir()
    make_image(folder / "a.tif", 150)
    make_model(model, base=32)
    env = {**environment(), "PREFECT_HOME": str(tmp_path), "PREFECT_LOGGING_LEVEL": "INFO"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    options = ["--inbox", str(folder), "--model", str(model), "--every", "10", "--settle", "0", "--device", "cpu"]
    command = [*TILEKIT, "serve", *options]

    def is_done(name: str) -> bool:
        path = out / "inbox.json"
        return path.exists() and "done" in json.loads(path.read_text())["images"].get(name, {})

    with running(command, env, tmp_path / "log", signal.SIGINT) as process:
        wait_for(lambda: is_done("a.tif") or process.poll() is not None, saying="the image was not done")
        assert_ends(process, signal.SIGINT)
    make_image(folder / "b.tif", 3000)
    with running(command, env, tmp_path / "log2", signal.SIGINT) as process:
        store = out / "b.tif.zarr"
        wait_for(lambda: begun(store, "predict") or process.poll() is not None, saying="it does not go on")
        assert_ends(process, signal.SIGTERM)
    assert not is_done("b.tif")


def assert_ends(process: subprocess.Popen[str], how: signal.Signals) -> None:
    """Told to stop, it ends well, and all that it started with it."""
    assert process.poll() is None
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 1
    at = time.monotonic()
    process.send_signal(how)
    assert process.wait(60) == 0
    _, alive = psutil.wait_procs(started, timeout=10)
    print(f"{how.name}: {len(started)} processes gone after {time.monotonic() - at:.1f} s", file=sys.stderr)
    assert not alive
