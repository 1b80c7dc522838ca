"""Lines of JSON that are kept one after another: a file on a disk, and a folder of objects elsewhere.

An object cannot be appended to. So the last one is put again, whole, with the new line, until it has PART_BYTES; then
the next number begins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilekit.place import RemotePath, remove_tree

PART_BYTES = 1 << 18


def append_line(path: Path, line: bytes) -> None:
    """Add a line; on disk, or with the server, when this returns."""
    if isinstance(path, RemotePath):
        _append_to_objects(path, line)
        return
    with path.open("a+b") as log:
        if log.tell():
            log.seek(-1, os.SEEK_END)
            if log.read(1) != b"\n":  # a torn line before this one
                log.write(b"\n")
        log.write(line + b"\n")
        log.flush()
        os.fsync(log.fileno())


def _append_to_objects(path: RemotePath, line: bytes) -> None:
    last = max(path.iterdir(), default=None, key=lambda part: part.name)
    before = b"" if last is None else last.read_bytes()
    if len(before) >= PART_BYTES:
        before = b""
        last = path / f"{int(last.stem) + 1:08}.jsonl" if last else None
    (last or path / f"{0:08}.jsonl").write_bytes(before + line + b"\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines that are JSON objects; a torn one is passed over."""
    for part in sorted(path.iterdir()) if isinstance(path, RemotePath) else [path] if path.is_file() else []:
        with part.open("rb") as file:
            for text in file:
                try:
                    line = json.loads(text)
                except ValueError:
                    continue
                if isinstance(line, dict):
                    yield line


def remove(path: Path) -> None:
    """Remove all lines."""
    if isinstance(path, RemotePath):
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)
