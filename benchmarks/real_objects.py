"""What a trained network does to the objects of held-out images: SEG, AP, and objects merged or split by mistake.

    python benchmarks/real_objects.py CONFIG.toml [--part test] [--truth PATTERN]

CONFIG.toml is of a finished training on object ids (benchmarks/real_training.py). PATTERN replaces the truth, {stem}
being the image's name without its first letter: DIC-HeLa's gold truth is in FOLDER/01_GT/SEG/man_seg{stem}.tif, of
nine frames, not every cell of which is annotated; images without a file are left out. Beside the network stand the
truth itself after `tilekit label` (with its ridge, and without), and, for sequences, the labels of the nearest
training frame laid over each.

An object of the truth is merged where another shares the predicted object that covers more than half of it; a
predicted object is split off where another shares the object of the truth that covers more than half of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.training.run import prepare
from flows.training.scoring import predict_samples
from tilekit import label_objects, open_image
from tilekit.box import Box
from tilekit.object_scores import count_objects, object_scores
from tilekit.overlaps import Overlaps, count_overlaps
from tilekit.store import read_region

Ids = NDArray[np.int64]


def crowded(table: Overlaps) -> int:
    """Objects of the truth too many in predicted objects that hold more than half of several."""
    values, rows = np.unique(table.truth, return_inverse=True)
    areas = np.zeros(len(values), np.int64)
    np.add.at(areas, rows, table.counts)
    holds = (table.prediction > 0) & (table.truth > 0) & (2 * table.counts > areas[rows])
    _, n = np.unique(table.prediction[holds], return_counts=True)
    return int((n - 1).sum())


def scores(found: list[Ids], truths: list[Ids]) -> dict[str, Any]:
    """Of several images together; AP at an IoU of 0.5 pooled and as the mean of images."""
    tables = [count_overlaps(f, t) for f, t in zip(found, truths, strict=True)]
    counts = [count_objects(table) for table in tables]
    pooled = object_scores(sum(counts[1:], start=counts[0]))
    swapped = [Overlaps(t.truth, t.prediction, t.counts) for t in tables]
    return {
        "seg": round(pooled["seg"], 4),
        "ap": round(pooled["ap"][0], 4),
        "ap_by_image": round(float(np.nanmean([object_scores(c)["ap"][0] for c in counts])), 4),
        "objects": pooled["truth_objects"],
        "merged": sum(map(crowded, tables)),
        "split": sum(map(crowded, swapped)),
    }


def main() -> None:
    """Print one line of JSON for each kind of prediction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--part", default="test", choices=["validation", "test"])
    parser.add_argument("--truth")
    arguments = parser.parse_args()
    prepared = prepare(arguments.config)
    scoring, samples = prepared.scoring, list(prepared.survey.samples[arguments.part])
    truths = [sample.known.read(sample.box).astype(np.int64) for sample in samples]
    if arguments.truth:
        paths = [Path(arguments.truth.format(stem=sample.name[1:])) for sample in samples]
        kept = [i for i, path in enumerate(paths) if path.exists()]
        samples, truths = [samples[i] for i in kept], [_read(paths[i]) for i in kept]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)

        def objects(classes: NDArray[np.uint8]) -> Ids:
            label_objects(
                classes, scratch / "objects.zarr", connectivity=scoring.connectivity, min_size=scoring.min_size,
                fill_holes=scoring.fill_holes, overwrite=True,
            )  # fmt: skip
            return _whole(scratch / "objects.zarr/labels/objects/0", classes.shape)

        stores = predict_samples(prepared.folder / "model.safetensors", samples, scratch / "stores", scoring)
        classes = [_whole(s / "labels/classes/0", t.shape) for s, t in zip(stores, truths, strict=True)]
        _say("network", [objects(c.astype(np.uint8)) for c in classes], truths)
        if not arguments.truth:
            _say("truth with its ridge", [objects(s.truth(s.box)) for s in samples], truths)
            _say("truth without", [objects((t > 0).astype(np.uint8)) for t in truths], truths)
        if prepared.config.split.by == "order":
            _say("nearest training frame", _copied(prepared.survey.samples["train"], samples), truths)


def _copied(train: Any, samples: Any) -> list[Ids]:
    """The labels of the training frame whose number is nearest to each sample's."""
    number: Callable[[Any], int] = lambda sample: int(sample.name[1:])  # noqa: E731 - a name for three uses
    nearest = [min(train, key=lambda t: abs(number(t) - number(sample))) for sample in samples]
    return [sample.known.read(sample.box).astype(np.int64) for sample in nearest]


def _say(what: str, found: list[Ids], truths: list[Ids]) -> None:
    print(json.dumps({"prediction": what, "images": len(truths), **scores(found, truths)}), flush=True)


def _whole(path: Path, shape: tuple[int, ...]) -> Ids:
    return read_region(path, Box.whole((shape[0], shape[1])).slices).astype(np.int64)


def _read(path: Path) -> Ids:
    source = open_image(path, as_labels=True)
    return source.read(Box.whole(source.shape)).astype(np.int64)


if __name__ == "__main__":
    main()
