"""DOOR dask: the same tasks in a plain loop, on a cluster of this machine, or on one by address.

A task is a picklable function of (index, config) that may run twice; blocks travel as numbers, receipts come back, and
pixels pass between store and worker alone. A bounded number of tasks is in flight: nothing here grows with the image.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Protocol
from uuid import uuid4

from tilekit.allocator import ALLOCATOR_ENV, keep_memory
from tilekit.attempt import Outcome, Task, attempt
from tilekit.dashboard import tell_dashboard
from tilekit.errors import InputError, RunError
from tilekit.stall import limit_seconds, moved, watch_cluster, watched
from tilekit.watch import watch

THREADS_PER_WORKER = 2
"""One computes while the other reads or writes; computing itself is one at a time (jobs.predict)."""
ANSWER_SECONDS = 10.0
"""For the scheduler to say how it is."""
WORKER_ENV = {
    **ALLOCATOR_ENV,
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "ZARR_THREADING__MAX_WORKERS": "1",
}


class Runner(Protocol):
    """Runs tasks and hands back their outcomes as they arrive."""

    n_workers: int
    run_id: str
    """By which those who watch tell runs apart."""
    is_elsewhere: bool
    """True where workers may be on other machines, with other working folders."""

    def run(self, task: Task, config: Any, indices: Iterable[int]) -> Iterator[Outcome]: ...


class SerialRunner:
    """The plain loop: the specification."""

    n_workers = 1
    is_elsewhere = False

    def __init__(self) -> None:
        self.run_id = _new_id()

    def run(self, task: Task, config: Any, indices: Iterable[int]) -> Iterator[Outcome]:
        for index in indices:
            yield attempt(task, config, index)


def _new_id() -> str:
    return uuid4().hex[:12]


class DaskRunner:
    """Tasks on a Dask cluster, a bounded number of them in flight; the cluster starts with the first task."""

    def __init__(self, connect: Callable[[], tuple[Any, int]], n_workers: int, is_elsewhere: bool) -> None:
        self._connect = connect
        self.n_workers = n_workers
        self.is_elsewhere = is_elsewhere
        self.run_id = _new_id()
        self._client: Any = None
        self._connecting = Lock()
        self._arriving: list[Any] = []
        self._ended = Event()
        self._why = "the run was stopped"

    def close(self) -> None:
        """End the threads that wait for tasks: Dask would let some of them wait for ever."""
        self._ended.set()
        for arriving in self._arriving:
            arriving.clear()

    def _lose(self, why: str) -> None:
        self._why = why
        self.close()

    def _has_workers(self) -> bool:
        """Whether the scheduler answers, and knows a worker that runs."""
        try:
            known = self._client.sync(self._client.scheduler.identity, n_workers=-1, callback_timeout=ANSWER_SECONDS)
        except (OSError, TimeoutError):
            return False
        return any(worker["status"] == "running" for worker in known["workers"].values())

    def run(self, task: Task, config: Any, indices: Iterable[int]) -> Iterator[Outcome]:
        waiting = iter(indices)
        first = list(islice(waiting, 1))
        if not first:
            return
        with self._connecting:  # several images may come at once
            if self._client is None:
                self._client, self.n_workers = self._connect()
                Thread(target=watch_cluster, args=(self._has_workers, self._lose, self._ended), daemon=True).start()
        yield from self._run(task, config, chain(first, waiting))

    def _run(self, task: Task, config: Any, waiting: Iterator[int]) -> Iterator[Outcome]:
        from distributed import as_completed

        numbers: dict[str, int] = {}
        packed = pickle.dumps((task, config))

        def submit(n: int) -> list[Any]:
            indices = list(islice(waiting, n))
            if not indices:
                return []
            futures = self._client.map(_attempt_on_worker, indices, packed=packed, pure=False, retries=0)
            numbers.update(zip((future.key for future in futures), indices, strict=True))
            return futures  # type: ignore[no-any-return]

        enough = self.n_workers * (THREADS_PER_WORKER + 1)
        arriving = as_completed(submit(2 * enough), loop=self._client.loop)
        self._arriving.append(arriving)
        for future in arriving:
            outcome = self._outcome_of(future, numbers.pop(future.key))
            future.release()
            if len(numbers) <= enough:  # several at once: each message to the scheduler takes it a millisecond
                arriving.update(submit(enough))
                if self._ended.is_set():  # while they were handed out
                    arriving.clear()
            yield outcome
        self._arriving.remove(arriving)
        for index in sorted(numbers.values())[:1]:  # that were cleared away
            yield Outcome(index, error=RunError(self._why))

    def _outcome_of(self, future: Any, index: int) -> Outcome:
        """What a future brings; workers that died on this block, or a lost scheduler, are an error of the block.

        Where a worker died with the receipt that it had announced, this waits until another has done the block again.
        """
        from distributed import CancelledError, KilledWorker

        try:
            while not self._ended.is_set():
                with suppress(TimeoutError):  # where the scheduler hangs, nothing else would end the waiting
                    return future.result(timeout=ANSWER_SECONDS)  # type: ignore[no-any-return]
            return Outcome(index, error=RunError(self._why))
        except (OSError, CancelledError):  # what a task raises comes as an outcome, so this is about the connection
            return Outcome(index, error=RunError("the scheduler is gone, or dropped it"))
        except KilledWorker:
            reason = (
                "worker after worker died on it, perhaps of too little memory (try fewer --workers or a smaller "
                f"--tile), or as nothing moved there for {limit_seconds():g} s"
            )
            return Outcome(index, error=RuntimeError(reason))
        except Exception as error:  # what came back cannot be read
            return Outcome(index, error=error)


class Unwanted(BaseException):
    """Nobody waits for the result any more; no failure, so nothing may try again."""


def check_wanted() -> None:
    """End a task between two of its tiles where its run was cancelled: Dask cannot, and its worker would go on.

    A sign of life, too (tilekit.stall).
    Costs microseconds; does nothing outside a worker.
    """
    moved()
    if "distributed" not in sys.modules:  # the plain loop does without it
        return
    from distributed.worker import get_worker, thread_state  # type: ignore[attr-defined]

    key = getattr(thread_state, "key", None)
    if key is not None and (task := get_worker().state.tasks.get(key)) is not None and task.state == "cancelled":
        raise Unwanted


def _attempt_on_worker(index: int, packed: bytes) -> Outcome:
    from distributed import get_worker

    task, config = _unpack(packed)
    with watched():
        outcome = replace(attempt(task, config, index), worker=str(get_worker().name))
    error = outcome.error
    if error is None:
        return outcome
    error.__cause__ = error.__context__ = None  # some library's, which need not be fit to travel
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return replace(outcome, error=error)


@lru_cache(maxsize=2)
def _unpack(packed: bytes) -> tuple[Task, Any]:
    """Task and config, kept per process: files and networks that they open stay open from block to block."""
    from dask.utils import key_split

    key_split.cache_clear()  # the names of 10^5 tasks of earlier runs
    task, config = pickle.loads(packed)  # made by this program's own driver
    os.environ.setdefault("TILEKIT_DEVICE_INDEX", _number_of_worker())
    return task, config


def _number_of_worker() -> str:
    """The number of this worker process, by which it takes one of several devices."""
    from distributed import get_worker

    name = str(get_worker().name)
    return name if name.isdecimal() else "0"


@contextmanager
def open_runner(workers: int = 0, scheduler: str | None = None, tls: dict[str, str] | None = None) -> Iterator[Runner]:
    """A runner: serial in this process (0 workers), a cluster of worker processes here, or one by address.

    A scheduler must answer at once; workers of this machine start with the first task.
    `tls` has the paths `ca`, `cert` and `key` for a scheduler whose address begins with tls://.
    """
    watch()
    if scheduler is None and workers == 0:
        keep_memory()
        yield SerialRunner()
        return
    with ExitStack() as stack:
        stack.callback(gc.collect)  # a closed client is in cycles, which Python may let wait for hundreds of runs
        client = None if scheduler is None else stack.enter_context(_connect(scheduler, tls))

        def connect() -> tuple[Any, int]:
            found = client or stack.enter_context(_start_here(workers, stack))
            n_workers = workers if client is None else _count_workers(client, str(scheduler))
            tell_dashboard(found)
            return found, n_workers

        runner = DaskRunner(connect, workers, is_elsewhere=client is not None)
        try:
            yield runner
        finally:
            runner.close()


def _connect(address: str, tls: dict[str, str] | None) -> Any:
    from distributed import Client
    from distributed.comm.addressing import parse_address
    from distributed.comm.registry import get_backend

    try:  # a client would find out half-made, and wait for itself at exit
        get_backend(parse_address(address)[0])
    except ValueError as error:
        raise InputError(f"{address}: is no address of a scheduler ({error}); write it like tcp://host:8786") from None
    security = _security(address, tls)
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what is lost is said in one line, at the end
    try:
        return Client(address, security=security, timeout="15s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(
            f"{address}: no Dask scheduler answers there ({type(error).__name__}); start one, or leave --scheduler out"
        ) from error


def _security(address: str, tls: dict[str, str] | None) -> Any:
    """What is shown to the scheduler: these files, or what Dask's configuration names; refused where that cannot do."""
    from distributed import Security

    files = {"tls_ca_file": tls["ca"], "tls_client_cert": tls["cert"], "tls_client_key": tls["key"]} if tls else {}
    security = Security(**files, **({"require_encryption": True} if tls else {}))
    try:
        shown = security.get_connection_args("client")
    except OSError as error:
        named = ", ".join(sorted(set(files.values()))) or "the files in Dask's configuration"
        raise InputError(f"{named}: cannot be used for TLS ({error.strerror or error}); give PEM files") from None
    is_encrypted = address.startswith(("tls://", "wss://"))
    if is_encrypted and shown["ssl_context"] is None:
        raise InputError(f"{address}: takes a certificate; give --tls-ca, --tls-cert and --tls-key")
    if not is_encrypted and shown["require_encryption"]:
        why = "TLS files are given" if tls else "Dask's configuration here demands encryption"
        raise InputError(f"{address}: is not encrypted, and {why}; write it like tls://host:8786")
    return security


def _count_workers(client: Any, address: str) -> int:
    try:
        client.wait_for_workers(1, timeout=60)
    except TimeoutError:
        raise RunError(
            f"{address}: the scheduler has no workers after 60 s; start some with `dask worker {address}`"
        ) from None
    return len(client.scheduler_info(n_workers=-1)["workers"])


def _start_here(workers: int, stack: ExitStack) -> Any:
    """Worker processes of this machine, with an allocator that keeps its memory (by default Dask has it trimmed)."""
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.nanny.pre-spawn-environ": WORKER_ENV,
        "distributed.worker.daemon": False,
        # a sampling profiler and clocks of 20 to 500 ms in three processes, which took 5% of the network's time
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "1s",
        "distributed.admin.system-monitor.interval": "10s",
        # logs for Dask's developers, which else grow for a day
        "distributed.admin.system-monitor.log-length": 100,
        "distributed.admin.low-level-log-length": 100,
        "distributed.admin.log-length": 100,
        "distributed.admin.large-graph-warning-threshold": "1GB",
        "logging.distributed": "critical",
        # a worker that is connected and silent for so long is started anew; looked at every so often
        "distributed.scheduler.worker-ttl": "60s",
    }
    stack.enter_context(dask.config.set(settings))
    cluster = stack.enter_context(
        LocalCluster(
            n_workers=workers,
            threads_per_worker=THREADS_PER_WORKER,
            processes=True,
            dashboard_address="127.0.0.1:0",  # None would serve on port 8787 of every interface, once per machine
            memory_limit=0,  # the plan keeps the promise; a worker near a guessed limit must not be killed
            silence_logs=logging.CRITICAL,
        )
    )
    return Client(cluster, set_as_default=False)


def available_memory() -> int:
    """Bytes that this process and its workers may use: free memory, or what the control group leaves."""
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return max(free, 0)


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
