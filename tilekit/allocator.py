"""Keep memory once allocated: else glibc maps and unmaps every activation, and half the CPU time is page faults."""

from __future__ import annotations

import ctypes
import functools
import platform

ALLOCATOR_ENV = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1099511627776",
    "MALLOC_ARENA_MAX": "1",
}
"""For processes that are yet to start (mallopt(3)); Dask's own default, to trim all the time, is the worst case."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
HEAP_FACTOR = 2.4
"""Heap over the tensors alive at once: aligned allocations seldom fit the holes that their like have left, so the heap
grows to 1.4 to 2.3 times them over tiles of mixed sizes (measured, glibc 2.36; tests/models/test_memory.py)."""
SCRATCH_BYTES = 32 << 20
"""Kernels' own scratch space, and code paged in by the first pass."""


def heap_bytes(activations: int) -> int:
    """What a process takes for this many bytes of activations, at worst."""
    return int(activations * HEAP_FACTOR) + SCRATCH_BYTES


@functools.cache
def keep_memory() -> bool:
    """Have the running process keep freed activations for the next tile; False where the C library is not glibc.

    1.7 times less CPU time at a core of 1024. In worker threads it takes the one arena as well.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, -1), mallopt(_M_ARENA_MAX, 1)])
