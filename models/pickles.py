"""Files that are programs: refused, with the way out. Nothing is ever unpickled."""

from __future__ import annotations

from pathlib import Path

from tilekit.errors import InputError

SUFFIXES = (".pt", ".pth", ".pt2", ".ckpt", ".pkl", ".pickle", ".bin", ".torchscript", ".ts")
_MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
WAY_OUT = (
    "export it with torch.onnx.export(..., dynamic_axes=...), or write its weights with safetensors.torch.save_file "
    "and describe the network in a TOML (docs/networks.md)"
)
_KINDS = {
    ".pt2": "an exported program, which torch reads through pickle",
    ".ts": "a TorchScript archive, which is a program",
    ".torchscript": "a TorchScript archive, which is a program",
}


def refuse_pickle(path: Path) -> None:
    """InputError where a file is a pickle, or an archive of torch that holds one, by its name or its first bytes."""
    start = _start(path)
    is_tensors = start[8:] == b"{"  # whose length, before it, may begin with any byte
    looks = start.startswith((*_MAGIC, b"PK\x03\x04")) and not is_tensors
    if not looks and path.suffix.lower() not in SUFFIXES:
        return
    kind = _KINDS.get(path.suffix.lower(), "a pickle, or an archive of one, which is a program that runs when read")
    raise InputError(f"{path}: is {kind}; nothing is unpickled: {WAY_OUT}")


def _start(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(9)
    except OSError:
        return b""
