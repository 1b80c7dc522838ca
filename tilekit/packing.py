"""Named arrays as bytes, for the files between the stages of a run.

Each is preceded by nothing but padding, and integers take the fewest bytes that hold them: a page of a new file costs
more time than to make it smaller.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.place import RemotePath

Array = NDArray[Any]
ALIGNMENT = 8
"""Bytes to a multiple of which every array begins."""


def pack(arrays: Mapping[str, Array]) -> bytes:
    """Arrays of numbers behind a header of their names, dtypes, dtypes as they lie, and shapes.

    >>> unpack(pack({"a": np.array([1, 255]), "b": np.zeros((0, 2))}))
    {'a': array([  1, 255]), 'b': array([], shape=(0, 2), dtype=float64)}
    """
    small = {name: _narrowed(np.asarray(a)) for name, a in arrays.items()}
    facts = {name: [arrays[name].dtype.str, a.dtype.str, a.shape] for name, a in small.items()}
    header = json.dumps(facts).encode()
    parts = [len(header).to_bytes(ALIGNMENT, "little"), header]
    for array in small.values():
        parts += [bytes(-len(parts[-1]) % ALIGNMENT), array.tobytes()]
    return b"".join(parts)


def unpack(data: bytes | bytearray | Array) -> dict[str, Array]:
    """What `pack` was given; views of the data where they lie in it as they were."""
    data = np.frombuffer(data, np.uint8)
    at = ALIGNMENT + int.from_bytes(data[:ALIGNMENT].tobytes(), "little")
    arrays = {}
    for name, (dtype, stored, shape) in json.loads(data[ALIGNMENT:at].tobytes()).items():
        start = at + -at % ALIGNMENT
        at = start + math.prod(shape) * np.dtype(stored).itemsize
        arrays[name] = data[start:at].view(stored).reshape(shape).astype(dtype, copy=False)
    return arrays


def read_arrays(path: Path) -> dict[str, Array]:
    """What `pack` was given, from a file; the arrays may be written to."""
    if isinstance(path, RemotePath):
        return unpack(bytearray(path.read_bytes()))
    return unpack(np.fromfile(path, np.uint8))


def _narrowed(array: Array) -> Array:
    if array.dtype.kind not in "iu" or array.min(initial=0) < 0:
        return array
    return array.astype(np.min_scalar_type(array.max(initial=0)), copy=False)
