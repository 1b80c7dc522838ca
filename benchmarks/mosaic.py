"""A mosaic of held-out images, segmented and scored by the command line: the same IoU as training's validation said.

    python benchmarks/mosaic.py CONFIG.toml --out FOLDER [--part test] [--side 8192]

CONFIG.toml is of a finished training. Its images of a part are laid side by side, again and again, each with what its
mirror shows as far as the network sees around it, on the network's phase, and void in the truth there; so the network
meets in the mosaic what it met in the images, and each image is laid equally often. Then, as a user would:

    tilekit segment mosaic.zarr MODEL mosaic.zarr --level 0 --objects
    tilekit evaluate mosaic.zarr/labels/classes truth.npy
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from flows.training.run import prepare
from flows.training.scoring import predict_samples, score_stores
from models import load
from tilekit import ingest
from tilekit.predictor import VOID


def tilekit(*arguments: Any) -> dict[str, Any]:
    """What a command prints as JSON."""
    command = [str(Path(sys.executable).with_name("tilekit")), *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def lay(samples: Any, predictor: Any, side: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Pixels (c, y, x), truth (y, x), and how often each image is in them."""
    stride = predictor.stride[0]
    gap = -(-max(*predictor.halo.before, *predictor.halo.after) // stride) * stride
    cell = max(-(-n // stride) * stride for s in samples for n in s.box.shape) + 2 * gap
    n = side // cell
    times = n * n // len(samples)
    if not times:
        raise SystemExit(f"{len(samples)} images of up to {cell - 2 * gap} pixels do not fit {side}; give more --side")
    first = samples[0].read(samples[0].box)
    pixels = np.zeros((len(first), side, side), first.dtype)
    truth = np.full((side, side), VOID, np.uint8)
    for number in range(times * len(samples)):
        sample = samples[number % len(samples)]
        y, x = (cell * i + gap for i in divmod(number, n))
        height, width = sample.box.shape
        around = sample.box.grow((gap, gap), (gap, gap))
        pixels[:, y - gap : y + height + gap, x - gap : x + width + gap] = sample.read(around)
        truth[y : y + height, x : x + width] = sample.truth(sample.box)
    return pixels, truth, times


def main() -> None:
    """Make it, segment it, and print both scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", default="test", choices=["validation", "test"])
    parser.add_argument("--side", type=int, default=8192)
    arguments = parser.parse_args()
    prepared = prepare(arguments.config)
    model, samples = prepared.folder / "model.safetensors", prepared.survey.samples[arguments.part]
    alone = score_stores(
        predict_samples(model, samples, arguments.out / "alone", prepared.scoring), samples, prepared.scoring,
        prepared.n_classes,
    )  # fmt: skip
    pixels, truth, times = lay(samples, load(model), arguments.side)
    out = arguments.out / "mosaic.zarr"
    ingest(pixels if len(pixels) > 1 else pixels[0], out, overwrite=True)
    np.save(arguments.out / "truth.npy", truth)
    started = time.perf_counter()
    run = tilekit("segment", out, model, out, "--level", "0", "--objects", "--overwrite")
    seconds = time.perf_counter() - started
    found = tilekit("evaluate", out / "labels/classes", arguments.out / "truth.npy")
    print(
        json.dumps(
            {
                "mosaic": list(truth.shape),
                "images": len(samples),
                "times": times,
                "iou_of_images": alone.pooled["iou"],
                "iou_of_mosaic": found["iou"],
                "same": found["iou"] == alone.pooled["iou"],
                "objects": run["objects"],
                "seconds": round(seconds, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
