"""A cancelled Prefect run: Dask idle and no process left within seconds, an output that continues to the same bytes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any

import psutil
import pytest

from flows.params import SegmentParameters
from flows.work import segment_file
from tests.faults.harness import Case, assert_same, begun, environment, make_image, make_model, status, unrecorded
from tests.flows.prefect_server import PREFECT, Server, deployed, free_port, prefect_server, running, wait_for

SIDE, BLOCK = 1600, 400
SECONDS = 10.0
PLAIN: dict[str, Any] = {"device": "cpu", "block": BLOCK, "tile": 40, "nodata": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, psutil.Process]]:
    """A server with all deployments and a worker."""
    home = tmp_path_factory.mktemp("cancel")
    with prefect_server(home) as found, deployed(found, home) as worker:
        yield found, psutil.Process(worker.pid)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("case")
    found = Case(folder / "image.tif", folder / "model.safetensors", folder / "plain.zarr")
    make_image(found.image, SIDE)
    make_model(found.model, base=32)
    segment_file(found.image, found.model, found.undisturbed, SegmentParameters(workers=0, **PLAIN))
    return found


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The address of a Dask scheduler with a worker of two threads."""
    address, module = f"tcp://127.0.0.1:{free_port()}", [sys.executable, "-m"]
    port = address.rpartition(":")[2]
    scheduler = [*module, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
    worker = [*module, "distributed.cli.dask_worker", address, "--nthreads", "2", "--memory-limit", "0"]
    logs = tmp_path / "scheduler.log", tmp_path / "dask-worker.log"
    with (
        running(scheduler, environment(), logs[0], SIGTERM),
        running([*worker, "--no-dashboard", "--host", "127.0.0.1"], environment(), logs[1], SIGTERM),
    ):
        yield address


def tasks_of(address: str) -> int:
    """Tasks that a scheduler knows, and those that its workers' threads are at."""
    from distributed import Client

    with Client(address, set_as_default=False, timeout="15s") as client:
        known = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
        at_work = client.run(lambda dask_worker: dask_worker.state.executing_count)
    return int(known) + sum(at_work.values())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_cancelled_run_leaves_dask_idle_and_an_output_that_continues(
    case: Case, server: tuple[Server, psutil.Process], tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    prefect, worker = server
    out = tmp_path / "out.zarr"
    address = request.getfixturevalue("cluster") if where == "elsewhere" else None
    parameters = {**PLAIN, **({"scheduler": address} if address else {"workers": 2})}
    asked = {"image": str(case.image), "model": str(case.model), "out": str(out), "parameters": parameters}
    number = prefect.deployment("segment")
    run = prefect.ask(f"deployments/{number}/create_flow_run", {"parameters": asked})["id"]
    wait_for(lambda: begun(out, "predict") >= 4, saying="the run never came so far")
    started = worker.children(recursive=True)
    assert len(started) >= (1 if address else 3)  # the flow, its two workers, and helpers
    of_run = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
    lines = wait_for(lambda: [e["message"] for e in prefect.ask("logs/filter", of_run) if "dashboard" in e["message"]])
    assert len(lines) == 1
    if "none" in lines[0]:  # without bokeh
        assert lines[0].startswith("Dask dashboard: none; ")
    else:
        assert prefect.artifacts("dask-dashboard")[-1]["data"] == f"[Dask dashboard]({lines[0].split()[-1]})"
    if address:
        assert tasks_of(address) > 0

    def state() -> str:
        return str(prefect.ask(f"flow_runs/{run}")["state"]["type"])

    if address:
        command = subprocess.Popen([*PREFECT, "flow-run", "cancel", run], env=prefect.env, stdout=subprocess.DEVNULL)
        wait_for(lambda: state() in ("CANCELLING", "CANCELLED"))  # it takes seconds to start
    else:  # as the page's button does it
        prefect.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    at = time.monotonic()
    if address:
        wait_for(lambda: tasks_of(address) == 0, SECONDS, "the cluster is still at work")
        idle = time.monotonic() - at
        assert command.wait(60) == 0
    _, alive = psutil.wait_procs(started, timeout=SECONDS)
    gone = time.monotonic() - at
    assert not alive
    assert gone < SECONDS
    wait_for(lambda: state() == "CANCELLED", saying="it is not CANCELLED")
    assert status(out)["status"] == "stopped"
    left = len(unrecorded(out, "predict"))
    result = segment_file(case.image, case.model, out, SegmentParameters(workers=0, **PLAIN))
    print(
        f"{where}: processes gone after {gone:.1f} s, "
        + (f"cluster idle after {idle:.1f} s, " if address else "")
        + f"resumed: {result['redone']} of {result['blocks']} blocks redone"
    )
    assert result["redone"] <= left
    assert_same(out, case.undisturbed)
