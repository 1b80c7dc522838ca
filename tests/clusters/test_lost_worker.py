"""A cluster of four machines that speak TLS; one worker's cable is pulled mid-run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models import load
from tests.clusters.network import Network, network, wait_for
from tests.faults.harness import assert_same, begun, make_image, make_model, recorded, unrecorded
from tilekit import predict

ROOT = Path(__file__).parents[2]
DASK = [sys.executable, "-m", "dask"]
SIDE, BLOCK, TILE = 2048, 128, 64
N_BLOCKS = (SIDE // BLOCK) ** 2
IN_FLIGHT = 2 * 3
"""Blocks that the driver has given away and not got back: three for each of two workers."""
ADDRESS = "tls://scheduler:8786"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "DASK_CONFIG": str(ROOT / "deploy/dask.yaml"),
}


def certificates(tls: Path, role: str) -> list[str]:
    """Options of Dask's commands."""
    return ["--tls-ca-file", f"{tls}/ca.pem", "--tls-cert", f"{tls}/{role}.pem", "--tls-key", f"{tls}/{role}.key"]


def start_cluster(machines: Network, folder: Path) -> None:
    """A scheduler and two workers, one on each machine."""
    subprocess.run([ROOT / "deploy/tls.sh", folder / "tls"], check=True, timeout=60)
    scheduler = [*DASK, "scheduler", "--host", "scheduler", "--protocol", "tls", "--port", "8786", "--no-dashboard"]
    machines.start(
        "scheduler", [*scheduler, *certificates(folder / "tls", "scheduler")], ENVIRONMENT, folder / "scheduler.log"
    )
    worker = [*DASK, "worker", ADDRESS, "--protocol", "tls", "--nthreads", "2", "--memory-limit", "0", "--no-dashboard"]
    for name in ("worker-1", "worker-2"):
        options = ["--host", name, "--name", name, "--local-directory", str(folder / name)]
        command = [*worker, *options, *certificates(folder / "tls", "worker")]
        machines.start(name, command, ENVIRONMENT, folder / f"{name}.log")
    log = folder / "scheduler.log"
    wait_for(lambda: log.read_text().count("Register worker") == 2, "two workers")


def segment(folder: Path, out: Path, address: str, tls: Path | None) -> list[str]:
    """The command on the fourth machine."""
    arguments = ["segment", f"{folder}/image.tif", f"{folder}/model.safetensors", str(out), "--block", str(BLOCK)]
    arguments += ["--tile", str(TILE), "--device", "cpu", "--json", "--scheduler", address]
    if tls:
        arguments += ["--tls-ca", f"{tls}/ca.pem", "--tls-cert", f"{tls}/client.pem", "--tls-key", f"{tls}/client.key"]
    return [sys.executable, "-m", "flows.main", *arguments]


def assert_strangers_are_refused(machines: Network, folder: Path) -> None:
    """Neither another authority's certificate nor plain TCP gets an answer."""
    subprocess.run([ROOT / "deploy/tls.sh", folder / "others", "client"], check=True, timeout=60)
    careless = {name: value for name, value in ENVIRONMENT.items() if name != "DASK_CONFIG"}
    for address, tls in ((ADDRESS, folder / "others"), ("tcp://scheduler:8786", None)):
        done = machines.call("driver", segment(folder, folder / "none.zarr", address, tls), careless)
        assert done.returncode == 2, done.stderr
        assert "no Dask scheduler answers" in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    assert not (folder / "none.zarr").exists()


@pytest.mark.slow
def test_a_worker_that_is_cut_off_costs_only_its_blocks(tmp_path: Path) -> None:
    make_image(tmp_path / "image.tif", SIDE)
    make_model(tmp_path / "model.safetensors")
    predict(
        tmp_path / "image.tif", load(tmp_path / "model.safetensors"), tmp_path / "serial.zarr", block=BLOCK, tile=TILE
    )
    out = tmp_path / "out.zarr"
    with network("scheduler", "worker-1", "worker-2", "driver") as machines:
        start_cluster(machines, tmp_path)
        assert_strangers_are_refused(machines, tmp_path)
        command = segment(tmp_path, out, ADDRESS, tmp_path / "tls")
        watched = {**ENVIRONMENT, "TILEKIT_LOG": str(tmp_path / "events.jsonl")}
        run = machines.start("driver", command, watched, tmp_path / "driver.log", stdout=subprocess.PIPE)
        wait_for(lambda: recorded(out, "predict") >= N_BLOCKS // 8 or run.poll() is not None, "an eighth of the blocks")
        machines.pull_cable("worker-2")
        cut, before = time.monotonic(), begun(out, "predict")
        assert before < N_BLOCKS, "too late"
        stdout, _ = run.communicate(timeout=200)
        seconds = time.monotonic() - cut
    assert run.returncode == 0, (tmp_path / "driver.log").read_text()
    result = json.loads(stdout)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    done = [line["worker"] for line in events if (line["stage"], line["event"]) == ("predict", "done")]
    assert len(done) == N_BLOCKS
    assert set(done) == {"worker-1", "worker-2"}
    print(
        f"cut off with {before} of {N_BLOCKS} blocks begun; ended {seconds:.0f} s later, {result['redone']} done again"
    )
    assert_same(out, tmp_path / "serial.zarr")
    assert 1 <= result["redone"] <= IN_FLIGHT
    assert unrecorded(out, "predict") == set()
    assert seconds < 120, "a lost worker is noticed within the 20 s of deploy/dask.yaml"
