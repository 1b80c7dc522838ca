"""The Python face of the jobs; serially in this process unless workers or a scheduler are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilekit.box import Box
from tilekit.engine import Progress, no_progress
from tilekit.evaluation import Rules
from tilekit.jobs.deciding import decide_again as decide_store
from tilekit.jobs.evaluate import opened
from tilekit.jobs.ingest import ingest_image
from tilekit.jobs.label import label_image
from tilekit.jobs.label_plan import label_task_bytes, label_workers
from tilekit.jobs.output import as_source
from tilekit.jobs.pairs import list_pairs
from tilekit.jobs.scoring import evaluate_pairs
from tilekit.jobs.segment import Options, prepare, run_stages
from tilekit.jobs.weigh import WeighOptions, weigh_labels
from tilekit.place import as_path
from tilekit.predictor import Predictor
from tilekit.run import open_runner
from tilekit.score_files import write_scores
from tilekit.sources import open_image
from tilekit.weights import SIGMA, W0


def ingest(
    image: Any,
    out: str | Path,
    *,
    block: int | None = None,
    chunk: int | None = None,
    ngff: str = "0.5",
    shards: bool | None = None,
    level: int = 0,
    nodata: float | None = None,
    pixel_size: tuple[float, float] | None = None,
    workers: int = 0,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Chunk an image (path, array or source) into OME-Zarr at `out`, with its pyramid and statistics.

    Returns blocks, redone, seconds, output. Raises InputError for bad input, RunError for blocks that failed.
    """
    source = as_source(image, level=level, nodata=nodata, pixel_size=pixel_size)
    with open_runner(workers, scheduler) as runner:
        return ingest_image(
            source,
            as_path(out),
            runner,
            block=block,
            chunk=chunk,
            ngff=ngff,
            shards=shards,
            overwrite=overwrite,
            progress=progress,
        )


def predict(
    image: Any,
    predictor: Predictor,
    out: str | Path,
    *,
    tile: int | None = None,
    block: int | None = None,
    channels: Sequence[int | str] | None = None,
    level: int | None = None,
    pixel_size: tuple[float, float] | float | None = None,
    nodata: float | None = None,
    box: Any = None,
    mask: str | None = None,
    probabilities: str | None = None,
    confidence: str | None = None,
    blend: bool = False,
    average: str | None = None,
    memory: int | None = None,
    workers: int = 0,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Segment an image (path, array or source) into `out`: its pyramid and labels/classes, exact (law 1).

    Where image and out are one store, labels are added to it. `channels`: of the image, by number or name, in the
    network's order; by default those that the network names, or all, or all but alpha. `level` takes that level of the
    image as it is; by default the network sees the image at the pixel size that it was trained at, where it knows one,
    and the classes are mapped back onto the image. `pixel_size` (micrometres, one number or (y, x)) and `nodata`
    replace what the file says. `box` ((y0, y1), (x0, x1)): only the blocks that it touches are written, and what an
    earlier run made of `out` is kept. `mask`: an image of the image's size or coarser, nonzero where to predict; a
    GeoJSON of polygons; or "auto", tissue or valid area. `probabilities` and `confidence` (highest probability and
    entropy) are stored too, as uint8 or float16. `blend`: take a network that cannot be exact,
    in windows that are blended (tilekit.blend). `average` "flips": the mean over the 8 rotations and flips.

    Returns blocks, written, redone, seconds, megapixels_per_second, output. Raises InputError for bad input, RunError
    for blocks that failed.
    """
    options = Options(
        channels=None if channels is None else tuple(channels),
        level=level,
        pixel_size=(float(pixel_size),) * 2 if isinstance(pixel_size, (int, float)) else pixel_size,
        nodata=nodata,
        box=None if box is None else Box.of(box, (0, 0)),
        mask=mask,
        probabilities=probabilities,
        confidence=confidence,
        blend=blend,
        average=average,
        tile=tile,
        block=block,
        memory=memory,
        workers=workers,
    )
    job = prepare(image, predictor, out, options, overwrite=overwrite)
    with open_runner(workers, scheduler) as runner:
        return run_stages(job, runner, progress, overwrite=overwrite)


def decide_again(
    out: str | Path,
    thresholds: Sequence[float],
    *,
    name: str = "decided",
    block: int | None = None,
    workers: int = 0,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Decide the classes of a store by other thresholds, of the probabilities in it, into out/labels/NAME.

    With a threshold per class, a pixel is of the class of the largest p / t; with one less, of the likeliest of the
    classes from 1 on whose p exceeds theirs, else background. Void stays void. labels/classes stays as it is. Returns
    classes (pixels of each), blocks, redone, seconds, output. Raises InputError for bad input, RunError for blocks
    that failed.
    """
    with open_runner(workers, scheduler) as runner:
        return decide_store(
            as_path(out), tuple(thresholds), name, runner, block=block, overwrite=overwrite, progress=progress
        )


def label_objects(
    classes: Any,
    out: str | Path,
    *,
    connectivity: int = 8,
    block: int = 4096,
    min_size: int = 0,
    fill_holes: int = 0,
    split: int = 0,
    polygons: str | None = None,
    workers: int = 0,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Number the objects of a class map (path, integer array (..., y, x) or source) into `out`.

    Writes labels/objects, ids dense from 1 in row-major order of each object's first pixel whatever the block, and
    tables/objects.parquet. 0 and 255 (void) are background, every other class by itself. Objects of fewer than
    `min_size` pixels are left out; background of fewer than `fill_holes` pixels that one class alone surrounds is
    filled first. `split` splits touching objects of up to so many pixels in height and width by a watershed on the
    distance to their border; larger ones stay whole and are counted. `polygons` (geojson, geoparquet or
    qupath) writes their outlines beside the table. Returns objects, unsplit, blocks, task_bytes, redone, seconds,
    output. Raises InputError for bad input, RunError for blocks that failed.
    """
    source = as_source(_planes(classes), as_labels=True)
    if scheduler is None:
        label_workers(label_task_bytes(source, block, split), workers)
    with open_runner(workers, scheduler) as runner:
        return label_image(
            source,
            as_path(out),
            runner,
            connectivity=connectivity,
            block=block,
            min_size=min_size,
            fill_holes=fill_holes,
            split=split,
            polygons=polygons,
            overwrite=overwrite,
            progress=progress,
        )


def weight_map(
    ids: Any,
    out: str | Path,
    *,
    w0: float = W0,
    sigma: float = SIGMA,
    ridge: bool = True,
    block: int = 4096,
    kind: str = "ids",
    void: int | None = None,
    class_weights: tuple[float, float] | None = None,
    dtype: str = "float32",
    workers: int = 0,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write the U-Net weight map of object ids (path, integer array (..., y, x) or source) to out/0, /1, ...

    w = w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2)): w_c the weight of the pixel's class, d1 and d2 a background pixel's
    distances to the two nearest objects. `ridge`: first a pixel with another object's id in its 3 x 3 becomes
    background. `class_weights` are those of background and object, of a whole training set; None balances them here.
    `kind` classes: a class map, whose objects are labeled first. Pixels of value `void`, and void (255) ones of a class
    map, weigh 0. `dtype` is float32 or float16. Definitions: docs/weights.md. Returns class_weights, halo, tolerance,
    blocks, redone, seconds, output. Raises InputError for bad input, RunError for blocks that failed.
    """
    options = WeighOptions(w0, sigma, ridge, class_weights, dtype)
    with open_runner(workers, scheduler) as runner:
        return weigh_labels(
            _planes(ids),
            as_path(out),
            runner,
            options,
            kind=kind,
            void=void,
            block=block,
            overwrite=overwrite,
            progress=progress,
        )


def _planes(labels: Any) -> Any:
    """An array (..., y, x) of labels as a source whose leading axes are t and z; all else as it is."""
    return open_image(labels, axes="tzyx"[-labels.ndim :]) if isinstance(labels, np.ndarray) else labels


def evaluate(
    prediction: Any,
    truth: Any,
    *,
    kind: str = "classes",
    void: int | str | None = "auto",
    other: Any = None,
    mapping: dict[int, int | None] | None = None,
    block: int | None = None,
    out: str | Path | None = None,
    workers: int = 0,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Score a prediction against the truth (paths, arrays, sources, or folders of images paired by name).

    `kind` is classes, ids or boundaries; `void` a number of the truth that counts nowhere, None for none, "auto" for
    255 among classes and none otherwise; `mapping` what the truth's values mean ({255: 1, -1: None}, None is void).
    With `other`, a second prediction, both are scored and compared. `out` is a folder for scores.json, scores.csv, the
    layer of disagreement, and what a stopped run continues from. Keys and definitions: docs/scores.md; a score without
    a value is NaN. Raises InputError for bad input, RunError for blocks that failed.
    """
    predictions = [prediction] if other is None else [prediction, other]
    rules = Rules.of(kind, mapping, void)
    pairs = list_pairs(predictions, truth, kind)
    place = None if out is None else as_path(out)
    with open_runner(workers, scheduler) as runner, opened(place, overwrite=overwrite) as folder:
        result = evaluate_pairs(
            pairs, rules, runner, out=folder, block=block, is_drawn=place is not None, progress=progress
        )
        if place is not None:
            write_scores(place, result)
    return result
