"""DOOR zarr: groups and arrays of an output, written whole shards at a time, each recorded by length and digest."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import google_crc32c
import imagecodecs
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from tilekit.bucket import patient
from tilekit.errors import InputError, RunError
from tilekit.place import RemotePath
from tilekit.tiling import Level

Array = NDArray[Any]
Shard = tuple[str, int, str]
"""Path below the store, length in bytes, digest; length -1 where the shard holds nothing but the fill value."""
FORMAT = {"0.4": 2, "0.5": 3}
ZSTD_LEVEL = 1
MOST_WRITES = 3
"""How often metadata is written that is not there whole afterwards."""


def as_zarr(path: Path) -> Any:
    """A path as zarr takes it."""
    if not isinstance(path, RemotePath):
        return str(path)
    from zarr.storage import ObjectStore

    return ObjectStore(path.below, read_only=not path.is_listed)  # of a bucket zarr would make groups on the way


def is_store(path: Path) -> bool:
    """True where a Zarr group lies here."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


@patient
def group_attributes(path: Path) -> dict[str, Any]:
    """Attributes of a group, empty where there is none."""
    if not is_store(path):
        return {}
    try:
        return dict(zarr.open_group(as_zarr(path), mode="r").attrs)
    except Exception as error:  # zarr fails in many ways over metadata that contradict themselves
        if isinstance(error, InputError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise InputError(f"{path}: its metadata is damaged ({error}); start over with --overwrite") from None


def store_version(path: Path) -> str:
    """The NGFF version that fits the format of a store: 0.5 for Zarr 3, 0.4 for Zarr 2."""
    return "0.5" if (path / "zarr.json").is_file() else "0.4"


@patient
def update_group(path: Path, version: str, attributes: dict[str, Any]) -> None:
    """Make the group where it is missing, and set these attributes; `ome` is merged, the others replaced."""
    try:
        group = zarr.open_group(as_zarr(path), mode="a", zarr_format=FORMAT[version])  # type: ignore[arg-type]
        merged = dict(attributes)
        if isinstance(old := group.attrs.get("ome"), dict) and "ome" in merged:
            merged["ome"] = {**old, **merged["ome"]}
        _write_surely(
            path, lambda: group.attrs.update(merged), lambda: zarr.open_group(as_zarr(path), mode="r").metadata
        )
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise RunError(f"{path}: cannot be written ({error.strerror}); run the same command again") from error
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another output") from error
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: its metadata is damaged ({error}); start over with --overwrite") from None


def _write_surely(path: Path, write: Callable[[], object], read: Callable[[], object]) -> None:
    """Write metadata until it can be read: without it nothing goes on. An object is there whole or not at all."""
    for _ in range(MOST_WRITES):
        write()
        if isinstance(path, RemotePath):
            return
        with suppress(ValueError, KeyError, FileNotFoundError):
            read()
            return
    raise OSError(errno.EIO, "its metadata is torn after it was written", str(path))


@patient
def create_array(
    path: Path,
    level: Level,
    leading: Sequence[int],
    axes: str,
    dtype: Any,
    version: str,
    *,
    fill: int | float | None = 0,
    dimensions: Sequence[str] | None = None,
    attributes: dict[str, Any] | None = None,
) -> None:
    """Make an empty array (leading..., y, x) with chunks and shards of the level and one index per leading position.

    `fill` None is 0 of which Zarr 2 does not say that it means nothing was measured. `dimensions` are named as the axes
    unless told otherwise.
    """
    ones = (1,) * len(leading)
    options: dict[str, Any] = {}
    names = list(dimensions or axes)
    attributes = dict(attributes or {})
    if version == "0.4":
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
        options["compressors"] = _blosc()
        attributes["_ARRAY_DIMENSIONS"] = names
    else:
        fill = fill or 0
        options["dimension_names"] = names
        options["compressors"] = ZstdCodec(level=ZSTD_LEVEL)
        if level.shard != level.chunk:
            options["shards"] = (*ones, level.shard, level.shard)
    options |= {"shape": (*leading, *level.shape), "chunks": (*ones, level.chunk, level.chunk), "dtype": dtype}
    options |= {"fill_value": fill, "zarr_format": FORMAT[version], "attributes": attributes, "overwrite": True}
    _write_surely(
        path,
        lambda: zarr.create_array(as_zarr(path), **options),
        lambda: zarr.open_array(as_zarr(path), mode="r").attrs.asdict(),
    )


@patient
def write_values(
    path: Path, values: Array, dimensions: Sequence[str], version: str, attributes: dict[str, Any]
) -> None:
    """Write a small array whole, as one chunk: coordinates along a dimension, or a scalar that carries attributes."""
    named: dict[str, Any] = {"dimension_names": list(dimensions)} if version != "0.4" else {}
    zarr.create_array(
        as_zarr(path),
        data=values,
        chunks=tuple(max(n, 1) for n in values.shape),
        fill_value=None if version == "0.4" else 0,
        zarr_format=FORMAT[version],  # type: ignore[arg-type]
        overwrite=True,
        attributes=attributes if named else {**attributes, "_ARRAY_DIMENSIONS": list(dimensions)},
        **named,
    )


@patient
def is_array_of(path: Path, level: Level, leading: Sequence[int], dtype: Any) -> bool:
    """True where an array lies here that `create_array` made from the same arguments."""
    ones = (1,) * len(leading)
    try:
        array = zarr.open_array(as_zarr(path), mode="r")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        raise
    except Exception:  # its metadata is torn
        return False
    side = array.shards or array.chunks
    return (array.shape, array.chunks, side, array.dtype) == (
        (*leading, *level.shape),
        (*ones, level.chunk, level.chunk),
        (*ones, level.shard, level.shard),
        np.dtype(dtype),
    )


def _blosc() -> Any:
    from numcodecs import Blosc, blosc

    blosc.use_threads = False  # which would put parts of a chunk in the order in which they happen to be ready
    return Blosc("zstd", clevel=ZSTD_LEVEL, shuffle=Blosc.SHUFFLE)


@patient
def read_region(path: Path, region: tuple[slice, ...]) -> Array:
    """Pixels of a region of an array."""
    return np.asarray(zarr.open_array(as_zarr(path), mode="r")[region])


class Pixels(Protocol):
    """An array, or what makes its parts when they are asked for: each once, chunk by chunk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, part: tuple[slice, ...], /) -> Array: ...


def write_region(
    root: Path,
    name: str,
    level: Level,
    version: str,
    region: Sequence[slice],
    pixels: Pixels,
    fill: int | float = 0,
) -> list[Shard]:
    """Write a region (leading..., y, x) of whole shards of the array of `create_array` at `root/name`; their records.

    `pixels` have the region's shape and the array's dtype. Shards are encoded in memory and then put in place: what
    lies there is never read (a torn shard would fail for ever) and never missing, so that a second writer of the same
    block, dying at any moment, does no harm.
    """
    if pixels.shape != (shape := tuple(s.stop - s.start for s in region)):
        raise ValueError(f"{name}: pixels of shape {pixels.shape} for a region of shape {shape}")
    steps = (*(1,) * (len(region) - 2), level.shard, level.shard)
    prefix = ["c"] if FORMAT[version] == 3 else []
    records = []
    for corner in product(*(range(s.start, s.stop, n) for s, n in zip(region, steps, strict=True))):
        first = tuple(i - s.start for i, s in zip(corner, region, strict=True))
        data = _encode_shard(pixels, first, level, version, fill)
        key = "/".join([name, *prefix, *(str(i // n) for i, n in zip(corner, steps, strict=True))])
        _put(root / key, data)
        records.append(_record(key, data))
    return records


def _encode_shard(
    pixels: Pixels, first: tuple[int, ...], level: Level, version: str, fill: int | float
) -> memoryview | None:
    """The bytes of a shard whose first pixel this is, or of a chunk where the array has no shards.

    None for nothing but the fill value.
    """
    n, nbytes = level.shard // level.chunk, level.chunk**2 * pixels.dtype.itemsize
    out = np.empty(n * n * (nbytes + nbytes // 128 + 512), np.uint8).data  # more than zstd and Blosc can need
    lengths: list[int] = []
    end = 0
    for i, j in product(range(n), repeat=2):
        corner = (*first[:-2], first[-2] + i * level.chunk, first[-1] + j * level.chunk)
        chunk = _chunk(pixels, corner, level.chunk, fill)
        lengths.append(0 if chunk is None else _encode_chunk(chunk, version, fill, out[end:]))
        end += lengths[-1]
    if end and version != "0.4" and level.shard != level.chunk:
        index = _shard_index(lengths)
        out[end : end + len(index)] = index
        end += len(index)
    return out[:end] if end else None


def _chunk(pixels: Pixels, corner: tuple[int, ...], side: int, fill: int | float) -> Array | None:
    """The chunk (y, x) that begins at a corner, filled up where the image ends before it; None beyond the image."""
    *lead, y, x = corner
    height, width = (min(side, n - i) for i, n in zip((y, x), pixels.shape[-2:], strict=True))
    if height <= 0 or width <= 0:
        return None
    part = pixels[(*(slice(i, i + 1) for i in lead), slice(y, y + height), slice(x, x + width))].reshape(height, width)
    if part.shape == (side, side):
        return np.ascontiguousarray(part)
    whole = np.full((side, side), fill, pixels.dtype)
    whole[:height, :width] = part
    return whole


def _encode_chunk(chunk: Array, version: str, fill: int | float, out: memoryview) -> int:
    """Encode as `create_array` declares; bytes put into `out`, 0 where the chunk has the bits of the fill value."""
    bits = chunk.view(f"u{chunk.dtype.itemsize}")
    nothing = np.array(fill, chunk.dtype).view(bits.dtype)
    if bits[0, 0] == nothing and (bits[0] == nothing).all() and (bits == nothing).all():
        return 0
    if version == "0.4":
        data = _blosc().encode(chunk)
        out[: len(data)] = data
        return len(data)
    little = chunk.astype(chunk.dtype.newbyteorder("<"), copy=False)
    zstd_encode: Any = imagecodecs.zstd_encode  # which takes any buffer, and says that it takes but bytes
    return len(zstd_encode(little, level=ZSTD_LEVEL, out=out))


def _shard_index(lengths: Sequence[int]) -> bytes:
    """Offset and length of each chunk of a shard, row by row (2^64 - 1 where there is none), and their checksum."""
    nbytes = np.array(lengths, "<u8")
    index = np.stack([np.cumsum(nbytes) - nbytes, nbytes], axis=1)
    index[nbytes == 0] = np.iinfo(np.uint64).max
    data = index.tobytes()
    return data + int(google_crc32c.value(data)).to_bytes(4, "little")


def _put(path: Path, data: memoryview | None) -> None:
    """Make this the content of a file that appears whole or not at all; None removes it."""
    if data is None:
        path.unlink(missing_ok=True)
        return
    if isinstance(path, RemotePath):
        path.put(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        temporary.write_bytes(data)
        if (there := temporary.stat().st_size) != data.nbytes:
            raise OSError(errno.EIO, f"{there} of {data.nbytes} bytes are there after it was written", str(path))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def put_file(root: Path, key: str, data: bytes) -> Shard:
    """Write a file beside the arrays, whole or not at all; returns its record."""
    _put(root / key, memoryview(data))
    return _record(key, data)


def shard_record(root: Path, key: str) -> Shard:
    """Length and digest of a shard as it lies on disk."""
    try:
        return _record(key, (root / key).read_bytes())
    except FileNotFoundError:
        return _record(key, None)


def _record(key: str, data: bytes | memoryview | None) -> Shard:
    """Length and CRC-32: it finds what is torn, and costs a tenth of a hash."""
    if data is None:
        return key, -1, ""
    crc32: Any = imagecodecs.deflate_crc32
    return key, len(data), f"{crc32(data):08x}"


def shard_is_sound(root: Path, shard: Sequence[Any], *, digest: bool = True) -> bool:
    """True where the shard on disk is the one recorded; by its length alone where `digest` is False.

    So it is with an object, which its server has whole or not at all, to spare a resume the way of all its bytes.
    """
    key, length, recorded = shard
    if ".." in key.split("/") or key.startswith("/"):  # of an output that came from elsewhere
        return False
    try:
        if (root / key).stat().st_size != length:
            return False
    except (FileNotFoundError, NotADirectoryError):
        return bool(length == -1)
    is_read = digest and not isinstance(root, RemotePath)
    return not is_read or bool(shard_record(root, key) == (key, length, recorded))


def sweep_partial(root: Path) -> int:
    """Remove files that a killed writer left half-written; returns how many. Objects are never half there."""
    if isinstance(root, RemotePath):
        return 0
    leftovers = list(root.rglob("*.partial"))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)
