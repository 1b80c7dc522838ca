"""Where bytes from outside come in, in six groups, each a table of doors: seeds, and a function that reads such bytes.

An input is one byte, which chooses the door of its group, and what comes in there. InputError in one line or an answer
is right; any other exception, a crash, more than 10 s or too much memory is a finding (tests.fuzz.harness).
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tilekit.errors import InputError

MODULES = {
    "zarr": "tests.fuzz.doors_zarr",
    "ngff": "tests.fuzz.doors_ngff",
    "networks": "tests.fuzz.doors_networks",
    "texts": "tests.fuzz.doors_texts",
    "options": "tests.fuzz.doors_options",
    "outputs": "tests.fuzz.doors_outputs",
}
LONGEST_LINE = 3000
"""Characters of a refusal."""


@dataclass(frozen=True)
class Door:
    """One kind of bytes from outside."""

    name: str
    seeds: Callable[[], list[bytes]]
    """Small valid ones."""
    read: Callable[[bytes], object]
    """Raises InputError in one line where they are refused."""


@cache
def doors(group: str) -> tuple[Door, ...]:
    """Those of a group, in the order in which the first byte of an input counts them."""
    found: tuple[Door, ...] = importlib.import_module(MODULES[group]).DOORS
    return found


@cache
def room() -> Path:
    """A folder of this process, gone when it ends; in memory where that can be."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() and "TMPDIR" not in os.environ else None
    folder = Path(tempfile.mkdtemp(prefix="tilekit-fuzz-", dir=memory))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def knock(group: str, data: bytes) -> str:
    """Give an input to its door; what it said. Raises InputError for what is refused as it should be."""
    table = doors(group)
    door = table[data[0] % len(table)] if data else table[0]
    try:
        return f"{door.name}: {door.read(data[1:])!s:.200}"
    except InputError as error:
        said = str(error)
        bad = not said or "\n" in said or "MemoryError" in said or "nable to allocate" in said
        if bad or len(said) > LONGEST_LINE:
            raise AssertionError(f"{door.name}: refused badly: {said[:300]!r}") from None
        raise


def knock_with_file(path: str) -> str:
    """The same with an input in a file whose ending is the group: a target of `tests.fuzz.worker`."""
    return knock(Path(path).suffix.removeprefix("."), Path(path).read_bytes())


def seeds(group: str) -> dict[str, bytes]:
    """Inputs that are read, by door and number."""
    found = {}
    for number, door in enumerate(doors(group)):
        for i, seed in enumerate(door.seeds()):
            found[f"{door.name}-{i}"] = bytes([number]) + seed
    return found
