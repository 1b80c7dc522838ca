"""Local files that stand for places elsewhere: what is read whole, and what is written before it is put there."""

from __future__ import annotations

import glob
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from tilekit.bucket import import_obstore, patient
from tilekit.errors import InputError
from tilekit.place import PART_BYTES, RemotePath

FETCHED_BYTES = 1 << 30
"""Up to this length an image that cannot be read in parts is copied to a local disk."""


def find(pattern: Path) -> Iterator[Path]:
    """Files and folders that a glob names, on a disk or in a bucket."""
    if not isinstance(pattern, RemotePath):
        yield from map(Path, glob.glob(str(pattern), recursive=True))
        return
    n = next((i for i, part in enumerate(pattern.parts) if glob.has_magic(part)), None)
    yield from RemotePath(*pattern.parts[:n]).glob("/".join(pattern.parts[n:])) if n else (pattern,)


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, where it is there."""
    if isinstance(path, RemotePath):
        path.remove_tree()
    else:
        shutil.rmtree(path, ignore_errors=True)


def as_file(path: Path) -> Any:
    """What a library reads that takes paths or open files: a local path as it is, an object opened."""
    return path.open("rb") if isinstance(path, RemotePath) else path


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A local file to write, which becomes `path` (whose folder is there) at the end, whole or not at all."""
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="tilekit-") as folder:
            local = Path(folder, path.name)
            yield local
            if local.exists():
                path.put(local)
        return
    partial = path.with_suffix(".partial")
    try:
        yield partial
        if partial.exists():
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


_fetching = threading.Lock()


@lru_cache(maxsize=1)
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tilekit-")


def fetched(path: Path, limit: int | None = None) -> Path:
    """A local file of the same content: the path itself, or a copy of an object, made once a process."""
    if not isinstance(path, RemotePath):
        return path
    facts = path.head()
    if limit is not None and facts["size"] > limit:
        raise InputError(
            f"{path}: has {facts['size'] / 1e9:.3g} GB and cannot be read in parts, at most {limit / 1e9:.3g} GB are "
            "copied; copy it to a local path, or convert it to TIFF or Zarr"
        )
    version = f"{hash((str(path), facts['e_tag'], facts['last_modified'])) % sys.maxsize:x}"
    with _fetching:
        copy = Path(_scratch().name, version, path.name)
        if not copy.exists():
            _download(path, copy)
    return copy


@patient
def _download(path: RemotePath, copy: Path) -> None:
    obstore = import_obstore(path)
    copy.parent.mkdir(parents=True, exist_ok=True)
    partial = copy.with_name("partial")
    with partial.open("wb") as file:
        for chunk in obstore.get(path.bucket, path.key).stream(min_chunk_size=PART_BYTES):
            file.write(chunk)
    partial.replace(copy)
