"""The doors of one process, each of which fails on purpose at its k-th use: files, clock, memory, blocks.

What is opened for writing below a folder passes through `_File`, whose bytes reach the disk by `write` alone; renames,
syncs and positioned reads are those of `os`; a block is its marker's `touch`; the network is the predictor's pass. What
libraries write by themselves (safetensors) is cut short once it is there.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import pathlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any
from unittest.mock import patch

ERRORS = {"full": errno.ENOSPC, "error": errno.EIO, "timeout": errno.ETIMEDOUT, "stale": errno.ESTALE}
DIED = 137
"""Status of a process that ended as by SIGKILL: nothing was tidied."""
JUMP = 36_000.0
"""Seconds by which the clock jumps, ahead and back."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and when."""

    door: str
    """write, rename, sync, read, block, network, save; "" for nothing at all."""
    kind: str = ""
    k: int = 1
    """At which use of the door."""
    times: int = 1
    """For how many uses; what lasts is 10^9."""


NO_FAULT = Fault("")


@dataclass
class Doors:
    """Counts the uses of each door, and says what is to go wrong."""

    out: Path
    """Files below it are the run's own."""
    fault: Fault
    on_block: Callable[[], None] = lambda: None
    """Called where the fault is a block's of kind "call"."""
    counts: Counter[str] = field(default_factory=Counter)
    _lock: Any = field(default_factory=Lock)

    def knock(self, door: str) -> str:
        """Count a use; the kind of what goes wrong with it, "" for nothing."""
        with self._lock:
            self.counts[door] += 1
            n = self.counts[door]
        is_due = door == self.fault.door and self.fault.k <= n < self.fault.k + self.fault.times
        return self.fault.kind if is_due else ""

    def is_ours(self, path: Any) -> bool:
        return isinstance(path, str | Path) and str(path).startswith(f"{self.out}/")


def fail(kind: str, path: Any) -> None:
    """Raise what an operating system would, or end as if killed."""
    if kind == "die":
        os._exit(DIED)
    if kind in ERRORS:
        raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]), str(path))


class _File(io.FileIO):
    """A file whose k-th write fails half-way."""

    doors: Doors

    def write(self, data: Any, /) -> int:
        kind = self.doors.knock("write")
        if not kind:
            return super().write(data)
        half = memoryview(data).cast("B")[: max(memoryview(data).nbytes // 2, 1)]
        written = super().write(half)
        fail(kind, self.name)
        if kind == "interrupt":
            raise KeyboardInterrupt
        return written if kind == "short" else memoryview(data).nbytes  # "lost": said to be there


@contextmanager
def open_doors(doors: Doors) -> Iterator[None]:
    """Everything in this process goes through the doors."""
    from models import predictor

    true_open, true_replace, true_rename, true_sync = io.open, os.replace, os.rename, os.fsync
    true_pread, true_touch, true_predict, true_time = os.pread, Path.touch, predictor.Predictor.predict, time.time

    def opened(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
        if not doors.is_ours(file) or not set(mode) & set("wax+") or named.get("opener"):
            return true_open(file, mode, buffering, *more, **named)
        raw = _File(file, mode.replace("b", "").replace("t", ""))
        raw.doors = doors
        kept: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        names = dict(zip(("encoding", "errors", "newline"), more, strict=False)) | {
            n: v for n, v in named.items() if n in ("encoding", "errors", "newline")
        }
        return kept if "b" in mode else io.TextIOWrapper(kept, **names)

    def moved(true: Any, source: Any, target: Any, **named: Any) -> None:
        kind = doors.knock("rename") if doors.is_ours(target) else ""
        if kind != "die after":
            fail(kind, target)
        true(source, target, **named)
        if kind == "die after":
            os._exit(DIED)

    def synced(file: Any) -> None:
        fail(doors.knock("sync"), doors.out)
        true_sync(file)

    def pread(file: int, n: int, offset: int) -> bytes:
        kind = doors.knock("read")
        fail(kind, os.readlink(f"/proc/self/fd/{file}"))
        if kind == "slow":
            time.sleep(1)
        data = true_pread(file, n, offset)
        return data[: len(data) // 2] if kind == "short" else data

    def touched(path: Path, *more: Any, **named: Any) -> None:
        kind = doors.knock("block") if path.parent.name == "started" else ""
        fail(kind, path)
        if kind == "memory":
            raise MemoryError("cannot allocate 1 GiB")
        if kind == "interrupt":
            raise KeyboardInterrupt
        if kind == "call":
            doors.on_block()
        true_touch(path, *more, **named)

    def predicted(self: Any, *more: Any, **named: Any) -> Any:
        if doors.knock("network") == "memory":
            raise MemoryError("cannot allocate 1 GiB")
        return true_predict(self, *more, **named)

    def clock() -> float:
        """Now; from the fault's block on hours ahead, and two blocks later hours back, for good."""
        past = doors.counts["block"] - doors.fault.k
        jumps = doors.fault.kind == "clock" and past >= 0
        return true_time() + (JUMP if past < 2 else -JUMP) * jumps

    def saved(true: Any, tensors: Any, path: Any, **named: Any) -> None:
        true(tensors, path, **named)
        kind = doors.knock("save")
        if kind:
            os.truncate(path, os.stat(path).st_size // 2)
            fail(kind, path)

    from safetensors import torch as safetensors_torch

    true_save = safetensors_torch.save_file
    with (
        patch.object(io, "open", opened),
        patch.object(builtins, "open", opened),
        patch.object(os, "replace", lambda a, b, **n: moved(true_replace, a, b, **n)),
        patch.object(os, "rename", lambda a, b, **n: moved(true_rename, a, b, **n)),
        patch.object(os, "fsync", synced),
        patch.object(os, "pread", pread),
        patch.object(pathlib.Path, "touch", touched),
        patch.object(predictor.Predictor, "predict", predicted),
        patch.object(time, "time", clock),
        patch.object(safetensors_torch, "save_file", lambda t, p, **n: saved(true_save, t, p, **n)),
    ):
        yield
