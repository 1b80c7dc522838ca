"""The ledger (law 5): which blocks of a stage are done, which shards they wrote, and the sum of their receipts.

    OUT.zarr/.tilekit/lock                    held by the one run that writes (tilekit.lock)
    OUT.zarr/.tilekit/STAGE/arguments.json    what the stage was asked for; a run that asks for else is refused
    OUT.zarr/.tilekit/STAGE/ledger.jsonl      a line every few seconds: {"blocks": {index: shards}, "summary": {...}}
                                              with "each": {index: summary} where blocks may change from run to run;
                                              on an object store ledger/NUMBER.jsonl (tilekit.journal)
    OUT.zarr/.tilekit/STAGE/started/INDEX     there while a block has begun and is not in the ledger

A line is flushed to disk before it counts; a torn one is dropped. Blocks since the last line are done again, and so are
those whose shards are not as recorded; where the arguments are torn, all are. Before a line is written the sources are
looked at: blocks of one that has changed are not recorded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from tilekit import journal
from tilekit.copies import staged
from tilekit.documents import parse_json
from tilekit.errors import InputError, RunError
from tilekit.lock import FOLDER as FOLDER
from tilekit.lock import check_held
from tilekit.place import RemotePath
from tilekit.store import shard_is_sound

MAX_BLOCKS = 10**8
"""More than any run has: the record of an output may come from elsewhere, and takes three bytes a block."""
Summary = dict[str, Any]
Fold = Callable[[Summary, Summary], Summary]


@dataclass(frozen=True, slots=True)
class Requests:
    """What was asked for, one after another, of a stage whose blocks may change from run to run."""

    number: int
    """How many requests there are."""
    needed: Callable[[int], int]
    """How many of them the record of a block must know: up to the last that touches it."""


class Ledger:
    """The record of one stage of one output."""

    def __init__(
        self,
        out: Path,
        stage: str,
        n_blocks: int,
        fold: Fold,
        requests: Requests | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.out = out
        self._check = check
        self._refused: RunError | None = None
        self._requests = requests
        self.folder = out / FOLDER / stage
        self.n_blocks = n_blocks
        self._fold = fold
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
        return _log(self.folder)

    def begin(self, arguments: Mapping[str, Any]) -> None:
        """Start, or continue what the same arguments began; other arguments are refused with what differs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        recorded = read_arguments(self.out, self.folder.name)
        arguments = {**arguments, "blocks": self.n_blocks}
        for line in self._lines():
            for i in line["blocks"]:
                self._seen[int(i)] = self._is_current(int(i), line)
        if recorded is None:
            journal.remove(self._log)  # nobody knows what it is a record of
            write_atomic(self.folder / "arguments.json", json.dumps(arguments, indent=1))
            return
        if differences := _differences(recorded, json.loads(json.dumps(arguments))):
            raise InputError(
                f"{self.out}: was begun with other arguments ({'; '.join(differences)}); "
                "repeat those, or start over with --overwrite"
            )

    def fold(self, total: Summary, part: Summary) -> Summary:
        """The sum of two summaries; InputError where a recorded one is none."""
        try:
            return self._fold(total, part)
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise InputError(
                f"{self.folder}: its record is damaged ({type(error).__name__}: {error}); start over with --overwrite"
            ) from None

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
        """Take a block's receipt; it counts from the next flush on, where the check then passes."""
        check_held(self.out)
        if self._refused is not None:
            raise self._refused
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
                try:
                    self.flush()
                except OSError:  # the flush at the end says so
                    continue
                except RunError as error:
                    self._refused = error
                    return

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
        self._check()
        content: dict[str, Any] = {"blocks": self._pending, "summary": self._pending_summary}
        if self._requests is not None:
            content |= {"requests": self._requests.number, "each": self._pending_each}
        journal.append_line(self._log, json.dumps(content, separators=(",", ":")).encode())
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


def written_digest(out: Path, stage: str) -> str | None:
    """A digest of what the blocks of a stage last wrote, in whatever order; None where nothing is recorded."""
    last = _last_written(out / FOLDER / stage)
    return hashlib.sha256(json.dumps(sorted(last.items())).encode()).hexdigest() if last else None


def is_whole(out: Path, stage: str, without: str) -> bool:
    """True where every block of a stage is recorded, and every shard sound but those below the path `without`."""
    arguments = read_arguments(out, stage)
    last = _last_written(out / FOLDER / stage)
    if arguments is None or len(last) < arguments["blocks"]:
        return False
    shards = [shard for shards in last.values() for shard in shards if not shard[0].startswith(without)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return all(pool.map(lambda shard: shard_is_sound(out, shard), shards))


def _last_written(folder: Path) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for line in _lines(_log(folder)):
        last |= line["blocks"]
    return last


def read_arguments(out: Path, stage: str) -> dict[str, Any] | None:
    """What a stage of an output was asked for, None where it never began or the record of it is torn."""
    try:
        arguments = parse_json((out / FOLDER / stage / "arguments.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    blocks = arguments.get("blocks") if isinstance(arguments, dict) else None
    return arguments if type(blocks) is int and 0 <= blocks <= MAX_BLOCKS else None


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
    return len({i for line in _lines(_log(folder)) for i in line["blocks"]})


def write_atomic(path: Path, text: str) -> None:
    """A file that appears whole or not at all."""
    with staged(path) as partial, partial.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())


def last_recorded(folder: Path) -> float | None:
    """When the last line of a stage was written, seconds since 1970; None where there is none."""
    return max((part.stat().st_mtime for part in journal.parts(_log(folder))), default=None)


def _log(folder: Path) -> Path:
    return folder / ("ledger" if isinstance(folder, RemotePath) else "ledger.jsonl")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a ledger; a torn one is passed over, its blocks are done again."""
    for line in journal.read_lines(path):
        if _is_whole(line):
            yield line


def _is_whole(line: dict[str, Any]) -> bool:
    """True for what a run of tilekit writes: an output may come from elsewhere."""
    blocks, each, requests = line.get("blocks"), line.get("each", {}), line.get("requests", 0)
    if not isinstance(blocks, dict) or not isinstance(each, dict) or type(requests) is not int:
        return False
    if not all(i.isdecimal() and len(i) < 10 for i in (*blocks, *each)):
        return False
    summaries = (line.get("summary"), *each.values())
    return all(isinstance(s, dict) for s in summaries) and all(map(_are_shards, blocks.values()))


def _are_shards(shards: Any) -> bool:
    """True for a list of (path below the output, bytes, digest)."""
    return isinstance(shards, list) and all(
        isinstance(s, list) and [type(part) for part in s] == [str, int, str] and s[0].isprintable() and len(s[0]) < 200
        for s in shards
    )


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Where two JSON documents differ, as `name: before, now ...`."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(k for k in now if k not in before)]
        return [d for k in keys for d in _differences(before.get(k), now.get(k), f"{name}.{k}" if name else k)]
    return [] if before == now else [f"{name} was {_short(before)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}"
