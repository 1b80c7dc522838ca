"""The deployments of deploy/prefect.yaml served from this machine: registered, started on time, stopped by Ctrl-C."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow, serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import load_flow_from_entrypoint
from prefect.schedules import Cron, Interval, Schedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.templating import apply_values

from tilekit.errors import InputError, RunError
from tilekit.place import as_path

FILE = Path(__file__).parent / "data/prefect.yaml"
"""A link to that of deploy/; in an installed package, the file itself."""
PORT = 4200
SERVER_SECONDS = 120.0


def serve_all(inbox: dict[str, Any] | None, every: float | None, limit: int, say: Callable[[str], None]) -> None:
    """Serve all deployments until Ctrl-C; `inbox` are the parameters of that deployment, which else stays inactive.

    On the server of PREFECT_API_URL, or else on one that is started here for it. At most `limit` runs at a time.
    """
    served = [_deployment(d, inbox, every) for d in _read()]
    with _server(say) as url, temporary_settings({PREFECT_API_URL: url}):
        say(f"page: {url.removesuffix('/api')}; deployments: {', '.join(d.name for d in served)}; Ctrl-C ends it")
        serve(*served, limit=limit, print_starting_message=False)


def _read() -> list[dict[str, Any]]:
    deployments: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["deployments"]
    return deployments


def _deployment(described: dict[str, Any], inbox: dict[str, Any] | None, every: float | None) -> RunnerDeployment:
    """A deployment as prefect.yaml describes it."""
    flow: Flow[..., Any] = load_flow_from_entrypoint(described["entrypoint"])
    parameters = apply_values(described.get("parameters", {}), {})
    schedules = [_schedule(s) for s in described["schedules"]]
    if described["name"] == "inbox":
        parameters = inbox or parameters
        is_told = all(parameters.values())
        changed: dict[str, Any] = {"active": is_told} | ({"interval": timedelta(seconds=every)} if every else {})
        schedules = [replace(s, **changed) for s in schedules]
    limit = described.get("concurrency_limit")
    made = flow.to_deployment(
        name=described["name"],
        parameters=parameters,
        schedules=schedules,
        tags=described["tags"],
        concurrency_limit=ConcurrencyLimitConfig(**limit) if limit else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(made, RunnerDeployment)  # a coroutine in asynchronous programs alone
    return made


def _schedule(described: dict[str, Any]) -> Schedule:
    if "cron" in described:
        return Cron(described["cron"], timezone=described["timezone"], active=described["active"])
    return Interval(described["interval"], active=described["active"])


@contextmanager
def _server(say: Callable[[str], None]) -> Iterator[str]:
    """The API of the server that is set; else of one on loopback, which ends with this."""
    if url := PREFECT_API_URL.value():
        yield str(url)
        return
    port = _free_port()
    say(f"starting a Prefect server on 127.0.0.1:{port}, which keeps its runs in PREFECT_HOME (~/.prefect)")
    environment = {**os.environ, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile("w+") as log:
        # in a session of its own, so that Ctrl-C ends what needs it first
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_until_healthy(process, f"http://127.0.0.1:{port}/api/health", log)
            yield f"http://127.0.0.1:{port}/api"
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    """4200 as the world knows it, or another."""
    for port in (PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RunError("no port of 127.0.0.1 is free; end some program")


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Any) -> None:
    end = time.monotonic() + SERVER_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    log.seek(0)
    last = (log.read().strip().splitlines() or ["it said nothing"])[-1]
    raise RunError(f"the Prefect server did not start ({last}); start one and set PREFECT_API_URL")


def check_inbox(folder: str, model: str, out: str) -> dict[str, str]:
    """The parameters of the inbox, paths made absolute; folders that are missing are made."""
    from models.starters import locate

    path = locate(model)
    if not path.is_file():
        raise InputError(f"{model}: no such model; name a .safetensors file, or a starter: nuclei")
    for place in (folder, out):
        as_path(place).mkdir(parents=True, exist_ok=True)
    places = {"folder": folder, "out": out}
    is_starter = not as_path(model).is_file()
    absolute = {name: str(as_path(place).resolve()) for name, place in places.items()}
    return {**absolute, "model": model if is_starter else str(path.resolve())}
