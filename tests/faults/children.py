"""Commands in forked children: each starts in milliseconds, may be torn apart, and is ended where it hangs."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.doors import NO_FAULT, Doors, Fault, open_doors

PATIENCE = 90.0
"""Seconds after which a child is said to hang."""
HUNG = -1
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.faults.warm"])


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    err: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    """Uses of each door."""

    @property
    def is_clear(self) -> bool:
        """Status 1 (or 2, or stopped) with the one line that is promised."""
        lines = [line for line in self.err.strip().splitlines() if not line.startswith("step ")]  # progress
        return self.status in (1, 2, 130) and len(lines) == 1 and lines[0].startswith("tilekit: ")


def call(
    arguments: list[str], out: Path, fault: Fault = NO_FAULT, *, threads: bool = False, change: Any = None
) -> Ended:
    """Run a command to its end with a fault in it; `threads`: as tasks of a Dask cluster of that process.

    `change` is done at the block of a fault of kind "call": (function, arguments), a module's, as it is pickled.
    """
    here, there = _server.Pipe()
    child = _server.Process(target=_run, args=(there, arguments, out, fault, threads, change))
    child.start()
    there.close()
    told = here.poll(PATIENCE)
    ended = None
    if told:
        with contextlib.suppress(EOFError):  # it died
            ended = here.recv()
    child.join(10 if told else 0)
    if child.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid or 0, signal.SIGKILL)
        child.kill()
        child.join()
    if not told:
        return Ended(HUNG, "hangs")
    return ended or Ended(child.exitcode or 0)


def _run(pipe: Any, arguments: list[str], out: Path, fault: Fault, threads: bool, change: Any) -> None:
    os.setsid()
    doors = Doors(out, fault)
    if change is not None:
        doors.on_block = lambda: change[0](*change[1:])
    with contextlib.ExitStack() as stack:
        if threads:
            os.environ["TILEKIT_STALL_SECONDS"] = "20"  # a message that waits for a clock set back ends the run
            arguments = [*arguments, "--scheduler", stack.enter_context(_cluster())]
        elif arguments[0] != "train":
            arguments = [*arguments, "--workers", "0"]
        stack.enter_context(open_doors(doors))
        ended = command(arguments)
    pipe.send(Ended(*ended, dict(doors.counts)))
    pipe.close()
    os._exit(0)  # threads that wait for what was broken are of no interest


@contextlib.contextmanager
def _cluster() -> Any:
    """Two threads of this process, as Dask's workers have them."""
    import dask
    from distributed import LocalCluster

    # threads cannot be started anew, so a clock that jumps must not make them seem silent
    with dask.config.set({"logging.distributed": "critical", "distributed.scheduler.worker-ttl": None}):
        cluster = LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0", silence_logs=50
        )
    yield cluster.scheduler_address


def command(arguments: list[str]) -> tuple[int, str]:
    """The command line in this process: its status and what it says on standard error."""
    from flows.main import main

    said = io.StringIO()
    before, sys.argv = sys.argv, ["tilekit", *arguments]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            main()
    except SystemExit as end:
        return int(end.code or 0), said.getvalue()
    except BaseException as error:
        return 99, f"{said.getvalue()}\n{type(error).__name__}: {error}\nis a traceback"
    finally:
        sys.argv = before
    return 99, "never ends so"


def second_run(arguments: list[str], note: Path) -> None:
    """The same command once more, in the middle of itself; what it says goes into a file."""
    status, err = command([*arguments, "--workers", "0"])
    note.write_text(f"{status} {err}")


def change_source(kind: str, source: Path) -> None:
    """Do to a file what others do to files while somebody reads them."""
    if kind == "gone":
        source.unlink()
    elif kind == "cut":
        os.truncate(source, source.stat().st_size // 2)
    elif kind == "replaced":
        copy = source.with_name("new.tif")
        shutil.copy(source.with_suffix(".other"), copy)
        copy.replace(source)
    else:  # "rewritten", byte for byte in its place
        with source.open("r+b") as file:
            file.write(source.with_suffix(".other").read_bytes())


Change = Callable[..., None]
