"""Train the demo's network with the flow that trains every network: python -m flows.demo_model

It sees specimens that the demo never shows: seeds 1 to 8 for training, 9 to choose the best and 10 to test; the demo
segments seed 0. What is written into --folder is an example of a training: images, truth, CONFIG.toml, and the model.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

from flows.training.run import Options, train_file
from tilekit import ingest
from tilekit.box import Box
from tilekit.specimen import Specimen

MODEL = Path(__file__).parent / "data" / "specimen.safetensors"
CLASS_NAMES = ["background", "cell"]
TRAINING_SEEDS, VALIDATION_SEED, TEST_SEED = range(1, 9), 9, 10
SIDE = 1024
"""Of a specimen, in pixels."""
STEPS = 2500
CONFIG = f"""# The network of `tilekit demo`: small, for grey images of crowded cells
[data]
images = "pairs.csv"
kind = "classes"
class_names = {json.dumps(CLASS_NAMES)}
[split]
by = "column"
[normalization]
kind = "range"
[weights]
kind = "none"
[network]
base = 8
depth = 3
dropout = 0.0
[patches]
side = 128
batch = 4
[augment]
rotate = 0.0
scale = 0.0
elastic = 0.0
[training]
steps = {{steps}}
learning_rate = 0.004
[validation]
every = {{every}}
tune = false
[output]
folder = "model"
"""


def main() -> None:
    """Train, put the model in its place, and print its scores."""
    parser = argparse.ArgumentParser(prog="python -m flows.demo_model", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="batches of 4 to train on")
    parser.add_argument("--folder", type=Path, default=Path("demo-model"), help="where to train")
    parser.add_argument("--out", type=Path, default=MODEL, help="where to write the checkpoint")
    arguments = parser.parse_args()
    result = train_file(write_example(arguments.folder, arguments.steps), Options(overwrite=True))
    shutil.copyfile(result["model"], arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes, {result['seconds']:.0f} s")
    print(f"on seed {TEST_SEED}: {result['test']}")


def write_example(folder: Path, steps: int = STEPS) -> Path:
    """Write specimens with their truth, the table that pairs them, and the configuration; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["image,truth,part"]
    for seed in (*TRAINING_SEEDS, VALIDATION_SEED, TEST_SEED):
        specimen, image, truth = Specimen(SIDE, seed), f"image-{seed}.zarr", f"truth-{seed}.npy"
        ingest(specimen, folder / image, overwrite=True)
        np.save(folder / truth, specimen.truth(Box.whole(specimen.shape)))
        lines.append(f"{image},{truth},{ {VALIDATION_SEED: 'validation', TEST_SEED: 'test'}.get(seed, 'train') }")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    config = folder / "CONFIG.toml"
    config.write_text(CONFIG.format(steps=steps, every=max(1, steps // 5)))
    return config


if __name__ == "__main__":
    main()
