"""Ways to break a worker, by which the harness shows that it sees them."""

from __future__ import annotations

import ctypes
import time

import numpy as np

from tilekit.errors import InputError


def crashes(path: str) -> str:
    return str(ctypes.string_at(0))


def hangs(path: str) -> str:
    time.sleep(60)
    return path


def takes_memory(path: str) -> str:
    return str(np.ones(9 << 24).sum())


def claims_memory(path: str) -> str:
    return str(np.empty(1 << 40, np.uint8).size)


def raises(path: str) -> str:
    raise KeyError(path)


def refuses(path: str) -> str:
    raise InputError(f"{path}: cannot be read")
