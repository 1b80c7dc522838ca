"""A real S3 server on loopback: Ceph's object gateway over one monitor and one store in memory.

Debian: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cloud.servers import environment, free_port, start_server, wait_for_port

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
SETTINGS = """[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{monitor}/0]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms client mode = crc
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 2147483648
mon allow pool size one = true
mon data avail crit = 1
mon data = {folder}/mon
osd data = {folder}/osd
run dir = {folder}
pid file = {folder}/$name.pid
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {folder}/rgw
"""


class Gateway:
    """The gateway, which may be killed and started again: what it holds is elsewhere."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self.port = folder, port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["radosgw", "-c", str(self._folder / "ceph.conf"), "-n", "client.rgw", "-f"]
        with (self._folder / "radosgw.out").open("ab") as log:
            self._process = start_server(command, log)
        wait_for_port(self.port, self._process)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def ceph() -> Iterator[Gateway]:
    """A cluster of its own, gone afterwards; skips where Ceph is not installed."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"no {', '.join(missing)} here; apt-get install radosgw ceph-mon ceph-osd")
    folder = Path(tempfile.mkdtemp(prefix="ceph-"))
    running: list[subprocess.Popen[bytes]] = []
    gateway = Gateway(folder, free_port())
    try:
        _start_cluster(folder, gateway.port, running)
        gateway.start()
        yield gateway
    finally:
        gateway.kill()
        for process in reversed(running):
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _start_cluster(folder: Path, port: int, running: list[subprocess.Popen[bytes]]) -> None:
    fsid, disk, monitor = str(uuid4()), str(uuid4()), free_port()
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    settings = folder / "ceph.conf"
    settings.write_text(SETTINGS.format(folder=folder, fsid=fsid, monitor=monitor, port=port))
    log = (folder / "out").open("wb")

    def do(*command: str, seconds: float = 30) -> bytes:
        command = (command[0], "-c", str(settings), *command[1:])
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=log, timeout=seconds).stdout

    def start(*command: str) -> None:
        running.append(start_server([command[0], "-c", str(settings), *command[1:]], log))

    with log:
        monmap = str(folder / "monmap")
        address = f"[v2:127.0.0.1:{monitor}/0]"
        subprocess.run(
            ["monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap], check=True, stdout=log
        )
        do("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", os.devnull)
        start("ceph-mon", "-i", "a", "-f")
        _wait(lambda: do("ceph", "-s", seconds=5))
        do("ceph", "osd", "new", disk, "0")
        do("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        start("ceph-osd", "-i", "0", "-f")
        do("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=local")
        _wait(lambda: 1 / (b"1 up" in do("ceph", "osd", "stat", seconds=5)))
        known = environment(port)
        keys = f"--access-key={known['AWS_ACCESS_KEY_ID']}", f"--secret-key={known['AWS_SECRET_ACCESS_KEY']}"
        do("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid=t", "--display-name=t", *keys)


def _wait(done: object) -> None:
    """Until it is done without an error."""
    end = time.monotonic() + 60
    while True:
        try:
            done()  # type: ignore[operator]
        except (subprocess.SubprocessError, ZeroDivisionError):
            assert time.monotonic() < end, "Ceph does not start"
            time.sleep(0.2)
        else:
            return
