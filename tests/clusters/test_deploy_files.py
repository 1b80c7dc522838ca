"""The files of deploy/ are what their readers take: compose, Kubernetes, Docker, bash, Dask's operator."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.clusters.services import DEPLOY, SETTINGS, compose_services, kubernetes_services

BIN = Path(sys.executable).parent
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml"))
OWN = {"kustomization.yaml", "daskcluster.yaml"}
"""Not of Kubernetes itself."""


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


def test_compose_takes_its_file_and_asks_for_what_is_secret() -> None:
    compose = shutil.which("docker-compose")
    if compose is None:
        pytest.skip("needs docker-compose")
    done = run(compose, "-f", DEPLOY / "compose.yaml", "config", **SETTINGS)
    assert done.returncode == 0, done.stderr
    assert {
        port for s in yaml.safe_load(done.stdout)["services"].values() for port in map(host, s.get("ports", []))
    } == {"127.0.0.1"}
    without = run(compose, "-f", DEPLOY / "compose.yaml", "config", **{**SETTINGS, "POSTGRES_PASSWORD": ""})
    assert without.returncode != 0
    assert "set it in .env" in without.stderr


def host(port: Any) -> str:
    return str(port).split(":")[0]


def test_the_example_of_env_names_all_settings_and_holds_no_secret() -> None:
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert given.keys() >= set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert all(not given[name] for name in SETTINGS)


def test_every_service_says_how_it_is_well_and_gives_up_its_rights() -> None:
    text = re.sub(r"\$\{(\w+)[^}]*\}", r"\1", (DEPLOY / "compose.yaml").read_text())
    for name, said in yaml.safe_load(text)["services"].items():
        assert "healthcheck" in said or said["restart"] == "no", name
        assert "no-new-privileges:true" in said["security_opt"], name
        assert name == "postgres" or (said["read_only"], said["cap_drop"]) == (True, ["ALL"]), name


@pytest.mark.parametrize("path", [p for p in MANIFESTS if p.name not in OWN], ids=lambda path: path.name)
def test_kubernetes_takes_the_manifests(path: Path) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for document in documents(path):
        kubernetes_validate.validate(document, "1.30", strict=True)


def test_kustomization_names_files_that_are_there() -> None:
    (said,) = documents(DEPLOY / "kubernetes/kustomization.yaml")
    assert all((DEPLOY / "kubernetes" / name).is_file() for name in said["resources"])


def test_daskcluster_is_made_of_pods_and_a_service() -> None:
    """Its parts are those of Kubernetes; the operator's definition says no more of them."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    (cluster,) = documents(DEPLOY / "kubernetes/daskcluster.yaml")
    scheduler, worker = cluster["spec"]["scheduler"], cluster["spec"]["worker"]
    named = {"apiVersion": "v1", "metadata": {"name": "part"}}
    for kind, spec in (("Pod", scheduler["spec"]), ("Service", scheduler["service"]), ("Pod", worker["spec"])):
        kubernetes_validate.validate({**named, "kind": kind, "spec": spec}, "1.30", strict=True)
    plain = kubernetes_services("dask.yaml")
    assert scheduler["spec"]["containers"][0]["args"] == plain["dask-scheduler"].command
    asked = [w for w in worker["spec"]["containers"][0]["args"] if w not in ("--name", "$(DASK_WORKER_NAME)")]
    assert asked == [w.replace("//dask-", "//tilekit-") for w in plain["dask-worker"].command]


def test_pods_are_restricted_probed_and_limited() -> None:
    workloads = [d for p in MANIFESTS for d in documents(p) if d["kind"] in ("Deployment", "StatefulSet", "Job")]
    assert len(workloads) == 7
    for workload in workloads:
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]["memory"]
        served = [c for c in pod["containers"] if workload["kind"] != "Job"]
        assert all("readinessProbe" in c and "livenessProbe" in c for c in served)


def test_network_policies_let_through_what_the_services_ask_for() -> None:
    """Every address in a command or a setting may be reached from where it stands, and takes what comes from there."""
    policies = [d["spec"] for d in documents(DEPLOY / "kubernetes/network-policies.yaml")]
    labels = {
        d["metadata"]["name"]: d["spec"]["template"]["metadata"]["labels"]
        for file in ("prefect.yaml", "dask.yaml", "segment-job.yaml")
        for d in documents(DEPLOY / "kubernetes" / file)
        if d["kind"] in ("Deployment", "StatefulSet", "Job")
    }
    asked = [("dask-worker", "dask-scheduler", 8786), ("dask-scheduler", "dask-worker", 8789)]
    for name, service in kubernetes_services("prefect.yaml", "dask.yaml", "segment-job.yaml").items():
        text = " ".join([*service.command, *service.environment.values()])
        for other, port in re.findall(r"(?:://|@)([a-z-]+):(\d+)", text):
            asked.append(("flow-worker" if name == "deployments" else name, other, int(port)))
    assert ("prefect-server", "postgres", 5432) in asked
    for name, other, port in asked:
        assert is_let(policies, "egress", labels[name], labels[other], port), (name, other, port)
        assert is_let(policies, "ingress", labels[other], labels[name], port), (other, name, port)
    assert not is_let(policies, "ingress", labels["postgres"], labels["dask-worker"], 5432)


def is_let(policies: list[Any], way: str, mine: dict[str, str], theirs: dict[str, str], port: int) -> bool:
    """Whether any policy of a pod lets it talk to (or be talked to by) pods with those labels at a port."""
    rules = [r for p in policies if selects(p["podSelector"], mine) for r in p.get(way, [])]
    peers = {"egress": "to", "ingress": "from"}[way]
    return any(
        any(selects(peer.get("podSelector"), theirs) for peer in rule[peers])
        and any(p["port"] <= port <= p.get("endPort", p["port"]) for p in rule.get("ports", [{"port": port}]))
        for rule in rules
    )


def selects(selector: dict[str, Any] | None, labels: dict[str, str]) -> bool:
    if selector is None:
        return False
    listed = all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))
    return listed and selector.get("matchLabels", {}).items() <= labels.items()


def test_container_file_is_clean() -> None:
    if not (BIN / "hadolint").exists():
        pytest.skip("needs hadolint")
    done = run(BIN / "hadolint", DEPLOY / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_container_file_copies_what_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    let_in = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    assert "USER 10001:10001" in text
    assert "HEALTHCHECK" in text
    for line in re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+)$", text, re.MULTILINE):
        assert set(line.split()[:-1]) - {"."} <= let_in, line


@pytest.mark.parametrize("path", [DEPLOY / "tls.sh", DEPLOY / "slurm/segment.sbatch"], ids=lambda path: path.name)
def test_scripts_are_clean(path: Path) -> None:
    assert run("bash", "-n", path).returncode == 0
    if not (BIN / "shellcheck").exists():
        pytest.skip("needs shellcheck")
    done = run(BIN / "shellcheck", "-x", path)
    assert done.returncode == 0, done.stdout


def test_job_script_of_jobqueue_starts_a_worker_with_tls(tmp_path: Path) -> None:
    if importlib.util.find_spec("dask_jobqueue") is None:
        pytest.skip("needs dask-jobqueue")
    assert run(DEPLOY / "tls.sh", tmp_path / "tls").returncode == 0
    options = ["--tls", tmp_path / "tls", "--queue", "short", "--gpus", "1", "--host", "127.0.0.1", "--show"]
    done = run(sys.executable, DEPLOY / "slurm/cluster.py", *options)
    assert done.returncode == 0, done.stderr
    for line in ("#SBATCH -p short", "#SBATCH --gpus-per-task=1", "export OMP_NUM_THREADS=1"):
        assert line in done.stdout
    assert re.search(rf"dask_worker tls://\S+ .*--tls-cert {tmp_path}/tls/worker.pem", done.stdout)
    assert "client" not in done.stdout


def test_healthy_says_what_is_not() -> None:
    assert run(DEPLOY / "healthy", HEALTH="").returncode == 0
    done = run(DEPLOY / "healthy", HEALTH="tcp://127.0.0.1:1")
    assert done.returncode == 1
    assert "refused" in done.stderr


def test_both_kinds_of_site_run_the_same_programs() -> None:
    compose = {tuple(s.command[:2]) for s in compose_services().values()}
    kubernetes = {tuple(s.command[:2]) for s in kubernetes_services("prefect.yaml", "dask.yaml").values()}
    assert kubernetes - {("sh", "-c")} <= compose
