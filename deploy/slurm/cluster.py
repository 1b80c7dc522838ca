"""A Dask cluster of SLURM jobs that stays: dask-jobqueue submits the workers, and submits anew those that end.

    python deploy/slurm/cluster.py --jobs 8 --tls tls --queue short
    tilekit segment IMAGE MODEL OUT.zarr --scheduler tls://... --tls-ca tls/ca.pem --tls-cert ... --tls-key ...

Run it on a login or service node that the workers can reach; it prints the address, and Ctrl-C ends the workers.
Needs `pip install dask-jobqueue`, and the folder of deploy/tls.sh on a shared disk.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import Any

import dask
from dask_jobqueue import SLURMCluster
from distributed import Security

DEPLOY = Path(__file__).absolute().parents[1]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "DASK_CONFIG": str(DEPLOY / "dask.yaml"),
}


def make_cluster(arguments: argparse.Namespace) -> SLURMCluster:
    """A scheduler in this process, which speaks TLS alone; no job yet."""
    tls = Path(arguments.tls).absolute()
    files: dict[str, Any] = {"tls_ca_file": str(tls / "ca.pem")}
    for role in ("scheduler", "worker", "client"):
        files |= {f"tls_{role}_cert": str(tls / f"{role}.pem"), f"tls_{role}_key": str(tls / f"{role}.key")}
    gpu = [f"--gpus-per-task={arguments.gpus}"] if arguments.gpus else []
    return SLURMCluster(
        queue=arguments.queue,
        account=arguments.account,
        walltime=arguments.walltime,
        cores=2,  # threads of a worker: one computes while the other reads or writes
        processes=1,
        memory=arguments.memory,
        worker_extra_args=["--memory-limit", "0", "--death-timeout", "120"],
        job_script_prologue=[f"export {name}={value}" for name, value in ENVIRONMENT.items()],
        job_extra_directives=gpu,
        local_directory="/tmp",
        protocol="tls://",
        security=Security(require_encryption=True, **files),
        scheduler_options={"dashboard_address": "127.0.0.1:0", "host": arguments.host},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=4, help="workers, a job each")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of a worker: 0 or 1")
    parser.add_argument("--memory", default="8GB", help="of a worker: what `tilekit plan` says, and 1 GB")
    parser.add_argument("--walltime", default="04:00:00", help="of a job")
    parser.add_argument("--queue", help="SLURM's partition")
    parser.add_argument("--account", help="SLURM's account")
    parser.add_argument("--host", help="address of this node that workers can reach")
    parser.add_argument("--tls", default="tls", help="folder of deploy/tls.sh")
    parser.add_argument("--show", action="store_true", help="print the job script and end")
    arguments = parser.parse_args()
    (settings,) = dask.config.collect_yaml([str(DEPLOY / "dask.yaml")])
    dask.config.update(dask.config.config, settings)
    with make_cluster(arguments) as cluster:
        if arguments.show:
            print(cluster.job_script())
            return
        cluster.adapt(minimum=arguments.jobs, maximum=arguments.jobs)  # jobs that end are submitted anew
        print(cluster.scheduler_address, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
