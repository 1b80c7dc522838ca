"""The commands of deploy/compose.yaml and deploy/kubernetes, run as they are written, each on a machine of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import load
from tests.clusters.network import network
from tests.clusters.services import DEPLOY, Site, compose_services, kubernetes_services
from tests.faults.harness import assert_same, make_image, make_model
from tilekit import predict

OPTIONS = ["--block", "128", "--tile", "64", "--device", "cpu", "--json"]
MANIFESTS = ("prefect.yaml", "dask.yaml", "segment-job.yaml")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user may enter, with an image, a network and what they make."""
    made = Path(tempfile.mkdtemp(prefix="tilekit-site-"))
    made.chmod(0o755)
    (made / "data").mkdir()
    make_image(made / "data/image.tif")
    make_model(made / "data/model.safetensors")
    network = load(made / "data/model.safetensors", "cpu")
    predict(made / "data/image.tif", network, made / "serial.zarr", block=128, tile=64)
    predict(made / "data/image.tif", network, made / "default.zarr")
    subprocess.run([DEPLOY / "tls.sh", made / "tls"], check=True, timeout=60)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def needs_postgres() -> None:
    from tests.clusters.services import POSTGRES

    if not (POSTGRES / "initdb").exists():
        pytest.skip("no PostgreSQL here (Debian: apt install postgresql)")


def fetch(site: Site, name: str, address: str) -> str:
    """What a machine gets from an address."""
    program = f"import urllib.request as u; print(u.urlopen({address!r}, timeout=10).read().decode())"
    done = site.machines.call(name, [sys.executable, "-c", program], site.environment(name))
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_deployment(site: Site) -> None:
    """Have the flow worker segment the image, as a schedule or the server's page would."""
    data, environment = site.folder / "data", site.environment("flow-worker")
    options = {"scheduler": "tls://scheduler:8786", "block": 128, "tile": 64, "device": "cpu"}
    asked = {"image": f"{data}/image.tif", "model": f"{data}/model.safetensors", "out": f"{data}/flow.zarr"}
    given = [f"--param={name}={json.dumps(value)}" for name, value in {**asked, "parameters": options}.items()]
    command = ["prefect", "deployment", "run", "segment/segment", *given, "--watch"]
    done = site.machines.call("flow-worker", command, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(data / "flow.zarr", site.folder / "serial.zarr")
    events = [json.loads(line) for line in (data / "tilekit.jsonl").read_text().splitlines()]
    assert {"flow_run" in line for line in events if line["output"].endswith("flow.zarr")} == {True}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compose_file_segments_as_a_serial_run_does(folder: Path) -> None:
    needs_postgres()
    services = compose_services()
    started = set(services)
    if not (DEPLOY / "prefect.yaml").exists():
        started -= {"deployments"}
    with network(*services) as machines:
        site = Site(machines, folder, services)
        for name in sorted(started - {"viewer"} - site.running):
            if name not in site.running:
                site.start(name)
        named = [f"{folder}/data/{name}" for name in ("image.tif", "model.safetensors", "out.zarr")]
        command = ["tilekit", "segment", *named, *OPTIONS, "--scheduler", "tls://scheduler:8786"]
        done = machines.call("flow-worker", command, site.environment("flow-worker"))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["blocks"] == 25
        assert_same(folder / "data/out.zarr", folder / "serial.zarr")

        wide = {**site.environment("flow-worker"), "COLUMNS": "200"}
        runs = machines.call("flow-worker", ["prefect", "flow-run", "ls"], wide)
        assert "COMPLETED" in runs.stdout.upper(), runs.stdout + runs.stderr
        assert "dask_scheduler_workers" in fetch(site, "flow-worker", "http://scheduler:8787/metrics")
        assert "dask_worker_threads" in fetch(site, "scheduler", "http://worker:8788/metrics")
        events = [json.loads(line) for line in (folder / "data/tilekit.jsonl").read_text().splitlines()]
        assert sum(line["event"] == "done" and line["stage"] == "predict" for line in events) == 25
        if "deployments" in started:
            run_deployment(site)
        site.start("viewer")
        assert all(site.is_well(name) for name in site.running if services[name].healthy)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kubernetes_manifests_segment_as_a_serial_run_does(folder: Path) -> None:
    needs_postgres()
    services = kubernetes_services(*MANIFESTS)
    with network(*services) as machines:
        site = Site(machines, folder, services)
        for name in ("postgres", "prefect-server", "dask-scheduler", "dask-worker"):
            site.start(name)
        if (DEPLOY / "prefect.yaml").exists():
            site.start("flow-worker")
        site.start("segment")
        assert_same(folder / "data/out.zarr", folder / "default.zarr")


def test_a_worker_with_a_gpu_is_a_worker_like_the_others() -> None:
    services = kubernetes_services("dask.yaml", "worker-gpu.yaml")
    assert services["dask-worker-gpu"].command == services["dask-worker"].command
