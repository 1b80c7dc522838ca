"""Files given to a worker process, with a verdict on each: opened, refused, or what must not be."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TARGET = "tests.fuzz.worker:open_and_read"
SECONDS = 10.0
"""A file that takes longer hangs."""
MEMORY = 1 << 30
"""Bytes of resident memory, the interpreter and all libraries included."""


@dataclass(frozen=True)
class Verdict:
    """What came of one file."""

    kind: str
    """opened, refused, error, hang, crash or memory."""
    text: str
    peak: int = 0
    """Resident memory in bytes."""

    @property
    def passes(self) -> bool:
        return self.kind in ("opened", "refused")


class Worker:
    """A process that is started again after it died."""

    def __init__(
        self, target: str = TARGET, seconds: float = SECONDS, warm: Iterable[Path] = (), *, names_file: bool = True
    ) -> None:
        self.target, self.seconds, self.warm, self.names_file = target, seconds, list(warm), names_file
        self.process: subprocess.Popen[bytes] | None = None
        self.peak = 0

    def __call__(self, path: Path) -> Verdict:
        if self.process is None:
            self._start()
        verdict = self._ask(str(path), self.seconds)
        self.peak = max(self.peak, verdict.peak)
        if verdict.kind == "refused" and ("\n" in verdict.text or (self.names_file and path.name not in verdict.text)):
            return Verdict("error", f"not one line that names the file: {verdict.text!r}")
        if verdict.peak > MEMORY or "MemoryError" in verdict.text or "nable to allocate" in verdict.text:
            return Verdict("memory", f"{verdict.peak >> 20} MiB: {verdict.text}", verdict.peak)
        return verdict

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                pipe.close()
            self.process = None

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", self.target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1"},
            bufsize=0,
        )
        for line in (*map(str, self.warm), "limit"):
            self._ask(line, 60)

    def _ask(self, line: str, seconds: float) -> Verdict:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n".encode())
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        said = self.process.stdout.readline() if ready else b""
        if said:
            facts = json.loads(said)
            return Verdict(facts.get("verdict", ""), facts.get("text", ""), facts.get("peak", 0))
        code = self.process.wait() if ready else None
        self.close()
        if code is None:
            return Verdict("hang", f"no answer after {seconds} s")
        return Verdict("crash", f"{signal.Signals(-code).name if code < 0 else f'status {code}'}")
