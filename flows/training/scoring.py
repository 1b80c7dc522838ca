"""Scores of a network on annotated images: predicted whole by the code that production runs, and scored by its scores.

Every image becomes a store in a scratch folder (class map, objects, probabilities where they are needed), and is read
back in blocks; counts add over images.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.training.samples import ImageSample
from models import load
from tilekit import label_objects, predict
from tilekit.boundaries import boundary_scores, count_slice, label
from tilekit.box import Box, grid_boxes
from tilekit.jobs.drawing import UNKNOWN
from tilekit.jobs.label import OBJECTS
from tilekit.jobs.predict import CLASSES, PROBABILITIES
from tilekit.object_scores import ObjectCounts, count_objects, object_scores
from tilekit.overlaps import count_overlaps, sum_overlaps
from tilekit.scores import Counts, class_scores, confusion
from tilekit.sources import Source
from tilekit.store import read_region

BLOCK = 2048
"""Side in pixels of what is scored at once."""
NO_OBJECT = (1 << 63) - 1
"""What the truth's ids are where nothing is known."""
Decide = Callable[[NDArray[np.float32]], NDArray[np.uint8]]
"""Probabilities (k, y, x) to classes (y, x)."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """What is scored, and how objects are made of a class map."""

    score: str = "miou"
    """miou, seg, ap or rand_isbi2012: what decides which network is the best."""
    connectivity: int = 4
    min_size: int = 0
    fill_holes: int = 0
    device: str = "auto"

    @property
    def has_objects(self) -> bool:
        return self.score in ("seg", "ap")

    @property
    def has_boundaries(self) -> bool:
        return self.score == "rand_isbi2012"


@dataclass(frozen=True)
class Scored:
    """Scores of some images."""

    score: float
    """Higher is better."""
    pooled: dict[str, Any]
    """The keys of docs/scores.md, of all images together."""
    images: list[dict[str, Any]]
    """One row per image: name, miou, and score where it has one."""


def predict_samples(
    model: Path, samples: Sequence[ImageSample], scratch: Path, scoring: Scoring, *, keep: bool = False
) -> list[Path]:
    """A store per sample in `scratch`, which is emptied first; `keep` adds probabilities (float16)."""
    shutil.rmtree(scratch, ignore_errors=True)
    predictor = load(model, scoring.device)
    stores = []
    for number, sample in enumerate(samples):
        store = scratch / f"{number:05d}.zarr"
        part = tuple(zip(sample.box.start, sample.box.stop, strict=True))
        box = None if sample.box == Box.whole(sample.shape) else part
        kept = "float16" if keep or scoring.has_boundaries else None
        predict(plane_of(sample), predictor, store, channels=sample.image.channels, box=box, probabilities=kept)
        stores.append(store)
    return stores


def plane_of(sample: ImageSample) -> Source:
    """The one plane of the image that the sample is of."""
    source = sample.image.source
    place = dict(zip([axis for axis in source.axes[:-2] if axis != "c"], sample.plane, strict=True))
    return replace(source.reference, t=place.get("t"), z=place.get("z")).open() if place else source


def score_stores(stores: Sequence[Path], samples: Sequence[ImageSample], scoring: Scoring, n_classes: int) -> Scored:
    """Scores of class maps as they are stored."""
    return _score(samples, scoring, n_classes, [_stored(store) for store in stores], stores, is_decided=False)


def _stored(store: Path) -> Callable[[Box], NDArray[np.uint8]]:
    return lambda box: read_region(store / CLASSES / "0", box.slices).astype(np.uint8, copy=False)


def score_decided(
    stores: Sequence[Path], samples: Sequence[ImageSample], scoring: Scoring, n_classes: int, decide: Decide
) -> Scored:
    """Scores of the classes that `decide` makes of the stored probabilities."""

    def of(store: Path) -> Callable[[Box], NDArray[np.uint8]]:
        return lambda box: decide(stored_probabilities(store, box))

    return _score(samples, scoring, n_classes, [of(store) for store in stores], stores, is_decided=True)


def stored_probabilities(store: Path, box: Box) -> NDArray[np.float32]:
    """Probabilities (k, y, x) of a box."""
    found = read_region(store / PROBABILITIES / "0", (slice(None), *box.slices))
    return found.astype(np.float32)


def _score(
    samples: Sequence[ImageSample],
    scoring: Scoring,
    n_classes: int,
    classes: Sequence[Callable[[Box], NDArray[np.uint8]]],
    stores: Sequence[Path],
    *,
    is_decided: bool,
) -> Scored:
    counts = [_confusion(sample, read, n_classes) for sample, read in zip(samples, classes, strict=True)]
    pooled = class_scores(sum(counts[1:], start=counts[0]))
    rows = [{"name": s.name, "miou": class_scores(c)["miou"]} for s, c in zip(samples, counts, strict=True)]
    if scoring.has_objects:
        found = [_objects(*each, scoring) for each in zip(samples, classes, stores, strict=True)]
        pooled |= object_scores(sum(found[1:], start=found[0]))
        for row, one in zip(rows, found, strict=True):
            scores = object_scores(one)
            row |= {"ap": scores["ap"][0], "seg": scores["seg"], "truth_objects": one.truth_objects}
        pooled["ap_by_image"] = _mean([row["ap"] for row in rows])
        value = pooled["ap_by_image"] if scoring.score == "ap" else pooled["seg"]
    elif scoring.has_boundaries:
        if is_decided:  # of one decision there is one Rand error, and no more is asked
            inside = [read(sample.box) > 0 for sample, read in zip(samples, classes, strict=True)]
            rand = sum(map(_rand, samples, inside), start=ObjectCounts())
            pooled["rand_isbi2012"] = object_scores(rand)["rand_isbi2012"]
        else:
            slices = [_slice(sample, store) for sample, store in zip(samples, stores, strict=True)]
            scores = boundary_scores(sum(slices[1:], start=slices[0]))
            pooled |= {name: scores[name] for name in ("rand_isbi2012", "v_rand_thin", "pixel_error")}
        value = 1 - pooled["rand_isbi2012"]
    else:
        value = pooled["miou"]
    return Scored(value, pooled, rows)


def _confusion(sample: ImageSample, classes: Callable[[Box], NDArray[np.uint8]], n_classes: int) -> Counts:
    total: Counts = np.zeros((n_classes, n_classes + 1), np.int64)
    for box in grid_boxes(sample.box, (BLOCK, BLOCK)):
        total += confusion(classes(box), sample.truth(box), n_classes)
    return total


def _objects(
    sample: ImageSample, classes: Callable[[Box], NDArray[np.uint8]], store: Path, scoring: Scoring
) -> ObjectCounts:
    """Overlaps of the objects of a class map with those of the truth, in the box of the sample."""
    place = store.with_suffix(".objects.zarr")
    shutil.rmtree(place, ignore_errors=True)
    label_objects(
        _class_map(classes, sample.box, store.with_suffix(".npy")), place, connectivity=scoring.connectivity,
        min_size=scoring.min_size, fill_holes=scoring.fill_holes,
    )  # fmt: skip
    tables = []
    for box in grid_boxes(sample.box, (BLOCK, BLOCK)):
        found = read_region(place / OBJECTS / "0", box.relative_to(sample.box).slices)
        truth = sample.known.read(box).astype(np.int64)  # as it is given, without the ridge that training takes out
        truth[truth == UNKNOWN] = NO_OBJECT
        tables.append(count_overlaps(found.astype(np.int64), truth))
    return count_objects(sum_overlaps(tables), void=NO_OBJECT)


def _class_map(classes: Callable[[Box], NDArray[np.uint8]], box: Box, path: Path) -> Path:
    """The classes of a box as a file, which no memory holds whole."""
    found = np.lib.format.open_memmap(path, "w+", np.uint8, box.shape)
    for part in grid_boxes(box, (BLOCK, BLOCK)):
        found[part.relative_to(box).slices] = classes(part)
    found.flush()
    return path


def _slice(sample: ImageSample, store: Path) -> NDArray[np.float64]:
    """The sums of one slice whose class 0 is the membrane, of stored probabilities."""
    inside = 1 - stored_probabilities(store, sample.box)[0]
    return count_slice(inside.astype(np.float64), sample.truth(sample.box) > 0, is_warped=False)


def _rand(sample: ImageSample, inside: NDArray[np.bool]) -> ObjectCounts:
    """The sums of one slice that was decided."""
    maps = inside, sample.truth(sample.box) > 0
    return count_objects(count_overlaps(*(label(each.astype(np.uint8)) for each in maps)))


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if v == v]
    return sum(known) / len(known) if known else float("nan")
