"""A process that opens one file after the other, so that what breaks it breaks no test.

    python -m tests.fuzz.worker MODULE:FUNCTION

Paths come in line by line; for each, a line of JSON goes out: a verdict, a text and the peak of resident memory.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import resource
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from tilekit import open_image
from tilekit.errors import InputError

ADDRESS_SPACE = 3 << 30
"""Bytes that a file may claim beyond what the process has after its imports; far above what passes, far below harm."""
BOX = 64


def open_and_read(path: str) -> str:
    """Open an image and its coarsest level, and read their first and last pixels; returns what it is."""
    source = open_image(path)
    for level in {0, len(source.levels) - 1}:
        image = source if level == 0 else open_image(path, level=level)
        for box in corners(image.shape):
            image.read(box)
    return f"{source.axes} {source.shape} {source.dtype}"


def corners(shape: Sequence[int]) -> list[list[slice]]:
    """The first and the last box of an image: at most 3 positions of a leading axis, 64 pixels a side."""
    sides = [min(n, BOX if i >= len(shape) - 2 else 3) for i, n in enumerate(shape)]
    return [
        [slice(0, side) for side in sides],
        [slice(n - side, n) for n, side in zip(shape, sides, strict=True)],
    ]


def answer(target: Callable[[str], str], path: str) -> dict[str, object]:
    """The verdict on one file: opened, refused, or the error that must not be."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    try:
        verdict, text = "opened", target(path)
    except InputError as error:
        verdict, text = "refused", str(error)
    except BaseException as error:
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        where = "" if last is None else f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}"
        verdict, text = "error", f"{where}: {error!r}"
    return {"verdict": verdict, "text": text, "peak": peak_memory()}


def peak_memory() -> int:
    """Largest resident memory in bytes since the peak was cleared."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def address_space() -> int:
    """Bytes that this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main(name: str) -> None:
    module, function = name.split(":")
    target = getattr(importlib.import_module(module), function)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        path = line.strip()
        if path == "limit":  # after the first files have made the process import all that it needs
            limit = address_space() + ADDRESS_SPACE
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            print("{}", file=answers, flush=True)
            continue
        print(json.dumps(answer(target, path)), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
