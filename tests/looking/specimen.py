"""A small store in which every quarter shows something else, and the server that shows it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tilekit
from tests.faults.harness import TILEKIT, environment
from tests.oracles import PlainFilter

SHAPE = (512, 640)
DARK, OBJECT, BRIGHT, NODATA = 20, 110, 200, 0
PIXEL_SIZE = (0.5, 0.5)
CLASS_NAMES = ["nothing", "object", "bright <b>&"]


@dataclass(frozen=True)
class ByValue(PlainFilter):
    """Classes by the value of the pixel alone."""

    stride: tuple[int, int] = (8, 8)
    cells_before: tuple[int, int] = (0, 0)
    cells_after: tuple[int, int] = (0, 0)
    n_classes: int = 3

    @property
    def class_names(self) -> list[str]:
        return CLASS_NAMES

    def predict(self, x: Any, probabilities: bool = False) -> tuple[NDArray[np.uint8], None]:
        return np.digitize(x[:, 0], [60, 160]).astype(np.uint8), None


def picture() -> NDArray[np.uint8]:
    """(y, x): top left bright, top right dark, bottom left a square of nodata in the dark, bottom right two disks."""
    pixels = np.full(SHAPE, DARK, np.uint8)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pixels[: SHAPE[0] // 2, : SHAPE[1] // 2] = BRIGHT
    for middle, radius in (((400, 420), 60), ((420, 570), 40)):
        pixels[(y - middle[0]) ** 2 + (x - middle[1]) ** 2 <= radius**2] = OBJECT
    pixels[350:450, 60:160] = NODATA
    return pixels


def classes() -> NDArray[np.uint8]:
    """The class map that `ByValue` makes of it."""
    pixels = picture()
    found = np.digitize(pixels, [60, 160]).astype(np.uint8)
    found[pixels == NODATA] = 255
    return found


def make_store(out: Path, **options: Any) -> Path:
    """Image, class map and objects; two levels."""
    np.save(out.with_suffix(".npy"), picture())
    source = tilekit.open_image(out.with_suffix(".npy"), nodata=NODATA, pixel_size=PIXEL_SIZE)
    tilekit.ingest(source, out, **options)
    tilekit.predict(out, ByValue(), out, tile=128, block=512)
    tilekit.label_objects(out / "labels/classes", out)
    return out


@contextmanager
def served(store: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address that `tilekit view` prints first, and its process; Ctrl-C ends that at the end, in order."""
    command = [*TILEKIT, "view", str(store), "--no-browser", *options]
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a shell's job in the background ignores it
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(5)]
        assert lines[-1] == "Ctrl-C ends it.\n", (lines, process.communicate())
        yield lines[0].split()[-1], process
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=20)
        assert (process.returncode, said, errors) == (0, "ended\n", "")
    finally:
        process.kill()
        process.communicate()
