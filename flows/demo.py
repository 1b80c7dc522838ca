"""The demo: all of it on a specimen with known truth, a function of coordinates, so that no file is needed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.demo_model import CLASS_NAMES, MODEL
from flows.overlay import side_by_side
from flows.params import SegmentParameters, checked
from flows.work import segment_file
from models import load
from tilekit import verify
from tilekit.box import Box, grid_boxes
from tilekit.engine import Progress, no_progress
from tilekit.errors import InputError
from tilekit.jobs.predict import CLASSES
from tilekit.scores import Counts, confusion, iou, mean_iou, pixel_accuracy
from tilekit.specimen import Specimen
from tilekit.store import read_region

SEED = 0
"""Of the demo's specimen: none of those that its network was trained on (flows.demo_model)."""
RUN_BLOCK, N_PROOFS = 1024, 12
"""Side in pixels of a block, and boxes to verify: each is predicted in whole tiles, which grow with the block."""
BLOCK = 2048
"""Side in pixels of what is scored at once."""
VIEW = 256
"""Side in pixels of what is drawn; it divides BLOCK."""
ENLARGED = 2


def run_demo(
    folder: str | Path, size: int, workers: int | None = None, progress: Progress = no_progress
) -> dict[str, Any]:
    """Segment, verify and score a specimen of size x size pixels, and draw the part of it with the most mistakes.

    Writes FOLDER/specimen.zarr, overlay.png (image | classes | mistakes) and the network, cells.safetensors, over those
    of an earlier demo.
    """
    if size < 64:
        raise InputError(f"--size {size}: must be at least 64 pixels")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder}: is no folder; choose another") from None
    specimen, out, picture = Specimen(size, SEED), folder / "specimen.zarr", folder / "overlay.png"
    parameters = checked(SegmentParameters, workers=workers, block=RUN_BLOCK, overwrite=True)
    run = segment_file(specimen, str(MODEL), str(out), parameters, progress)
    progress("verify", 0, N_PROOFS)
    proof = verify(out, load(MODEL), boxes=N_PROOFS)
    progress("verify", N_PROOFS, N_PROOFS)
    shutil.copyfile(MODEL, folder / "cells.safetensors")
    counts, worst = score(specimen, out, progress)
    draw(specimen, out, worst, picture)
    return {
        "size": [size, size],
        "megapixels_per_second": run["megapixels_per_second"],
        "seconds": run["seconds"],
        "iou": {name: round(float(value), 4) for name, value in zip(CLASS_NAMES, iou(counts), strict=True)},
        "miou": round(mean_iou(counts), 4),
        "pixel_accuracy": round(pixel_accuracy(counts), 4),
        "verify": proof,
        "output": str(out),
        "picture": str(picture),
        "model": str(folder / "cells.safetensors"),
    }


def score(specimen: Specimen, out: Path, progress: Progress = no_progress) -> tuple[Counts, Box]:
    """Confusion of the stored class map and the truth, in blocks, and the box of VIEW pixels with the most mistakes.

    A specimen smaller than VIEW is that box.
    """
    blocks = list(grid_boxes(Box.whole(specimen.shape), (BLOCK, BLOCK)))
    view = (min(VIEW, specimen.shape[0]), min(VIEW, specimen.shape[1]))
    total, worst, most = np.zeros((2, 3), np.int64), Box((0, 0), view), 0
    for done, block in enumerate(blocks, start=1):
        found, truth = stored_classes(out, block), specimen.truth(block)
        total += confusion(found, truth, 2)
        wrong = found != truth
        for box in grid_boxes(block, view):
            n_wrong = int(np.count_nonzero(wrong[box.relative_to(block).slices]))
            if box.shape == view and n_wrong > most:
                worst, most = box, n_wrong
        progress("score", done, len(blocks))
    return total, worst


def stored_classes(out: Path, box: Box) -> NDArray[np.uint8]:
    """Class ids of a box of an output at full resolution, uint8 (y, x)."""
    return read_region(out / CLASSES / "0", box.slices).astype(np.uint8, copy=False)


def draw(specimen: Specimen, out: Path, box: Box, path: Path) -> None:
    """Write image | classes | mistakes of a box, each pixel ENLARGED times as wide and high."""
    parts = (specimen.read(box), stored_classes(out, box), specimen.truth(box))
    image, classes, truth = (part.repeat(ENLARGED, 0).repeat(ENLARGED, 1) for part in parts)
    side_by_side(image, classes, truth, path)
