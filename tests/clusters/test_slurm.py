"""deploy/slurm on a real SLURM of one node, which the test starts: Debian's slurm-wlm and munge, as root."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import load
from tests.clusters.network import wait_for
from tests.faults.harness import assert_same, make_image, make_model
from tilekit import predict

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "deploy/slurm"
OPTIONS = ["--block", "128", "--tile", "64", "--device", "cpu", "--json"]
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 Boards=1 SocketsPerBoard=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=20000
PartitionName=short Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(n: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


@pytest.fixture(scope="module")
def slurm() -> Iterator[Path]:
    """A folder with an image and a network, and an environment in which SLURM's commands find a SLURM."""
    programs = ("munged", "slurmctld", "slurmd", "sbatch")
    if os.geteuid() != 0 or not all(map(shutil.which, programs)):
        pytest.skip("needs root and SLURM (Debian: apt install slurm-wlm munge)")
    folder = Path(tempfile.mkdtemp(prefix="tilekit-slurm-"))
    folder.chmod(0o755)  # munge's socket is for all
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=host, ports=free_ports(2)))
    before = dict(os.environ)
    os.environ |= {
        "SLURM_CONF": f"{folder}/slurm.conf",
        "PYTHONPATH": str(ROOT),
        "TILEKIT_BIN": str(Path(sys.executable).parent),
        "TILEKIT_DEPLOY": str(ROOT / "deploy"),
        "TILEKIT_WORK": str(folder),
    }
    kept = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file", "seed-file", "log-file")]
    kept[0] = f"--socket={folder}/munge.sock"
    commands = [["munged", "--foreground", "--force", f"--key-file={folder}/munge.key", *kept], ["slurmctld", "-D"]]
    started = [start(command, folder) for command in [*commands, ["slurmd", "-D"]]]
    try:
        wait_for(lambda: "idle" in run(["sinfo", "--noheader"]).stdout, "a node that is idle", 60)
        make_image(folder / "image.tif")
        make_model(folder / "model.safetensors")
        network = load(folder / "model.safetensors", "cpu")
        predict(folder / "image.tif", network, folder / "serial.zarr", block=128, tile=64)
        yield folder
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=60)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / f"{command[0]}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    time.sleep(1)
    return process


def run(command: list[str], **options: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=options.get("timeout", 60))


@pytest.mark.slow
def test_a_job_of_its_own_segments_as_a_serial_run_does(slurm: Path) -> None:
    less = ["--nodes=1", "--ntasks-per-node=2", "--mem-per-cpu=500M", f"--output={slurm}/job.log"]
    named = [f"{slurm}/{name}" for name in ("image.tif", "model.safetensors", "job.zarr")]
    done = run(["sbatch", "--wait", *less, str(SLURM / "segment.sbatch"), *named, *OPTIONS], timeout=200)
    said = (slurm / "job.log").read_text()
    assert done.returncode == 0, said
    assert said.count("Register worker") == 2
    assert_same(slurm / "job.zarr", slurm / "serial.zarr")
    assert not list(slurm.glob("tilekit-*")), "keys are gone with the job"


@pytest.mark.slow
def test_a_cluster_of_jobs_that_stays_segments_as_a_serial_run_does(slurm: Path) -> None:
    if importlib.util.find_spec("dask_jobqueue") is None:
        pytest.skip("needs dask-jobqueue")
    subprocess.run([ROOT / "deploy/tls.sh", slurm / "tls"], check=True, timeout=60)
    command = [sys.executable, str(SLURM / "cluster.py"), "--jobs", "2", "--memory", "1GB", "--tls", f"{slurm}/tls"]
    with (slurm / "cluster.log").open("w") as log:
        command += ["--host", "127.0.0.1"]
        cluster = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=slurm)
    try:
        assert cluster.stdout is not None
        with cluster.stdout as said:
            address = said.readline().strip()
        assert address.startswith("tls://"), (slurm / "cluster.log").read_text()
        named = [f"{slurm}/{name}" for name in ("image.tif", "model.safetensors", "cluster.zarr")]
        shown = ["--tls-ca", f"{slurm}/tls/ca.pem", "--tls-cert", f"{slurm}/tls/client.pem"]
        shown += ["--tls-key", f"{slurm}/tls/client.key", "--scheduler", address]
        done = run([sys.executable, "-m", "flows.main", "segment", *named, *OPTIONS, *shown], timeout=200)
        assert done.returncode == 0, done.stderr
        assert_same(slurm / "cluster.zarr", slurm / "serial.zarr")
    finally:
        cluster.send_signal(signal.SIGINT)
        assert cluster.wait(timeout=60) == 0, (slurm / "cluster.log").read_text()
    wait_for(lambda: not run(["squeue", "--noheader"]).stdout.strip(), "the jobs are gone", 60)
