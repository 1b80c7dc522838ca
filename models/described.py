"""Descriptions of networks from elsewhere: a TOML or JSON, an ONNX file, a BioImage.IO package."""

from __future__ import annotations

import errno
import hashlib
import tomllib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from models.meaning import KEYS
from models.pickles import WAY_OUT, refuse_pickle
from tilekit.documents import parse_json
from tilekit.errors import InputError
from tilekit.place import beside

PACKAGES = ("rdf.yaml", "bioimageio.yaml")
DAMAGED = (BadZipFile, EOFError, OSError, RuntimeError, KeyError, UnicodeDecodeError, zlib.error)
"""What reading a zip archive ends with; RuntimeError is of encryption, and of compressions that are not known."""
MAX_PART = 1 << 31
"""Bytes of a file in a package: ONNX knows no longer ones."""
_OWN = {"import", "arguments", "weights", "onnx", "in_channels", "halo", "stride"}


@dataclass(frozen=True, slots=True)
class Described:
    """A network from elsewhere, not yet opened."""

    path: Path
    """What the user named."""
    kind: str
    """"torch", "onnx", or "bioimage", which is ONNX too."""
    stored: dict[str, Any]
    """What it says of itself: the keys of a TOML description."""
    files: tuple[Path, ...]
    """All that decides what it computes."""

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    def digest(self) -> str:
        """SHA-256 of all files, hexadecimal."""
        total = hashlib.sha256()
        for file in self.files:
            try:
                if not file.is_file():  # a device would be read for ever
                    raise FileNotFoundError(errno.ENOENT, "no such file")
                with open(file, "rb") as opened:
                    total.update(hashlib.file_digest(opened, "sha256").digest())
            except OSError as error:
                raise InputError(f"{self.path}: its file {file} cannot be read ({error.strerror})") from None
        return total.hexdigest()

    def onnx_bytes(self) -> bytes:
        """The ONNX file."""
        name = str(self.stored["onnx"])
        if self.path.suffix == ".zip":
            with ZipFile(self.path) as archive:
                return archive.read(name)
        return (self.folder / name).read_bytes()


def describe(path: Path) -> Described | None:
    """The description of a network from elsewhere; None where the file may be a checkpoint of tilekit.

    InputError, one line that names the file, where it is damaged, or a pickle.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        found = next((path / name for name in PACKAGES if (path / name).is_file()), None)
        return None if found is None else _package(path, found.read_bytes(), found)
    if not path.is_file():
        return None
    if suffix in (".yaml", ".yml"):
        return _package(path, path.read_bytes(), path)
    if suffix == ".zip":
        return _zipped(path)
    if suffix == ".onnx":
        return Described(path, "onnx", {"onnx": path.name}, (path,))
    if suffix in (".toml", ".json"):
        return _from_text(path)
    refuse_pickle(path)
    return None


def _from_text(path: Path) -> Described:
    try:
        stored = (tomllib.loads if path.suffix.lower() == ".toml" else parse_json)(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no {path.suffix[1:].upper()} ({error}); correct it") from None
    if not isinstance(stored, dict) or not {"import", "onnx"} & stored.keys():
        raise InputError(f"{path}: names no network; give import and weights, or onnx (docs/networks.md)")
    unknown = sorted(stored.keys() - KEYS - _OWN)
    if unknown:
        raise InputError(f"{path}: {unknown[0]!r} is unknown; the keys are {', '.join(sorted(KEYS | _OWN))}")
    kind = "onnx" if "onnx" in stored else "torch"
    wanted = ("onnx",) if kind == "onnx" else ("import", "weights", "in_channels")
    for key in wanted:
        if key not in stored:
            raise InputError(f"{path}: lacks {key!r}; add it")
    name = stored["onnx" if kind == "onnx" else "weights"]
    if not isinstance(name, str):
        raise InputError(f"{path}: {name!r} is no name of a file")
    file = beside(path.parent, name)
    refuse_pickle(file)
    return Described(path, kind, stored, (path, file))


def _zipped(path: Path) -> Described:
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
            if any(info.file_size > MAX_PART for info in archive.infolist()):
                raise InputError(f"{path}: claims a part of more than {MAX_PART} bytes; unpack it")
            found = next((name for name in PACKAGES if name in names), None)
            if found is None:
                what = "a TorchScript or torch archive" if any(n.endswith(".pkl") for n in names) else "no package"
                raise InputError(f"{path}: is {what}, it has no {' or '.join(PACKAGES)}; {WAY_OUT}")
            return _package(path, archive.read(found), path)
    except DAMAGED as error:
        raise InputError(f"{path}: is no whole zip archive ({error}); copy it again") from None


def _package(path: Path, text: bytes, file: Path) -> Described:
    from models.bioimage import read_package

    stored = read_package(path, text)
    if path.suffix == ".zip":
        return Described(path, "bioimage", stored, (path,))
    folder = path if path.is_dir() else path.parent
    weights = beside(folder, stored["onnx"])
    if ".." in weights.parts or not weights.is_relative_to(folder):
        raise InputError(f"{path}: names weights outside of the package, {stored['onnx']}; put them into it")
    return Described(path, "bioimage", stored, (file, weights))
