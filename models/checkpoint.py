"""Checkpoints: safetensors with a JSON description, checked before anything is allocated. Nothing is ever unpickled.

    | 8 bytes: N | N bytes of JSON: tensors (dtype, shape, offsets), "__metadata__": {"tilekit": JSON} | weights, F32 |

Reading the description needs no torch; a description whose tensors are not those of its architecture is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from math import prod
from pathlib import Path
from tempfile import mkstemp
from typing import TYPE_CHECKING, Any, BinaryIO

from models.header import FORMAT_VERSION, Header
from models.starters import starters
from tilekit.copies import fetched, staged
from tilekit.documents import parse_json
from tilekit.errors import InputError
from tilekit.place import as_path, is_url

if TYPE_CHECKING:
    from torch import Tensor

    from models.network import Network

MAX_HEADER_BYTES = 16 << 20
_PICKLES = (b"PK\x03\x04", b"\x80", b"(", b"c")  # torch's zip, then pickle's own protocols: new ones, and 0 and 1
_WAY_OUT = "give a model written by models.save"


def save(
    net: Network,
    path: str | os.PathLike[str],
    class_names: Sequence[str] | None = None,
    normalization: dict[str, Any] | None = None,
    *,
    head: str | None = None,
    thresholds: Sequence[float] | None = None,
    pixel_size: tuple[float, float] | None = None,
    channel_names: Sequence[str] | None = None,
) -> None:
    """Write `net` as one file that appears whole or not at all (temporary file, then renamed).

    class_names: one per class; None: "background", "class 1", ... normalization: {"kind": "range"} (None), "none",
    {"kind": "mean_std", "mean": [...], "std": [...]} or {"kind": "percentile", "low": [...], "high": [...]}, per
    channel in raw units. head: "softmax" or "sigmoid"; None: softmax, or sigmoid where the network has one channel.
    thresholds: per sigmoid channel, None: 0.5; or t per softmax class, the class being that of the largest p / t, None:
    the likeliest. pixel_size: micrometres (y, x) of the training images. InputError where these do not fit the network,
    or a weight is not finite.
    """
    config = net.config
    head = head or ("sigmoid" if config["n_classes"] == 1 else "softmax")
    n = config["n_classes"] + (head == "sigmoid")
    stored = {
        "format_version": FORMAT_VERSION,
        "architecture": net.architecture.name,
        "config": config,
        "class_names": list(class_names or ["background", *(f"class {i}" for i in range(1, n))]),
        "normalization": {"kind": "range"} if normalization is None else normalization,
        "head": head,
        "thresholds": None if thresholds is None else list(thresholds),
        "pixel_size": pixel_size,
        "channel_names": None if channel_names is None else list(channel_names),
    }
    _write(net, as_path(path), _checked(path, stored))


def set_thresholds(path: str | os.PathLike[str], thresholds: Sequence[float] | None) -> None:
    """Write a checkpoint again with other decision thresholds (see `save`), whole or not at all."""
    from safetensors.torch import load_file

    stored = {**read_header(path).as_dict(), "thresholds": None if thresholds is None else list(thresholds)}
    place = as_path(path)
    write_tensors(place, load_file(fetched(place)), {"tilekit": json.dumps(_checked(path, stored).as_dict())})


def _checked(path: str | os.PathLike[str], stored: dict[str, Any]) -> Header:
    try:
        return Header.of(stored)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path!s}: {error}") from None


def _write(net: Network, path: Path, header: Header) -> None:
    import torch

    shapes = header.config.parameter_shapes
    tensors = {name: t.detach().float().contiguous().cpu() for name, t in net.state_dict().items() if name in shapes}
    _compare_shapes(str(path), {name: tuple(t.shape) for name, t in tensors.items()}, shapes)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name} is not finite; training diverged, save an earlier state")
    write_tensors(path, tensors, {"tilekit": json.dumps(header.as_dict())})


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file that appears whole or not at all."""
    from safetensors.torch import save_file

    if is_url(path):
        with staged(path) as local:
            save_file(tensors, local, metadata=metadata)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=metadata)
        os.chmod(temporary, 0o666 & ~_umask())
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_header(path: str | os.PathLike[str]) -> Header:
    """The checked description of a checkpoint, read without torch and without its weights.

    InputError, one line that names the file: not there, a directory, empty, a pickle, torn, no safetensors, without
    tilekit's description, of an unknown version or architecture, or with tensors that are not its architecture's.
    """
    path = str(path)
    try:
        with fetched(as_path(path)).open("rb") as file:
            entries = _read_entries(path, file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        known = ", ".join(starters())
        raise InputError(f"{path}: there is no such file; {_WAY_OUT}, or name a starter: {known}") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory; {_WAY_OUT}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {_WAY_OUT}") from None
    metadata = entries.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get("tilekit"), str):
        raise InputError(f"{path}: holds weights but no tilekit description; load them into a network and {_WAY_OUT}")
    stored = _parse(path, metadata["tilekit"])
    header = _checked(path, stored)
    found = {name: tuple(entry["shape"]) for name, entry in entries.items()}
    _compare_shapes(path, found, header.config.parameter_shapes)
    return header


def _read_entries(path: str, file: BinaryIO, file_bytes: int) -> dict[str, Any]:
    """The safetensors header, its tensors' extents checked against the file's length."""
    start = file.read(9)
    if not start:
        raise InputError(f"{path}: is empty; {_WAY_OUT}")
    if start[8:] != b"{" and start.startswith(_PICKLES):  # the length of a true header may begin with any byte
        raise InputError(f"{path}: is a pickle; pickles are programs and never read; save it with models.save")
    if len(start) < 9:
        raise InputError(f"{path}: is torn, {len(start)} bytes where even a header has more; copy it again")
    claimed = int.from_bytes(start[:8], "little")
    if start[8:] != b"{":
        raise InputError(f"{path}: is no safetensors file; {_WAY_OUT}")
    if claimed > file_bytes - 8:
        raise InputError(f"{path}: is torn, its header claims {claimed} bytes, the file has {file_bytes}; copy it anew")
    if claimed > MAX_HEADER_BYTES:
        raise InputError(f"{path}: claims a header of {claimed} bytes, more than {MAX_HEADER_BYTES}; {_WAY_OUT}")
    entries = _parse(path, start[8:] + file.read(claimed - 1))
    _check_extents(path, entries, file_bytes - 8 - claimed)
    return entries


def _parse(path: str, text: str | bytes) -> dict[str, Any]:
    try:
        parsed = parse_json(text)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise InputError(f"{path}: its description is damaged; copy it again or {_WAY_OUT}")
    return parsed


def _check_extents(path: str, entries: dict[str, Any], data_bytes: int) -> None:
    end = 0
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        if not _is_entry(entry) or entry["data_offsets"][1] - entry["data_offsets"][0] != 4 * prod(entry["shape"]):
            raise InputError(f"{path}: tensor {name} is not float32 or its extent is wrong; {_WAY_OUT}")
        end = max(end, entry["data_offsets"][1])
    if end != data_bytes:
        raise InputError(f"{path}: is torn, holds {data_bytes} bytes of weights, its header says {end}; copy it again")


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or entry.get("dtype") != "F32":
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return False
    return all(type(n) is int and n >= 0 for n in [*shape, *offsets])


def _compare_shapes(path: str, found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found or name not in wanted:
            what = "lacks tensor" if name in wanted else "has a tensor that its architecture does not,"
            raise InputError(f"{path}: {what} {name}; {_WAY_OUT}")
        if found[name] != wanted[name]:
            raise InputError(f"{path}: {name} has shape {found[name]}, its architecture {wanted[name]}; {_WAY_OUT}")
