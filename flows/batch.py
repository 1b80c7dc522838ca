"""Segment several images as one run on one cluster, and say in one table what became of each."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.images import BatchError, Item, list_images
from flows.params import SegmentParameters
from flows.work import Show, Step, plan_image, segment_job, workers_asked
from models import load
from tilekit.engine import Progress, no_progress
from tilekit.errors import InputError
from tilekit.ledger import write_atomic
from tilekit.place import as_path
from tilekit.predictor import VOID, Predictor
from tilekit.run import Runner, open_runner

Row = dict[str, Any]
COLUMNS = ("image", "output", "status", "blocks", "written", "redone", "seconds", "megapixels_per_second", "reason")


def segment_files(
    images: str | Path,
    model: str | Path,
    out: str | Path,
    parameters: SegmentParameters,
    progress: Progress = no_progress,
    step: Step | None = None,
    show: Show | None = None,
) -> list[Row]:
    """Segment the images of a folder, glob or CSV into OUT/NAME.zarr; a row per image, also in OUT/summary.csv.

    An image that fails leaves the others alone; raises BatchError, with all rows, once they are done.
    """
    p, out = parameters, as_path(out)
    items = list_images(images, out, p)
    predictor = load(model, p.device, p.precision)
    workers = common_workers(items, predictor, p)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}); choose another folder") from None
    rows: list[Row] = []
    try:
        with open_runner(workers, p.scheduler, p.tls) as runner:
            for item in items:
                progress("images", len(rows), len(items))
                rows.append(_segment_item(item, predictor, workers, runner, progress, step, show))
            progress("images", len(items), len(items))
    finally:
        write_atomic(out / "summary.csv", _as_csv(rows, predictor.class_names))
    failed = [row for row in rows if row["status"] == "failed"]
    if failed:
        raise BatchError(
            f"{len(failed)} of {len(rows)} images failed, as {out / 'summary.csv'} lists; first: {failed[0]['reason']}",
            rows,
        )
    return rows


def common_workers(items: Sequence[Item], predictor: Predictor, parameters: SegmentParameters) -> int:
    """Workers for all images: what the largest can use, and the memory bears for each."""
    asked = workers_asked(parameters)
    if asked is not None:
        return asked
    found: dict[Item, int] = {}
    for item in items:
        if not item.left_out:
            try:
                found[item] = plan_image(str(item.image), predictor, item.out, item.parameters, None).workers
            except Exception:  # told in its turn
                continue
    most = max(found.values(), default=0)
    for item, workers in found.items():
        if workers < most:
            try:
                plan_image(str(item.image), predictor, item.out, item.parameters, most)
            except InputError:
                most = workers
    return most


def _segment_item(
    item: Item,
    predictor: Predictor,
    workers: int,
    runner: Runner,
    progress: Progress,
    step: Step | None,
    show: Show | None,
) -> Row:
    """Segment one image, and say how it went."""
    row: Row = {**dict.fromkeys(COLUMNS), "image": str(item.image), "output": str(item.out), "classes": {}}
    if item.left_out:
        return {**row, "status": "left out", "reason": item.left_out}
    started = time.perf_counter()
    try:
        job = plan_image(str(item.image), predictor, item.out, item.parameters, workers)
        result = segment_job(job, runner, item.parameters, progress, step, show)
        return {**row, "status": "previewed" if item.parameters.preview_only else "complete", **result}
    except Exception as error:  # whatever it is, it must not stop the other images
        reason = " ".join(str(error).split()) or type(error).__name__
        return {**row, "status": "failed", "seconds": round(time.perf_counter() - started, 3), "reason": reason}


def _as_csv(rows: Sequence[Row], class_names: Sequence[str]) -> str:
    """The table, with a column of pixels for each class and for void."""
    counted = {str(k): f"pixels of {name}" for k, name in enumerate(class_names)} | {str(VOID): "pixels of void"}
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS[:-1], *counted.values(), COLUMNS[-1]], extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        pixels = {name: row["classes"].get(k, 0) for k, name in counted.items()} if row["classes"] else {}
        writer.writerow({**row, **pixels})
    return text.getvalue()
