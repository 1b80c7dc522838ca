"""A real Prefect server with a process worker, started as an operator starts them, for tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import ROOT, environment

PREFECT = [sys.executable, "-m", "prefect"]
PATIENCE = 240.0
"""Seconds that anything may take on a machine that does other things too."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: list[str], env: dict[str, str], log: Path, stop: signal.Signals
) -> Iterator[subprocess.Popen[str]]:
    """A program in a process group of its own, that heeds Ctrl-C, ended by `stop`."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            env=env,
            stdout=file,
            stderr=file,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(stop)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait_for(what: Callable[[], Any], seconds: float = PATIENCE, saying: str = "it never came") -> Any:
    """The first true answer."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, saying
        time.sleep(0.1)
    return found


def is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


@dataclass(frozen=True)
class Server:
    """A server and its page."""

    address: str
    env: dict[str, str]

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """An answer of the API."""
        data = None if body is None else json.dumps(body).encode()
        url, headers = f"{self.address}/api/{path}", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    def runs(self, deployment: str, state: str | None = None) -> list[dict[str, Any]]:
        """Flow runs of a deployment, the oldest first."""
        body: dict[str, Any] = {"deployments": {"name": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        if state:
            body["flow_runs"] = {"state": {"name": {"any_": [state]}}}
        return list(self.ask("flow_runs/filter", body))

    def deployment(self, name: str) -> str:
        """Its number."""
        (found,) = self.ask("deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        return str(found["id"])

    def artifacts(self, key: str) -> list[dict[str, Any]]:
        """Artifacts of a key, the oldest first."""
        found = self.ask("artifacts/filter", {"artifacts": {"key": {"any_": [key]}}})
        return sorted(found, key=lambda a: str(a["created"]))

    def prefect(self, *arguments: str) -> str:
        """A command of Prefect's, with nobody to answer questions."""
        done = subprocess.run(
            [*PREFECT, *arguments], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=PATIENCE, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextmanager
def prefect_server(folder: Path, database: str | None = None, **more: str) -> Iterator[Server]:
    """A server on SQLite in `folder`, or on the database of an URL; for its commands and flows `more` is set."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    env = {**environment(), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    env |= {"PREFECT_HOME": str(folder), "PREFECT_API_URL": f"{address}/api", "PREFECT_LOGGING_LEVEL": "INFO"}
    env |= {"PREFECT_WORKER_QUERY_SECONDS": "2", **more}
    if database:
        env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with running(command, env, folder / "server.log", signal.SIGTERM) as process:
        health = f"{address}/api/health"
        wait_for(lambda: process.poll() is not None or is_healthy(health), saying="the server does not answer")
        assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
        yield Server(address, env)


@contextmanager
def deployed(server: Server, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """All of deploy/prefect.yaml on a server, and a process worker for it, by the README's commands."""
    server.prefect("work-pool", "create", "tilekit", "--type", "process")
    server.prefect("concurrency-limit", "create", "gpu", "1")
    server.prefect("--no-prompt", "deploy", "--all", "--prefect-file", "deploy/prefect.yaml")
    command = [*PREFECT, "worker", "start", "--pool", "tilekit"]
    with running(command, server.env, folder / "worker.log", signal.SIGINT) as worker:
        yield worker


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of an empty database of a PostgreSQL of its own on loopback; skips where there is none."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if programs is None:
        pytest.skip("no PostgreSQL here; Debian: apt-get install postgresql")
    is_root, port = os.getuid() == 0, free_port()  # it refuses to run as root
    user = ["runuser", "-u", "postgres", "--"] if is_root else []
    with tempfile.TemporaryDirectory(prefix="tilekit-postgresql-") as folder, ExitStack() as stack:
        if is_root:
            shutil.chown(folder, "postgres")
        initdb = [*user, str(programs / "initdb"), "-D", f"{folder}/data", "-U", "prefect", "--auth=trust"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder)
        options = ["-h", "127.0.0.1", "-p", str(port), "-k", folder]
        command = [*user, str(programs / "postgres"), "-D", f"{folder}/data", *options]
        # runuser hands SIGTERM on and nothing else
        stack.enter_context(running(command, dict(os.environ), Path(folder) / "log", signal.SIGTERM))
        psql = [str(programs / "psql"), "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "postgres"]
        create = [*psql, "-c", "create database runs"]
        wait_for(lambda: subprocess.run(create, capture_output=True).returncode == 0, saying="no PostgreSQL answers")
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/runs"
