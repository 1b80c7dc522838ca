"""Lines of JSON that are kept one after another: a file on a disk, and a folder of objects elsewhere.

An object cannot be appended to. So the last one is put again, whole, with the new line, until it has PART_BYTES; then
the next number begins.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilekit.copies import remove_tree
from tilekit.documents import parse_json
from tilekit.place import RemotePath

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
    last = next(reversed(parts(path)), None)
    before = b"" if last is None else last.read_bytes()
    if len(before) >= PART_BYTES:
        before = b""
        last = path / f"{int(last.stem) + 1:08}.jsonl" if last else None
    (last or path / f"{0:08}.jsonl").write_bytes(before + line + b"\n")


def parts(path: Path) -> list[Path]:
    """What holds the lines, in their order; none where there are none."""
    if isinstance(path, RemotePath):
        return sorted(path.iterdir())
    return [path] if path.is_file() else []


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines that are JSON objects; a torn one is passed over."""
    for part in parts(path):
        with part.open("rb") as file:
            for text in file:
                try:
                    line = parse_json(text)
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
