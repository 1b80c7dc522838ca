"""What lies in a watched folder or bucket: its images, and their contents told by a digest."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.images import entries
from tilekit.errors import InputError
from tilekit.place import RemotePath, as_path, is_url

Stamp = tuple[int, int, int]
"""Number of files, bytes, and when the last of them changed in nanoseconds: while it stays, so do the contents."""


@dataclass(frozen=True, slots=True)
class Found:
    """An image that lies there."""

    name: str
    """Within the place; two images never have the same."""
    image: str
    """What open_image takes."""
    stamp: Stamp
    left_out: str | None = None
    """Why it is none; None where it may be one."""


def list_place(place: str, but: Path) -> list[Found]:
    """The images of a place in order of their names, `but` a folder for outputs that lies there."""
    folder = as_path(place)
    if not is_url(folder) and not folder.is_dir():  # where a bucket is empty, nothing tells
        raise InputError(f"{place}: is no folder; name the one that images are put into")
    if folder.resolve() == but.resolve():
        raise InputError(f"{but}: is the folder of the images; choose another, so that stores and images stay apart")
    found = []
    for path, reason in entries(folder):
        if path.resolve() != but.resolve() and (stamp := stamp_of(path)) is not None:
            found.append(Found(path.name, str(path), stamp, reason))
    return found


def stamp_of(image: str | Path) -> Stamp | None:
    """The stamp of a file or a store; None where it is gone. The clock is that of the disk: `cp -p` cannot turn it."""
    try:
        facts = [path.stat() for path in _files(as_path(image))]
    except FileNotFoundError:
        return None
    newest = max((max(f.st_mtime_ns, f.st_ctime_ns) for f in facts), default=0)
    return len(facts), sum(f.st_size for f in facts), newest


def seconds_since(stamp: Stamp) -> float:
    """Seconds since it changed, by this machine's clock."""
    return time.time() - stamp[2] / 1e9


def digest_of(image: str) -> str:
    """SHA-256 of a file; of a store, of its files' names and digests. Of an object, its server's tag."""
    path = as_path(image)
    if path.is_file():
        return _digest(path)
    lines = [f"{_digest(file)} {file.relative_to(path).as_posix()}\n" for file in sorted(_files(path))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file())
    else:
        yield path


def _digest(path: Path) -> str:
    if isinstance(path, RemotePath) and (tag := path.head().get("e_tag")):
        return str(tag)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
