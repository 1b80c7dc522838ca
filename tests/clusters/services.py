"""What deploy/compose.yaml and deploy/kubernetes say is to run, as processes on machines of tests.clusters.network.

Images are what is installed here; what an image's own entry point does (PostgreSQL's makes the database) is done here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.clusters.network import Network, wait_for

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), Path("/usr/bin"))
SETTINGS = {
    "TILEKIT_UID": "10001",
    "TILEKIT_GID": "10001",
    "POSTGRES_PASSWORD": "kept-out-of-files",
    "PREFECT_AUTH": "someone:kept-out-of-files",
    "OBJECT_STORE_KEY": "key",
    "OBJECT_STORE_SECRET": "kept-out-of-files",
}
"""What .env holds."""
SECRETS = {
    ("prefect", "postgres-password"): SETTINGS["POSTGRES_PASSWORD"],
    ("prefect", "auth"): SETTINGS["PREFECT_AUTH"],
}
"""The same, by name and key, in Kubernetes."""


@dataclass(frozen=True)
class Service:
    """One process, as it is written down."""

    name: str
    """By which others find it."""
    image: str
    command: list[str]
    environment: dict[str, str]
    healthy: list[str] | None
    """Command that ends with 0 where all is well."""
    after: list[str] = field(default_factory=list)
    """What must be well before."""
    ends: bool = False
    """True where it does something and ends."""


def compose_services() -> dict[str, Service]:
    """All of the compose file."""
    text = re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", _setting, (DEPLOY / "compose.yaml").read_text())
    found = {}
    for name, said in yaml.safe_load(text)["services"].items():
        environment = said.get("environment", {})
        check = said["healthcheck"]["test"][1:] if "healthcheck" in said else None
        after = list(said.get("depends_on", {}))
        ends = said["restart"] == "no"
        found[name] = Service(name, said["image"], said["command"], environment, check, after, ends)
    return found


def _setting(match: re.Match[str]) -> str:
    return SETTINGS.get(match[1]) or match[2]


def kubernetes_services(*files: str) -> dict[str, Service]:
    """All containers of these manifests, by the name of the service that selects them or of their workload."""
    documents = [d for file in files for d in yaml.safe_load_all((DEPLOY / "kubernetes" / file).read_text())]
    found = {}
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet", "Job"):
            pod = document["spec"]["template"]["spec"]
            name, first = document["metadata"]["name"], [c["name"] for c in pod.get("initContainers", [])]
            for said in pod.get("initContainers", []):
                found[said["name"]] = _container(said["name"], said, [], True)
            found[name] = _container(name, pod["containers"][0], first, document["kind"] == "Job")
    return found


def _container(name: str, said: dict[str, Any], after: list[str], ends: bool) -> Service:
    environment: dict[str, str] = {}
    for one in said["env"]:
        secret = one.get("valueFrom", {}).get("secretKeyRef", {})
        value = one.get("value") or SECRETS[secret["name"], secret["key"]]
        environment[one["name"]] = re.sub(r"\$\((\w+)\)", lambda m: environment[m[1]], value)
    ports = {port["name"]: port["containerPort"] for port in said.get("ports", [])}
    probe, check = said.get("readinessProbe", {}), None
    if "httpGet" in probe:
        environment["HEALTH"] = f"http://127.0.0.1:{ports[probe['httpGet']['port']]}{probe['httpGet']['path']}"
        check = ["healthy"]
    elif "exec" in probe:
        check = probe["exec"]["command"]
    command = [*said.get("command", []), *said.get("args", [])]
    return Service(name, said["image"], command, environment, check, after, ends)


@dataclass
class Site:
    """Services at work, each on its machine."""

    machines: Network
    folder: Path
    """Where all that they write lies."""
    services: Mapping[str, Service]
    running: set[str] = field(default_factory=set)

    def start(self, name: str) -> None:
        """Start a service once what it waits for is well, and wait until it is well itself, or has ended well."""
        service = self.services[name]
        for other in service.after:
            if other not in self.running:
                self.start(other)
        log = self.folder / f"{name}.log"
        process = self.machines.start(name, self._command(service), self.environment(name), log)
        self.running.add(name)
        if service.ends:
            assert process.wait(timeout=200) == 0, log.read_text()
        elif service.healthy:
            wait_for(lambda: self.is_well(name) or process.poll() is not None, f"{name} is well", 180)
            assert process.poll() is None, log.read_text()

    def is_well(self, name: str) -> bool:
        """What the service's own health check says."""
        check = self.services[name].healthy
        assert check is not None
        if check[0] == "nc":  # not in every system
            check = [sys.executable, "-c", f"import socket; socket.create_connection(({check[2]!r}, {check[3]}), 5)"]
        return self.machines.call(name, check, self.environment(name)).returncode == 0

    def environment(self, name: str) -> dict[str, str]:
        """What the image and the files set, with places of this machine."""
        home = self.folder / "home" / name
        home.mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "DASK_", "TILEKIT_"))}
        image = {
            "PATH": f"{DEPLOY}:{Path(sys.executable).parent}:{POSTGRES}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(home),
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "DASK_CONFIG": str(DEPLOY / "dask.yaml"),
            "OMP_NUM_THREADS": "1",
        }
        return {**kept, **image, **{k: self._here(v) for k, v in self.services[name].environment.items()}}

    def _command(self, service: Service) -> list[str]:
        if service.image.startswith("postgres"):
            return [*self._make_database(), *service.command]
        if service.image.startswith("rclone"):  # moto's server, where there is no rclone that can serve S3
            program = "import sys; from moto.server import main; main(sys.argv[1:])"
            return [sys.executable, "-c", program, "-H", "0.0.0.0", "-p", "9000"]
        return [self._here(word) for word in service.command]

    def _here(self, word: str) -> str:
        """A path inside a container as one of this machine."""
        places = {"/run/secrets/tls": "tls", "/run/secrets": "tls", "/data": "data"}
        for inside, outside in places.items():
            word = re.sub(rf"^{inside}(?=/|$)", str(self.folder / outside), word)
        return word.replace("/etc/tilekit", str(DEPLOY)) if word != "/tmp" else str(self.folder)

    def _make_database(self) -> list[str]:
        """What the entry point of PostgreSQL's image does first; the words that start what follows as its user."""
        place, password = self.folder / "postgres", self.folder / "postgres.password"
        password.write_text(SETTINGS["POSTGRES_PASSWORD"])
        place.mkdir()
        for path in (place, password):
            shutil.chown(path, "postgres")
        become = ["runuser", "-u", "postgres", "--", "env", f"PGDATA={place}", f"PATH={POSTGRES}:{os.environ['PATH']}"]
        options = ["--username=prefect", "--auth=scram-sha-256", f"--pwfile={password}"]
        subprocess.run([*become, "initdb", *options], check=True, capture_output=True, timeout=120)
        with (place / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all scram-sha-256\n")
        with (place / "postgresql.conf").open("a") as settings:
            settings.write("unix_socket_directories = ''\n")
        single = subprocess.run(
            [*become, "postgres", "--single", "-D", str(place), "postgres"],
            input="CREATE DATABASE prefect\n",
            text=True,
            capture_output=True,
            timeout=120,
        )
        assert single.returncode == 0, single.stderr
        return become
