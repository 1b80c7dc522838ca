"""The documents of a Zarr store, read as they lie, and its arrays opened; damage is one clear line."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilekit.bucket import patient
from tilekit.documents import parse_json
from tilekit.errors import InputError
from tilekit.place import is_url
from tilekit.store import as_zarr

if TYPE_CHECKING:
    import zarr

MAX_CHUNK_BYTES = 1 << 30
"""A chunk is decoded whole, however little of it is asked for."""


def is_array(path: Path) -> bool:
    """True where an array of Zarr 2 or 3 lies here."""
    if (path / "zarr.json").exists():
        return bool(document(path / "zarr.json").get("node_type") == "array")
    return (path / ".zarray").exists()


def attributes_of(path: Path) -> dict[str, Any]:
    """Attributes of a group or an array, empty where it has none."""
    if (path / "zarr.json").exists():
        attributes = document(path / "zarr.json").get("attributes") or {}
        if not isinstance(attributes, dict):
            raise InputError(f"{path / 'zarr.json'}: its attributes are no JSON object; copy the store again")
        return attributes
    return document(path / ".zattrs") if (path / ".zattrs").exists() else {}


def document(path: Path) -> dict[str, Any]:
    """A JSON object of a store."""
    try:
        content = parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({first_line(error)}); copy the store again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object; copy the store again")
    return content


def open_array(path: Path) -> zarr.Array[Any]:
    """An array that the metadata name, to be read."""
    if not _is_there(path):
        raise InputError(f"{path}: named by the image's metadata, but no array is there; copy the store again")
    try:
        array = _open(path)
    except Exception as error:
        raise InputError(f"{path}: cannot be opened as a Zarr array ({first_line(error)})") from None
    if array.dtype.kind == "O" or "pickle" in {
        getattr(c, "codec_id", "") for c in (*array.filters, *array.compressors)
    }:
        raise InputError(f"{path}: holds objects of Python, which are never unpickled; write numbers")
    nbytes = prod(array.chunks) * array.dtype.itemsize
    if nbytes > MAX_CHUNK_BYTES:
        raise InputError(
            f"{path}: a chunk {'x'.join(map(str, array.chunks))} takes {nbytes / 1e9:.3g} GB, and is decoded whole; "
            f"write the store with chunks of at most {MAX_CHUNK_BYTES / 1e9:.3g} GB"
        )
    return array


def _is_there(path: Path) -> bool:
    try:
        return path.is_dir() and is_array(path)
    except (OSError, ValueError) as error:
        if is_url(path) or isinstance(error, InputError):
            raise
        return False  # a name that no disk takes


@patient
def _open(path: Path) -> zarr.Array[Any]:
    import zarr

    return zarr.open_array(as_zarr(path), mode="r")


def first_line(error: Exception) -> str:
    """What an error says first."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__
