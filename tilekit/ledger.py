"""The ledger (law 5): which blocks of a stage are done, which shards they wrote, and the sum of their receipts.

    OUT.zarr/.tilekit/lock                    held by the one run that writes
    OUT.zarr/.tilekit/STAGE/arguments.json    what the stage was asked for; a run that asks for else is refused
    OUT.zarr/.tilekit/STAGE/ledger.jsonl      a line every few seconds: {"blocks": {index: shards}, "summary": {...}}
                                              with "each": {index: summary} where blocks may change from run to run
    OUT.zarr/.tilekit/STAGE/started/INDEX     there while a block has begun and is not in the ledger

A line is flushed to disk before it counts; a torn one is dropped. Blocks since the last line are done again, and so are
those whose shards are not as recorded; where the arguments are torn, all are.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from tilekit.errors import InputError
from tilekit.store import shard_is_sound

FOLDER = ".tilekit"
Summary = dict[str, Any]
Fold = Callable[[Summary, Summary], Summary]


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """Hold an output for this process; the lock dies with it. Raises InputError where another run holds it."""
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
            raise InputError(f"{out}: another run is writing it; wait for it, or choose another output") from None
        yield


def is_locked(out: Path) -> bool:
    """True while a run holds the output."""
    path = out / FOLDER / "lock"
    if not path.exists():
        return False
    with path.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@dataclass(frozen=True, slots=True)
class Requests:
    """What was asked for, one after another, of a stage whose blocks may change from run to run."""

    number: int
    """How many requests there are."""
    needed: Callable[[int], int]
    """How many of them the record of a block must know: up to the last that touches it."""


class Ledger:
    """The record of one stage of one output."""

    def __init__(self, out: Path, stage: str, n_blocks: int, fold: Fold, requests: Requests | None = None) -> None:
        self.out = out
        self._requests = requests
        self.folder = out / FOLDER / stage
        self.n_blocks = n_blocks
        self.fold = fold
        self.summary: Summary = {}
        self._counted = bytearray(n_blocks)  # in the summary
        self._done = bytearray(n_blocks)  # recorded, and every shard sound
        self._seen = bytearray(n_blocks)  # recorded by an earlier run
        self._n_recorded = 0
        self._lock = Lock()
        self._pending: dict[int, Sequence[Any]] = {}
        self._pending_summary: Summary = {}
        self._pending_each: dict[int, Summary] = {}

    @property
    def _log(self) -> Path:
        return self.folder / "ledger.jsonl"

    def begin(self, arguments: Mapping[str, Any]) -> None:
        """Start, or continue what the same arguments began; other arguments are refused with what differs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        recorded = read_arguments(self.out, self.folder.name)
        arguments = {**arguments, "blocks": self.n_blocks}
        for line in self._lines():
            for i in line["blocks"]:
                self._seen[int(i)] = self._is_current(int(i), line)
        if recorded is None:
            self._log.unlink(missing_ok=True)  # nobody knows what it is a record of
            write_atomic(self.folder / "arguments.json", json.dumps(arguments, indent=1))
            return
        if differences := _differences(recorded, json.loads(json.dumps(arguments))):
            raise InputError(
                f"{self.out}: was begun with other arguments ({'; '.join(differences)}); "
                "repeat those, or start over with --overwrite"
            )

    def replay(self) -> None:
        """Take up what was recorded; a block whose shards are not as recorded is to be done again."""
        last: dict[int, int] = {}
        for number, line in enumerate(self._lines()):
            fresh = [int(i) for i in line["blocks"]]
            self.summary = self.fold(self.summary, line["summary"])
            for i in fresh:
                self._counted[i] = 1
                last[i] = number
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for number, line in enumerate(self._lines()):
                blocks = [int(i) for i in line["blocks"] if last[int(i)] == number]
                sound = pool.map(self._is_sound, (line["blocks"][str(i)] for i in blocks))
                for i, good in zip(blocks, sound, strict=True):
                    self._done[i] = good and self._is_current(i, line)
        self._n_recorded = self._done.count(1)

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Whole lines about blocks of this stage."""
        for line in _lines(self._log):
            if all(i.isdecimal() and int(i) < self.n_blocks for i in line["blocks"]):
                yield line

    def _is_current(self, index: int, line: dict[str, Any]) -> bool:
        """Whether a recorded block knew all requests that touch it."""
        return self._requests is None or line.get("requests", 0) >= self._requests.needed(index)

    def _is_sound(self, shards: Sequence[Sequence[Any]]) -> bool:
        return all(shard_is_sound(self.out, s) for s in shards)

    @property
    def n_done(self) -> int:
        return self._n_recorded + len(self._pending)

    def is_redone(self, index: int) -> bool:
        """True for a block that an earlier run recorded, where it is done again."""
        return bool(self._seen[index])

    def missing(self) -> Iterator[int]:
        """Blocks that are not done, in order."""
        return (i for i in range(self.n_blocks) if not self._done[i])

    def add(self, index: int, shards: Sequence[Any], summary: Summary) -> None:
        """Take a block's receipt; it counts from the next flush on."""
        with self._lock:
            if self._requests is not None:
                self._pending_each[index] = summary
            elif not self._counted[index]:
                self._pending_summary = self.fold(self._pending_summary, summary)
            self._counted[index] = 1
            self._pending[index] = shards

    @contextmanager
    def flushing(self, seconds: float) -> Iterator[None]:
        """Flush every so many seconds, however long a block takes, and at the end."""
        ended = Event()

        def keep_flushing() -> None:
            while not ended.wait(seconds):
                with suppress(OSError):  # the flush at the end says so
                    self.flush()

        thread = Thread(target=keep_flushing, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.flush()

    def flush(self) -> None:
        """Record what has been added, on disk before it counts."""
        with self._lock:
            if self._pending:
                self._write_pending()

    def _write_pending(self) -> None:
        content: dict[str, Any] = {"blocks": self._pending, "summary": self._pending_summary}
        if self._requests is not None:
            content |= {"requests": self._requests.number, "each": self._pending_each}
        line = json.dumps(content, separators=(",", ":"))
        with self._log.open("a+b") as log:
            if log.tell():
                log.seek(-1, os.SEEK_END)
                if log.read(1) != b"\n":  # a torn line before this one
                    log.write(b"\n")
            log.write(line.encode() + b"\n")
            log.flush()
            os.fsync(log.fileno())
        self.summary = self.fold(self.summary, self._pending_summary)
        for index in self._pending:
            self._done[index] = 1
            self.marker(self.folder, index).unlink(missing_ok=True)
        self._n_recorded += len(self._pending)
        self._pending, self._pending_summary, self._pending_each = {}, {}, {}

    def total(self) -> Summary:
        """The sum of all blocks' summaries, each as it was last written."""
        if self._requests is None:
            return self.summary
        last = {i: number for number, line in enumerate(self._lines()) for i in line["blocks"]}
        total: Summary = {}
        for number, line in enumerate(self._lines()):
            for i, part in line.get("each", {}).items():
                if last.get(i) == number:
                    total = self.fold(total, part)
        return total

    @staticmethod
    def marker(folder: Path, index: int) -> Path:
        """There from a block's start until it is recorded."""
        return folder / "started" / str(index)


def mark_started(folder: Path, index: int) -> bool:
    """Note that a block begins; returns whether it had begun before and was not recorded."""
    marker = Ledger.marker(folder, index)
    marker.parent.mkdir(parents=True, exist_ok=True)
    if marker.exists():
        return True
    marker.touch()
    return False


def read_arguments(out: Path, stage: str) -> dict[str, Any] | None:
    """What a stage of an output was asked for, None where it never began or the record of it is torn."""
    try:
        arguments = json.loads((out / FOLDER / stage / "arguments.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return arguments if isinstance(arguments, dict) and "blocks" in arguments else None


def stages(out: Path) -> list[dict[str, Any]]:
    """The stages of an output in the order in which they began: name, blocks in its ledger, blocks in all."""
    begun = sorted((out / FOLDER).glob("*/arguments.json"), key=lambda p: p.stat().st_mtime)
    found = ((p.parent, read_arguments(out, p.parent.name)) for p in begun)
    return [
        {"stage": folder.name, "done": _count_recorded(folder), "blocks": arguments["blocks"]}
        for folder, arguments in found
        if arguments is not None
    ]


def _count_recorded(folder: Path) -> int:
    return len({i for line in _lines(folder / "ledger.jsonl") for i in line["blocks"]})


def write_atomic(path: Path, text: str) -> None:
    """A file that appears whole or not at all."""
    temporary = path.with_suffix(".partial")
    with temporary.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a ledger; a torn one is passed over, its blocks are done again."""
    if not path.is_file():
        return
    with path.open("rb") as handle:
        for text in handle:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and all(isinstance(line.get(k), dict) for k in ("blocks", "summary")):
                yield line


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Where two JSON documents differ, as `name: before, now ...`."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(k for k in now if k not in before)]
        return [d for k in keys for d in _differences(before.get(k), now.get(k), f"{name}.{k}" if name else k)]
    return [] if before == now else [f"{name} was {_short(before)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}"
