"""One run at a time writes an output (law 5).

On a disk the lock is held by `flock`, and dies with its process. On an object store it is an object, made by a
conditional put and put again every few seconds: it dies where its process is known to be gone (one of this machine), or
where it stays the same for STALE looks, a second apart, at a server that answers. A run that finds another's name in
its lock stops: it was away for longer than that.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from tilekit.documents import parse_json
from tilekit.errors import InputError, RunError
from tilekit.place import RemotePath

FOLDER = ".tilekit"
BEAT_SECONDS = 5.0
STALE = 30
"""Looks at a lock that did not change after which its run is taken for dead."""
_lost: set[str] = set()
"""Outputs of this process that another run has taken over."""


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """Hold an output for this process; the lock dies with it. Raises InputError where another run holds it."""
    if isinstance(out, RemotePath):
        with _lease(out, out / FOLDER / "lock"):
            yield
        return
    folder = out / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / "lock").open("a")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another output") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held(out) from None
        yield


def is_locked(out: Path) -> bool:
    """True while a run holds the output; on an object store, while its lock is not known to be dead."""
    path = out / FOLDER / "lock"
    if isinstance(path, RemotePath):
        with suppress(FileNotFoundError):
            gone = _is_gone(_read(path))
            return time.time() - path.stat().st_mtime < STALE + BEAT_SECONDS if gone is None else not gone
        return False
    if not path.exists():
        return False
    with path.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def check_held(out: Path) -> None:
    """Raise RunError where another run has taken this process's lock over."""
    if str(out) in _lost:
        raise RunError(
            f"{out}: another run took it over, as this one gave no sign of life for {STALE} s; leave it to that one"
        )


def _held(out: Path) -> InputError:
    return InputError(f"{out}: another run is writing it; wait for it, or choose another output")


@contextmanager
def _lease(out: RemotePath, path: RemotePath) -> Iterator[None]:
    content = {"machine": _machine(), "pid": os.getpid(), "begun": _begun(os.getpid()), "token": uuid4().hex, "beat": 0}
    tag = _acquire(out, path, content)
    _lost.discard(str(out))
    ended = Event()
    thread = Thread(target=_keep_beating, args=(out, path, content, tag, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            if _read(path).get("token") == content["token"]:
                path.unlink()


def _acquire(out: RemotePath, path: RemotePath, content: dict[str, Any]) -> str:
    tag: str | None = None
    while True:
        with suppress(FileExistsError):
            return path.put_if(json.dumps(content).encode(), tag)
        try:
            tag = str(path.head()["e_tag"])
            held = _read(path)
        except FileNotFoundError:
            tag = None
            continue
        if held.get("token") == content["token"]:  # the answer to an earlier try was lost
            return tag
        gone = _is_gone(held)
        if gone is False or (gone is None and _beats(path, tag)):
            raise _held(out)


def _beats(path: RemotePath, tag: str) -> bool:
    """Whether a lock changes while it is looked at; False too where it is given back."""
    for _ in range(STALE):
        time.sleep(1)
        try:
            if path.head()["e_tag"] != tag:
                return True
        except FileNotFoundError:
            return False
    return False


def _keep_beating(out: RemotePath, path: RemotePath, content: dict[str, Any], tag: str, ended: Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        content["beat"] += 1
        try:
            tag = path.put_if(json.dumps(content).encode(), tag)
        except FileExistsError:
            with suppress(OSError):
                if _read(path).get("token") != content["token"]:
                    _lost.add(str(out))
                    return
                tag = str(path.head()["e_tag"])
        except OSError:
            continue  # the server is away for longer than a request is repeated


def _read(path: RemotePath) -> dict[str, Any]:
    try:
        held = parse_json(path.read_bytes())
    except ValueError:
        return {}
    return held if isinstance(held, dict) else {}


def _machine() -> str:
    """What tells two machines, and two containers of one, whose process ids are not those of each other."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid4().hex


def _begun(pid: int) -> float | None:
    """When a process began; None where there is none."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def _is_gone(held: dict[str, Any]) -> bool | None:
    """Whether the process that holds a lock is gone; None where it is one of another machine."""
    if held.get("machine") != _machine() or not isinstance(held.get("pid"), int):
        return None
    return _begun(held["pid"]) != held.get("begun")
