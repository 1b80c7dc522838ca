"""Positioned reads, whole or not at all, and which of their failures say nothing of the file."""

from __future__ import annotations

import os
from errno import EINVAL


def read_exactly(file: int, n_bytes: int, offset: int) -> bytes:
    """Exactly these bytes of an open file; EOFError where it ends before.

    A read may return less than there is (network folders, signals), so the rest is asked for until nothing comes.
    """
    data = os.pread(file, n_bytes, offset)
    while len(data) < n_bytes:
        more = os.pread(file, n_bytes - len(data), offset + len(data))
        if not more:
            raise EOFError(f"{len(data)} of {n_bytes} bytes at byte {offset}")
        data += more
    return data


def of_the_disk(error: BaseException, path: object) -> OSError | None:
    """What the operating system (or a server) says of a read, naming the file: worth another try.

    None for what is wrong with the bytes themselves, which no other try mends; libraries say that by errors without a
    number, and the system itself where a file names a place that none can have (EINVAL).
    """
    if not isinstance(error, OSError) or error.errno in (None, EINVAL):
        return None
    return OSError(error.errno, error.strerror, str(path))
