"""Object stores on loopback, and what stands between them and a run: refusals and torn connections on purpose."""

from __future__ import annotations

import ctypes
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import botocore.session

from tilekit.place import RemotePath, as_path

REFUSED = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
PATIENCE = 60.0


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return int(found.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until something listens there."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < end, "the server does not listen"
            time.sleep(0.05)
        else:
            return


def start_server(command: list[str], log: IO[bytes], env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A process that ends with this one, however this one ends."""
    end_with_parent = partial(ctypes.CDLL(None).prctl, 1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    return subprocess.Popen(command, stdout=log, stderr=log, env=env, preexec_fn=end_with_parent)


@contextmanager
def moto_server(folder: Path) -> Iterator[int]:
    """Moto's server, which keeps its objects in memory; its port."""
    port = free_port()
    with (folder / "moto.log").open("wb") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = start_server(command, log)
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def environment(port: int) -> dict[str, str]:
    """What tells a process of the server; credentials are as good as any others there."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "tilekit-tests",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret-7f3a",
        "AWS_REGION": "us-east-1",
    }


def make_bucket(port: int, name: str) -> None:
    """A new bucket, which is no business of tilekit."""
    known = environment(port)
    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=known["AWS_ENDPOINT_URL"],
        region_name=known["AWS_REGION"],
        aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=name)
    client.close()


def upload(local: Path, place: RemotePath) -> None:
    """A file, or all files of a folder."""
    if local.is_file():
        place.put(local)
    for path in local.rglob("*") if local.is_dir() else ():
        if path.is_file():
            (place / path.relative_to(local).as_posix()).write_bytes(path.read_bytes())


def download(place: str | RemotePath, local: Path) -> Path:
    """All objects below a place, in a folder."""
    remote = as_path(place)
    for path in remote.rglob("*"):
        copy = local / path.relative_to(remote)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return local


@dataclass
class FaultyProxy:
    """Passes connections on to a server; of the requests, a share is refused, and a share cut off half-way."""

    target: int
    refused: float = 0.0
    torn: float = 0.0
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    counts: dict[str, int] = field(default_factory=lambda: {"requests": 0, "refused": 0, "torn": 0, "unreachable": 0})

    def __enter__(self) -> FaultyProxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with closing(client), closing(socket.create_connection(("127.0.0.1", self.target))) as server:
                self._pass_on(client, server)
        except OSError:
            self.counts["unreachable"] += 1

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        """Bytes both ways; what begins like a request, or follows an answer, decides anew what becomes of it."""
        left, answered = float("inf"), True
        while True:
            for source in select.select([client, server], [], [])[0]:
                data = source.recv(1 << 16)
                if not data:
                    return
                if source is client and answered:
                    answered, left = False, float("inf")
                    self.counts["requests"] += 1
                    draw = self.chance.random()
                    if draw < self.refused:
                        self.counts["refused"] += 1
                        client.sendall(REFUSED)
                        return
                    if draw < self.refused + self.torn:
                        left = self.chance.randrange(1 << 11)
                elif source is server:
                    answered = True
                left -= len(data)
                if left < 0:
                    self.counts["torn"] += 1
                    return
                (server if source is client else client).sendall(data)
