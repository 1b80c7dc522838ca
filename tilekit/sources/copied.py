"""Images by URL that no library here reads in parts: copied once a process, if small, and opened there."""

from __future__ import annotations

from dataclasses import replace

from tilekit.copies import FETCHED_BYTES, fetched
from tilekit.errors import InputError
from tilekit.place import as_path
from tilekit.sources.source import Reference, Source, file_fingerprint


def open_copied(reference: Reference) -> Source:
    """A file by URL as a source, through a local copy that every process makes for itself."""
    from tilekit.sources import door_of_file, first_bytes

    path = as_path(reference.source)
    copy = fetched(path, FETCHED_BYTES)
    source = door_of_file(copy, first_bytes(copy))(replace(reference, source=str(copy)))
    if source.mask is not None:
        raise InputError(f"{path}: holds a mask, which is read of local files alone; copy it to a local path")
    return replace(source, reference=reference, name=path.name, fingerprint=file_fingerprint(path))
