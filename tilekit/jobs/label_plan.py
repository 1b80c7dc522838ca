"""What labeling takes of memory, told before it runs."""

from __future__ import annotations

import math

from tilekit.errors import InputError
from tilekit.plan import GIB, PROCESS_BYTES
from tilekit.run import THREADS_PER_WORKER, available_cores, available_memory
from tilekit.sources import Source

OBJECT_BYTES = 40
"""Of runs and objects, per pixel of a block: noise of two classes by sides takes 37, cells 8 (measured)."""
CHANNEL_BYTES = 8
"""Of a channel's values, per pixel, and of what they are decoded from."""
SPLIT_BYTES = 150
"""Of a watershed, per pixel of the window in which the objects of a block are whole (measured 130)."""


def label_task_bytes(classes: Source, block: int, split: int = 0) -> int:
    """Bytes that one task holds at most: its classes, as read and as filled, its ids on all levels, and the above."""
    *_, height, width = classes.shape
    pixels = min(block, height) * min(block, width)
    window = min(block + 2 * split, height) * min(block + 2 * split, width) if split else 0
    id_bytes = 4 if math.prod(classes.shape) < 2**32 else 8
    per_pixel = 2 * classes.dtype.itemsize + OBJECT_BYTES + CHANNEL_BYTES
    return pixels * per_pixel + pixels * id_bytes * 4 // 3 + window * SPLIT_BYTES


def label_workers(task_bytes: int, asked: int | None) -> int:
    """Worker processes of this machine, 0 for none: as many as cores and free memory allow where not asked for.

    InputError where those asked for do not fit.
    """
    memory, per_worker = available_memory() * 4 // 5, PROCESS_BYTES + THREADS_PER_WORKER * task_bytes
    if asked is None:
        most = min(available_cores(), memory // per_worker)
        asked = most if most > 1 else 0
    need = asked * per_worker or task_bytes
    if need > memory:
        raise InputError(
            f"labeling with {asked} workers needs {need / GIB:.2f} GiB but {memory / GIB:.2f} are free; "
            "use fewer --workers, or a smaller --block or --split"
        )
    return asked
