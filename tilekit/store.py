"""DOOR zarr: groups and arrays of an output, written whole shards at a time, each recorded by length and digest."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer as AnyBuffer
from zarr.core.buffer.cpu import Buffer

from tilekit.errors import InputError, RunError
from tilekit.tiling import Level

Array = NDArray[Any]
Shard = tuple[str, int, str]
"""Path below the store, length in bytes, digest; length -1 where the shard holds nothing but the fill value."""
FORMAT = {"0.4": 2, "0.5": 3}


def is_store(path: Path) -> bool:
    """True where a Zarr group lies here."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


def group_attributes(path: Path) -> dict[str, Any]:
    """Attributes of a group, empty where there is none."""
    if not is_store(path):
        return {}
    try:
        return dict(zarr.open_group(str(path), mode="r").attrs)
    except ValueError as error:
        raise InputError(f"{path}: its metadata is damaged ({error}); start over with --overwrite") from None


def store_version(path: Path) -> str:
    """The NGFF version that fits the format of a store: 0.5 for Zarr 3, 0.4 for Zarr 2."""
    return "0.5" if (path / "zarr.json").is_file() else "0.4"


def update_group(path: Path, version: str, attributes: dict[str, Any]) -> None:
    """Make the group where it is missing, and set these attributes; `ome` is merged, the others replaced."""
    try:
        group = zarr.open_group(str(path), mode="a", zarr_format=FORMAT[version])  # type: ignore[arg-type]
        merged = dict(attributes)
        if isinstance(old := group.attrs.get("ome"), dict) and "ome" in merged:
            merged["ome"] = {**old, **merged["ome"]}
        group.attrs.update(merged)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise RunError(f"{path}: cannot be written ({error.strerror}); run the same command again") from error
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another output") from error
    except ValueError as error:
        raise InputError(f"{path}: its metadata is damaged ({error}); start over with --overwrite") from None


def create_array(
    path: Path, level: Level, leading: Sequence[int], axes: str, dtype: Any, version: str, *, fill: int | float = 0
) -> None:
    """Make an empty array (leading..., y, x) with chunks and shards of the level and one index per leading position."""
    ones = (1,) * len(leading)
    options: dict[str, Any] = {}
    if version == "0.4":
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
        options["compressors"] = _numcodecs_zstd()
    else:
        options["dimension_names"] = list(axes)
        options["compressors"] = ZstdCodec(level=1)
        if level.shard != level.chunk:
            options["shards"] = (*ones, level.shard, level.shard)
    zarr.create_array(
        str(path),
        shape=(*leading, *level.shape),
        chunks=(*ones, level.chunk, level.chunk),
        dtype=dtype,
        fill_value=fill,
        zarr_format=FORMAT[version],  # type: ignore[arg-type]
        overwrite=True,
        **options,
    )


def is_array_of(path: Path, level: Level, leading: Sequence[int], dtype: Any) -> bool:
    """True where an array lies here that `create_array` made from the same arguments."""
    ones = (1,) * len(leading)
    try:
        array = zarr.open_array(str(path), mode="r")
    except (OSError, ValueError, KeyError):  # not there, or its metadata is torn
        return False
    side = array.shards or array.chunks
    return (array.shape, array.chunks, side, array.dtype) == (
        (*leading, *level.shape),
        (*ones, level.chunk, level.chunk),
        (*ones, level.shard, level.shard),
        np.dtype(dtype),
    )


def _numcodecs_zstd() -> Any:
    from numcodecs import Blosc

    return Blosc("zstd", clevel=1, shuffle=Blosc.SHUFFLE)


def read_region(path: Path, region: tuple[slice, ...]) -> Array:
    """Pixels of a region of an array."""
    return np.asarray(zarr.open_array(str(path), mode="r")[region])


def write_region(root: Path, name: str, region: tuple[slice, ...], pixels: Array) -> list[Shard]:
    """Write a region of whole shards of the array `root/name`; returns their records.

    Shards are encoded in memory and then put in place: what lies there is never read (a torn shard would fail for ever)
    and never missing, so that a second writer of the same block, dying at any moment, does no harm.
    """
    documents = {d: root / name / d for d in ("zarr.json", ".zarray") if (root / name / d).is_file()}
    encoded: dict[str, AnyBuffer] = {d: Buffer.from_bytes(path.read_bytes()) for d, path in documents.items()}
    array = zarr.open_array(zarr.storage.MemoryStore(encoded), mode="r+")
    array[region] = pixels
    records = []
    for key in _shard_keys(region, array.shards or array.chunks, array.metadata.zarr_format):
        data = encoded[key].to_bytes() if key in encoded else None
        _put(root / name / key, data)
        records.append(_record(f"{name}/{key}", data))
    return records


def _put(path: Path, data: bytes | None) -> None:
    """Make this the content of a file that appears whole or not at all; None removes it."""
    if data is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def put_file(root: Path, key: str, data: bytes) -> Shard:
    """Write a file beside the arrays, whole or not at all; returns its record."""
    _put(root / key, data)
    return _record(key, data)


def _shard_keys(region: Sequence[slice], side: Sequence[int], zarr_format: int) -> Iterator[str]:
    """Names of shards below their array."""
    spans = [range(s.start // n, -(-s.stop // n)) for s, n in zip(region, side, strict=True)]
    for position in product(*spans):
        yield "/".join((*(["c"] if zarr_format == 3 else []), *map(str, position)))


def shard_record(root: Path, key: str) -> Shard:
    """Length and digest of a shard as it lies on disk."""
    try:
        return _record(key, (root / key).read_bytes())
    except FileNotFoundError:
        return _record(key, None)


def _record(key: str, data: bytes | None) -> Shard:
    if data is None:
        return key, -1, ""
    return key, len(data), hashlib.blake2b(data, digest_size=8).hexdigest()


def shard_is_sound(root: Path, shard: Sequence[Any], *, digest: bool = True) -> bool:
    """True where the shard on disk is the one recorded; by its length alone where `digest` is False."""
    key, length, recorded = shard
    if digest:
        return bool(shard_record(root, key) == (key, length, recorded))
    try:
        return bool((root / key).stat().st_size == length)
    except FileNotFoundError:
        return bool(length == -1)


def sweep_partial(root: Path) -> int:
    """Remove files that a killed writer left half-written; returns how many."""
    leftovers = list(root.rglob("*.partial"))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)
