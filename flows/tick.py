"""One look at an inbox: what is new or changed is segmented, what fails is put aside, a table says what happened."""

from __future__ import annotations

import contextvars
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from itertools import count, islice
from pathlib import Path
from threading import Lock
from typing import Any

from flows.batch import COLUMNS, Row, common_workers
from flows.images import Item
from flows.inbox_state import Ended, Record, State, output_of, remove_reason, write_reason
from flows.params import InboxParameters
from flows.watched import Found, digest_of, list_place, seconds_since, stamp_of
from flows.work import Step, plan_image, segment_job
from models import load
from tilekit.attempt import concerns_all
from tilekit.engine import Progress, no_progress
from tilekit.errors import InputError, RunError
from tilekit.jobs.output import check_output, clear_output, now
from tilekit.lock import lock
from tilekit.place import as_path, is_url
from tilekit.predictor import Predictor
from tilekit.run import Runner, open_runner

WRITE_SECONDS = 2.0
CHANGES_NO_PIXEL = {"workers", "scheduler", "tls_ca", "tls_cert", "tls_key", "memory", "device", "preview"}
Shown = Callable[[Row], None]
"""Called with the row of each image as soon as it has been segmented."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What one look needs to know."""

    out: Path
    state: State
    predictor: Predictor
    recipe: str
    parameters: InboxParameters
    writing: Lock = field(default_factory=Lock)
    """Held by the thread that writes the state."""

    def item(self, found: Found) -> Item:
        return Item(as_path(found.image), output_of(self.out, found.name), self.parameters.segment)


def run_tick(
    place: str,
    model: str | Path,
    out: str | Path,
    parameters: InboxParameters,
    progress: Progress = no_progress,
    step: Step | None = None,
    shown: Shown | None = None,
) -> list[Row]:
    """Segment what is new or changed in `place` into `out`; a row for each image that is not as it was left.

    Raises RunError, once the others are done, for what is no image's fault, such as a full disk; the next tick goes on.
    Two ticks on one `out`: the second is refused.
    """
    folder = as_path(out)
    if parameters.move_aside and any(map(is_url, (place, parameters.move_aside))):
        raise InputError(f"{place}: move_aside is for images on a disk; leave it out, reasons are beside the outputs")
    found = list_place(place, folder)
    predictor = load(model, parameters.segment.device, parameters.segment.precision)
    with lock(folder):
        tick = Tick(folder, State.read(folder), predictor, _recipe(predictor, parameters), parameters)
        rows = [_row(tick, f, "left out", f.left_out) for f in found if f.left_out]
        settled = list(_look(tick, [f for f in found if not f.left_out], rows))
        pending = list(_choose(tick, settled, rows))
        tick.state.write(folder)
        if pending:
            rows += _segment_all(tick, pending, progress, step, shown)
    return sorted(rows, key=lambda row: str(row["image"]))


def _recipe(predictor: Predictor, parameters: InboxParameters) -> str:
    """A digest of all but the image that decides a pixel of the result."""
    options = parameters.segment.model_dump(mode="json", exclude=CHANGES_NO_PIXEL)
    return hashlib.sha256(json.dumps([predictor.digest, options], sort_keys=True).encode()).hexdigest()


def _row(tick: Tick, found: Found, status: str, reason: str | None = None, **figures: Any) -> Row:
    output = None if status in ("left out", "waiting") else str(output_of(tick.out, found.name))
    row: Row = {**dict.fromkeys(COLUMNS), "image": found.image, "output": output, "classes": {}}
    return {**row, **figures, "status": status, "reason": reason}


def _look(tick: Tick, found: list[Found], rows: list[Row]) -> Iterator[Found]:
    """Bring the records up to date; hands on the images that have come to rest, their contents known."""
    written = time.monotonic()
    for f in found:
        record = tick.state.images.get(f.name)
        if record is None:
            record = tick.state.images[f.name] = Record(stamp=f.stamp, seen=time.time())
        elif record.stamp != f.stamp:
            record.stamp, record.seen, record.digest = f.stamp, time.time(), None
        if record.digest is None:
            reason = _take(f, record, tick.parameters.settle_seconds)
            if reason:
                rows.append(_row(tick, f, "waiting", reason))
                continue
            if time.monotonic() - written > WRITE_SECONDS:
                tick.state.write(tick.out)
                written = time.monotonic()
        yield f


def _take(found: Found, record: Record, settle: float) -> str | None:
    """Read the contents of an image that has come to rest; else why not."""
    # a file server's clock may go ahead of this one: then what counts is how long the change is known
    rest = max(seconds_since(found.stamp), time.time() - record.seen)
    if rest < settle:
        return f"changed {max(rest, 0):.0f} s ago; taken after {settle:g} s at rest"
    try:
        digest = digest_of(found.image)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if stamp_of(found.image) != found.stamp:
        return "changes while it is read"
    record.digest = digest
    return None


def _choose(tick: Tick, settled: list[Found], rows: list[Row]) -> Iterator[Found]:
    """Those of the images that are to be segmented now."""
    chosen: set[str | None] = set()
    for f in settled:
        record = tick.state.images[f.name]
        asked = any(fnmatch(f.name, pattern) for pattern in tick.parameters.again)
        if asked:
            record.begun = None
        if not asked and _is_settled_matter(tick, record):
            continue
        if not asked and not record.done and (other := tick.state.covers(f.name, record)):
            rows.append(_row(tick, f, "same", f"has the contents of {other}, which is done"))
        elif record.digest in chosen:
            rows.append(_row(tick, f, "waiting", "has the contents of another new image, which comes first"))
        else:
            chosen.add(record.digest)
            yield f


def _is_settled_matter(tick: Tick, record: Record) -> bool:
    """True where these contents are done, or were put aside under the same model and options."""
    done, aside = record.done, record.aside
    if aside and (aside.digest, aside.recipe) == (record.digest, tick.recipe):
        return True
    is_current = done is not None and (done.model == tick.predictor.digest or not tick.parameters.redo_with_new_model)
    return done is not None and done.digest == record.digest and is_current


class Trouble(RunError):
    """What no image can be blamed for: the next tick may go on."""


def _segment_all(
    tick: Tick, pending: list[Found], progress: Progress, step: Step | None, shown: Shown | None
) -> list[Row]:
    """Segment images, at most `at_once` at a time; those that fail come again after all others."""
    p, rows, trouble = tick.parameters, [], None
    workers = _workers(tick, pending)
    alone = progress if p.at_once == 1 else no_progress  # stages of several images would overwrite each other
    tries, total = dict.fromkeys((f.name for f in pending), 0), len(pending)
    # left in this order: once the cluster is closed, threads that wait for it end
    with ThreadPoolExecutor(p.at_once) as pool, open_runner(workers, p.segment.scheduler, p.segment.tls) as runner:
        while pending and trouble is None:
            failed: list[Found] = []
            do = partial(_segment_one, tick, workers=workers, runner=runner, progress=alone, step=step)
            for f, outcome in _at_once(pool, p.at_once, pending, do):
                tries[f.name] += 1
                if isinstance(outcome, Trouble):
                    trouble = trouble or outcome
                    break
                if isinstance(outcome, Exception) and tries[f.name] <= p.retries:
                    failed.append(f)
                    continue
                rows.append(_conclude(tick, f, outcome, tries[f.name]))
                if shown and rows[-1]["status"] == "segmented":
                    shown(rows[-1])
                progress("images", len(rows), total)
            pending = failed
            if pending and trouble is None:
                time.sleep(p.retry_seconds)
    if trouble is not None:
        raise trouble
    return rows


def _workers(tick: Tick, pending: list[Found]) -> int:
    """Worker processes: what the largest image can use; at least one for each image at work where they are several."""
    p = tick.parameters
    workers = common_workers([tick.item(f) for f in pending], tick.predictor, p.segment)
    if p.at_once == 1 or p.segment.scheduler:
        return workers
    if p.segment.workers == 0:
        raise InputError(f"{p.at_once} images at once take worker processes, and workers is 0; ask for some, or for 1")
    return max(workers, min(p.at_once, len(pending)))


def _at_once(
    pool: ThreadPoolExecutor, n: int, found: list[Found], do: Callable[[Found], Any]
) -> Iterator[tuple[Found, Any]]:
    """Outcomes as they arrive, never more than `n` at work; one at a time it is this thread, which Ctrl-C can stop."""
    waiting = iter(found)
    if n == 1:
        for f in waiting:
            yield f, do(f)
        return

    def submit(f: Found) -> tuple[Future[Any], Found]:
        return pool.submit(contextvars.copy_context().run, do, f), f

    working = dict(submit(f) for f in islice(waiting, n))
    while working:
        for future in wait(working, return_when=FIRST_COMPLETED).done:
            f = working.pop(future)
            working.update(submit(following) for following in islice(waiting, 1))
            yield f, future.result()


def _segment_one(
    tick: Tick, found: Found, workers: int, runner: Runner, progress: Progress, step: Step | None
) -> dict[str, Any] | Exception:
    """Segment one image: its figures, or the exception that says why not."""
    out, options = output_of(tick.out, found.name), tick.parameters.segment
    started = time.perf_counter()
    try:
        job = plan_image(found.image, tick.predictor, _begin(tick, found, out), options, workers)
        figures = segment_job(job, runner, options, progress, step)
    except Exception as error:  # whatever it is, it must not stop the other images
        cause = error.__cause__ or error
        is_of_all = isinstance(cause, OSError | RunError) and concerns_all(cause)
        return Trouble(str(error)) if is_of_all else error
    return {**figures, "seconds": round(time.perf_counter() - started, 3)}


def _begin(tick: Tick, found: Found, out: Path) -> Path:
    """Make the output ready: what a killed tick began with the same is kept and gone on with, all else is removed."""
    record = tick.state.images[found.name]
    key = (str(record.digest), tick.recipe)
    if record.begun != key:
        if out.exists():
            check_output(out, overwrite=False)
            with lock(out):
                clear_output(out)
        with tick.writing:
            record.begun, record.done = key, None
            tick.state.write(tick.out)
    return out


def _conclude(tick: Tick, found: Found, outcome: dict[str, Any] | Exception, tries: int) -> Row:
    """Record what became of an image, for good."""
    record = tick.state.images[found.name]
    if stamp_of(found.image) != found.stamp:
        return _row(tick, found, "waiting", "changed while it was segmented")
    reason = None
    if isinstance(outcome, Exception):
        reason = " ".join(str(outcome).split()) or type(outcome).__name__
    ended = Ended(
        digest=str(record.digest),
        model=tick.predictor.digest,
        recipe=tick.recipe,
        time=now(),
        tries=tries,
        reason=reason,
    )
    if reason is None:
        record.done, record.aside = ended, None
        remove_reason(tick.out, found.name)
    else:
        record.aside = ended
        write_reason(tick.out, found.name, found.image, ended)
    with tick.writing:
        tick.state.write(tick.out)
    if isinstance(outcome, Exception):
        if tick.parameters.move_aside:
            _move(as_path(found.image), as_path(tick.parameters.move_aside))
        return _row(tick, found, "put aside", reason)
    return _row(tick, found, "segmented", **outcome)


def _move(image: Path, folder: Path) -> None:
    """Move an image, never over another."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (image.name if n == 0 else f"{image.stem}-{n}{image.suffix}" for n in count())
    shutil.move(image, next(folder / name for name in names if not (folder / name).exists()))
