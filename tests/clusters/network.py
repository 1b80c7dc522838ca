"""Machines of a cluster as network namespaces of this one: each an address of its own, a cable that can be pulled, and
names by which they find each other. The files are those of this machine, as on a shared disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ETC = Path("/etc/netns")


def ip(*arguments: str) -> None:
    """Run iproute2."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def why_not() -> str | None:
    """Why namespaces cannot be had here; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    name = f"tk{os.getpid()}-try"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=60)
    if done.returncode:
        return f"network namespaces are not allowed here: {done.stderr.strip()}"
    ip("netns", "del", name)
    return None


@dataclass
class Network:
    """Namespaces on one bridge, which lives in a namespace too: this machine's own network is left alone."""

    prefix: str
    addresses: dict[str, str] = field(default_factory=dict)
    """By the short name of the machine."""
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def add(self, name: str) -> None:
        """A machine of this name, which all others know from now on."""
        number = len(self.addresses) + 2
        self.addresses[name] = f"10.77.0.{number}"
        space, hub = self._space(name), self._space("hub")
        ip("netns", "add", space)
        ip("-n", hub, "link", "add", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("-n", hub, "link", "set", f"p{number}", "master", "br0", "up")
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        hosts = "".join(f"{address} {host}\n" for host, address in {"localhost": "127.0.0.1", **self.addresses}.items())
        for host in self.addresses:
            folder = ETC / self._space(host)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hosts").write_text(hosts)

    def pull_cable(self, name: str) -> None:
        """Cut a machine off, without a word to those that talk to it."""
        ip("-n", self._space("hub"), "link", "set", f"p{list(self.addresses).index(name) + 2}", "down")

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a command on a machine, in a process group of its own, its words in a file."""
        with log.open("a") as handle:
            process = subprocess.Popen(
                self._on(name, command),
                env=dict(environment),
                stdout=options.pop("stdout", handle),
                stderr=handle,
                text=True,
                start_new_session=True,
                **options,
            )
        self.processes.append(process)
        return process

    def call(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine to its end."""
        found: subprocess.CompletedProcess[str] = subprocess.run(
            self._on(name, command), env=dict(environment), capture_output=True, text=True, timeout=300, **options
        )
        return found

    def _on(self, name: str, command: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self._space(name), *command]

    def _space(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def close(self) -> None:
        """End what was started here, and take the machines down."""
        for process in self.processes:
            _kill_group(process)
        for name in ["hub", *self.addresses]:
            ip("netns", "del", self._space(name))
            shutil.rmtree(ETC / self._space(name), ignore_errors=True)


def _kill_group(process: subprocess.Popen[str]) -> None:
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            return
        end = time.monotonic() + 5
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.05)


@contextmanager
def network(*names: str) -> Iterator[Network]:
    """Machines of these names; skips the test where there can be none."""
    if reason := why_not():
        pytest.skip(reason)
    made = Network(f"tk{os.getpid()}")
    ip("netns", "add", made._space("hub"))
    try:
        ip("-n", made._space("hub"), "link", "add", "br0", "type", "bridge")
        ip("-n", made._space("hub"), "link", "set", "br0", "up")
        for name in names:
            made.add(name)
        yield made
    finally:
        made.close()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.1)
