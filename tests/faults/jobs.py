"""The jobs that faults are put into: small enough to run in a second, each as its command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from tests.faults.harness import contents, make_image, make_model

SIDE, BLOCK, TILE = 160, 64, 32
OPTIONS = ["--block", str(BLOCK), "--json"]
TOML = """
[data]
images = "{folder}/images/*.tif"
truth = "{folder}/truth/*.tif"
kind = "classes"
class_names = ["ground", "disk"]
[split]
by = "order"
validation = ["4"]
test = ["5"]
[network]
base = 2
depth = 1
[patches]
side = 16
batch = 1
[augment]
elastic = 0.0
[training]
steps = 6
device = "cpu"
[validation]
every = 2
overlays = 0
[output]
folder = "{out}"
"""
VOLATILE = ("seconds", "redone", "output")


@dataclass(frozen=True)
class Job:
    """A command and what it leaves."""

    name: str
    source: str
    """The file below the inputs that it reads."""
    arguments: Callable[[Path, Path], list[str]]
    """(inputs, output) -> the command line."""
    contents: Callable[[Path], dict[str, Any]] = contents
    """What must be the same whatever happened."""
    again: tuple[str, ...] = ()
    """What is added to continue."""
    threads: bool = True
    """Whether it takes a scheduler."""


def make_inputs(folder: Path) -> None:
    """All that the jobs read."""
    from tests.models.disks import disks

    folder.mkdir(parents=True, exist_ok=True)
    make_image(folder / "image.tif", SIDE)
    make_model(folder / "model.safetensors", base=2)
    rng = np.random.default_rng(5)
    for name, shares in (("labels", (0.6, 0.2, 0.1, 0.1)), ("truth", (0.7, 0.1, 0.1, 0.1))):
        pixels = np.kron(rng.choice(4, (SIDE // 8, SIDE // 8), p=shares), np.ones((8, 8), int)).astype(np.uint8)
        tifffile.imwrite(folder / f"{name}.tif", pixels, tile=(64, 64))
    for part in ("images", "truth"):
        (folder / part).mkdir(exist_ok=True)
    for k in range(1, 6):
        sample = disks(k, side=48, n=3)
        tifffile.imwrite(folder / f"images/f{k}.tif", sample.pixels[0])
        tifffile.imwrite(folder / f"truth/f{k}.tif", sample.classes)


def _train(inputs: Path, out: Path) -> list[str]:
    out.parent.mkdir(parents=True, exist_ok=True)
    config = out.with_suffix(".toml")
    config.write_text(TOML.format(folder=inputs, out=out))
    return ["train", str(config), "--json"]


def _scores(out: Path) -> dict[str, Any]:
    found = contents(out)
    scores = json.loads(found.pop("scores.json"))
    return {**found, "scores": {k: v for k, v in scores.items() if k not in VOLATILE}}


def _weights(out: Path) -> dict[str, Any]:
    """The models, byte for byte; curves and card tell of seconds."""
    return {p.name: p.read_bytes() for p in out.iterdir() if p.name in ("model.safetensors", "last.safetensors")}


JOBS = {
    job.name: job
    for job in (
        Job(
            "segment",
            "image.tif",
            lambda i, o: ["segment", f"{i}/image.tif", f"{i}/model.safetensors", str(o), "--tile", str(TILE),
                          "--nodata", "0", "--device", "cpu", *OPTIONS],
        ),
        Job("ingest", "image.tif", lambda i, o: ["ingest", f"{i}/image.tif", str(o), *OPTIONS]),
        Job("label", "labels.tif", lambda i, o: ["label", f"{i}/labels.tif", str(o), "--fill-holes", "20", *OPTIONS]),
        Job("weigh", "labels.tif", lambda i, o: ["weigh", f"{i}/labels.tif", str(o), *OPTIONS]),
        Job(
            "evaluate",
            "labels.tif",
            lambda i, o: ["evaluate", f"{i}/labels.tif", f"{i}/truth.tif", "--out", str(o), *OPTIONS],
            _scores,
        ),
        Job("train", "images/f1.tif", _train, _weights, ("--resume",), threads=False),
    )
}  # fmt: skip
