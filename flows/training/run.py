"""Training as a job: check the data, train, tune thresholds, score, and write the model's card.

CONFIG.toml -> check -> fit -> evaluate -> describe
FOLDER/ model.safetensors last.safetensors state.safetensors curves.csv curves.png card.md overlays/
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.params import SchedulerParameters
from flows.training.card import CARD, draw_overlays, write_card
from flows.training.config import Config, read_config
from flows.training.curves import CSV, PNG, write_curves
from flows.training.network import halo_of, make_network, recipe_of
from flows.training.scoring import Scored, Scoring, predict_samples, score_decided, score_stores
from flows.training.survey import Survey, survey
from flows.training.thresholds import decide, tune
from models.augment import Augmentation
from models.checkpoint import read_header, set_thresholds
from models.compute import choose_device
from models.events import EVENTS, write_events
from models.starters import locate, starters
from models.training import BEST, LAST, STATE, Job, Validation, train
from tilekit.engine import Progress, no_progress
from tilekit.errors import InputError, RunError
from tilekit.lock import lock
from tilekit.run import open_runner
from tilekit.stall import moved

OnRow = Callable[[list[dict[str, Any]], list[Path]], None]
Show = Callable[[dict[str, Any], list[Path]], None]
WORK, OVERLAYS = "work", "overlays"
FIGURES = ("miou", "pixel_accuracy", "seg", "ap_by_image", "rand_isbi2012", "v_rand_thin", "pixel_error")
"""Scores that the curves have."""


class Options(SchedulerParameters):
    """What is asked of one call, beside the configuration."""

    resume: bool = False
    """Go on where a stopped training was."""
    init_from: str | None = None
    """A trained model to start from, instead of the configuration's."""
    overwrite: bool = False
    """Start over where the folder holds a training."""


DEFAULTS = Options()


@dataclass(frozen=True)
class Prepared:
    """A training that can start."""

    config: Config
    folder: Path
    survey: Survey
    scoring: Scoring
    init: Path | None

    @property
    def description(self) -> dict[str, Any]:
        """What is saved with the network."""
        found = self.survey
        return {
            "class_names": found.class_names,
            "normalization": dict(found.normalization),
            "pixel_size": found.pixel_size,
            "channel_names": found.channel_names,
        }

    @property
    def n_classes(self) -> int:
        return len(self.survey.class_names)


def train_file(
    config: str | Path,
    options: Options = DEFAULTS,
    progress: Progress = no_progress,
    step: Callable[..., Any] | None = None,
    on_row: OnRow | None = None,
    show: Show | None = None,
    *,
    is_task: bool = False,
) -> dict[str, Any]:
    """Train as the file `config` says; figures and paths of what came of it.

    `step` runs each stage; `on_row` is given the curves and overlays after each validation, `show` the result and its
    pictures. A task of a cluster holds no lock, as a worker that is cut off would keep its successor out. Raises
    InputError for bad input before anything is trained, RunError where training diverges.
    """
    call = step or (lambda function, *arguments: function(*arguments))
    if options.scheduler:
        return call(train_on_cluster, config, options)  # type: ignore[no-any-return]
    started = time.perf_counter()
    prepared: Prepared = call(check, config, options, progress)
    with nullcontext() if is_task else lock(prepared.folder):
        if prepared.config.training.devices > 1:
            call(fit_on_devices, config, prepared)
        else:
            call(fit, prepared, progress, on_row)
        scores = call(evaluate, prepared)
        result, pictures = call(describe, prepared, scores, time.perf_counter() - started)
    if show:
        show(result, pictures)
    return result  # type: ignore[no-any-return]


def train_on_cluster(config: str | Path, options: Options) -> dict[str, Any]:
    """Train as one task on a worker of a cluster, which sees the same paths; where it dies, another goes on."""
    folder = (settings := read_config(config)).path(settings.output.folder)
    _check_folder(folder, options)
    with open_runner(0, options.scheduler, options.tls) as runner:
        (outcome,) = runner.run(train_remotely, (Path(config).absolute(), options, _stamp(folder)), [0])
    if outcome.error is not None:
        raise outcome.error
    return outcome.receipt  # type: ignore[no-any-return]


def train_remotely(_: int, task: tuple[Path, Options, int | None]) -> dict[str, Any]:
    """What the worker does: start, or go on with what another worker began: a state other than that of before."""
    path, options, before = task
    now = _stamp((settings := read_config(path)).path(settings.output.folder))
    resume = options.resume or (now is not None and now != before)
    asked = Options(resume=resume, init_from=options.init_from, overwrite=options.overwrite)
    return train_file(path, asked, lambda *_: moved(), is_task=True)


def _stamp(folder: Path) -> int | None:
    """Tells one state in a folder from another; None where there is none."""
    return (folder / STATE).stat().st_mtime_ns if (folder / STATE).exists() else None


def check(config: str | Path, options: Options = DEFAULTS, progress: Progress = no_progress) -> Prepared:
    """Refuse what cannot be trained on, or would write over a training, before anything is written."""
    settings = read_config(config)
    folder = settings.path(settings.output.folder)
    _check_folder(folder, options)
    prepared = prepare(config, options.init_from, progress)
    if options.overwrite and not options.resume:
        _clear(folder)
    return prepared


def prepare(config: str | Path, init_from: str | None = None, progress: Progress = no_progress) -> Prepared:
    """Read the data of a configuration once, whether it has been trained on or not."""
    settings = read_config(config)
    v, device = settings.validation, settings.training.device
    scoring = Scoring(v.score, v.connectivity, v.min_size, v.fill_holes, device)
    if scoring.has_objects and settings.data.kind != "ids":
        raise InputError(f"{config}: [validation] score {v.score} is of objects, but [data] kind is classes; take miou")
    recipe_of(settings)
    init, folder = _init(settings, init_from), settings.path(settings.output.folder)
    found = survey(settings, halo_of(settings, init), folder / WORK, progress)
    return Prepared(settings, folder, found, scoring, init)


def _init(config: Config, init_from: str | None) -> Path | None:
    """The model to start from: of the command line, or of the configuration, whose paths are relative to it."""
    if init_from:
        return locate(init_from)
    name = config.training.init
    return None if name is None else locate(name) if name in starters() else config.path(name)


def _check_folder(folder: Path, options: Options) -> None:
    if options.resume and not (folder / STATE).exists():
        raise InputError(f"{folder}: holds no state to resume from; train without --resume")
    if (folder / STATE).exists() and not (options.resume or options.overwrite):
        raise InputError(f"{folder}: holds a training; --resume goes on with it, --overwrite starts over")


def _clear(folder: Path) -> None:
    """Remove an earlier training."""
    for path in (*(folder / name for name in (STATE, BEST, LAST, CARD, CSV, PNG)), folder / OVERLAYS, folder / EVENTS):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def fit(prepared: Prepared, progress: Progress = no_progress, on_row: OnRow | None = None) -> dict[str, Any]:
    """Train, validate, and write curves and overlays as it goes.

    Where there is a state it goes on with that: `check` lets none be that is not to be resumed, so it is what was
    asked for, or a second try.
    """
    config, folder, samples = prepared.config, prepared.folder, prepared.survey.samples["validation"]
    network = make_network(config, prepared.init, prepared.survey.channels, prepared.n_classes)
    overlays: list[Path] = []

    def validate(model: Path, step: int) -> Validation:
        stores = predict_samples(model, samples, folder / WORK / "validation", prepared.scoring)
        scored = score_stores(stores, samples, prepared.scoring, prepared.n_classes)
        overlays[:] = draw_overlays(folder / OVERLAYS, samples, stores, config.validation.overlays)
        figures = {name: round(float(scored.pooled[name]), 6) for name in FIGURES if name in scored.pooled}
        return Validation(scored.score, figures)

    def report(rows: list[dict[str, Any]]) -> None:
        write_curves(folder, rows)
        write_events(folder, rows[-1])
        if on_row:
            on_row(rows, overlays)

    job = Job(
        samples=prepared.survey.samples["train"],
        recipe=recipe_of(config),
        augmentation=Augmentation(**config.augment.model_dump()),
        folder=folder,
        description=prepared.description,
        validate=validate if samples else None,
        arguments=_arguments(prepared),
    )
    done = train(
        network,
        job,
        choose_device(config.training.device),
        resume=(folder / STATE).exists(),
        report=report,
        progress=progress,
    )
    return {"steps": done.step, "best": done.best}


def _arguments(prepared: Prepared) -> dict[str, Any]:
    """What decides the result beside recipe, network and augmentation, as JSON has it."""
    rows = [[row.name, row.part, *row.shape, *row.pixels] for row in prepared.survey.rows]
    init = None if prepared.init is None else read_header(prepared.init).as_dict()
    weights = prepared.config.weights.model_dump(mode="json")
    return {
        "data": rows,
        "weights": weights,
        "init": init,
        "encoder": prepared.config.training.encoder,
        "validation": prepared.config.validation.model_dump(mode="json"),
    }


def fit_on_devices(config: str | Path, prepared: Prepared) -> None:
    """Train with a process for each device of this machine."""
    n = prepared.config.training.devices
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    command += ["-m", "flows.training.worker", str(config)]
    command += ["--init-from", str(prepared.init)] if prepared.init else []
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("tilekit: ")]
        raise RunError(
            said[0].removeprefix("tilekit: ") if said else f"{prepared.folder}: training on {n} devices failed"
        )


def evaluate(prepared: Prepared) -> dict[str, Scored]:
    """Tune the decision thresholds on the validation images, and score the model on these and on the test images."""
    model, parts, scoring = prepared.folder / BEST, prepared.survey.samples, prepared.scoring
    scratch, k = prepared.folder / WORK / "scores", prepared.n_classes
    if prepared.config.validation.tune and parts["validation"]:
        set_thresholds(model, None)
        samples = parts["validation"]
        stores = predict_samples(model, samples, scratch, scoring, keep=True)
        thresholds, _ = tune(lambda t: score_decided(stores, samples, scoring, k, lambda p: decide(p, t)).score, k)
        set_thresholds(model, thresholds)
    scores = {}
    for name in ("validation", "test"):
        if samples := parts[name]:
            stores = predict_samples(model, samples, scratch, scoring)
            scores[name] = score_stores(stores, samples, scoring, k)
            draw_overlays(prepared.folder / OVERLAYS / name, samples, stores, prepared.config.validation.overlays)
    shutil.rmtree(scratch, ignore_errors=True)
    return scores


def describe(prepared: Prepared, scores: dict[str, Scored], seconds: float) -> tuple[dict[str, Any], list[Path]]:
    """Write the card; figures of the training, and its pictures."""
    folder, config = prepared.folder, prepared.config
    shutil.rmtree(folder / WORK, ignore_errors=True)
    overlays = sorted((folder / OVERLAYS).glob("[tv]*/*.png"))
    curves = [path for path in (folder / PNG,) if path.exists()]
    counts = {part: len(samples) for part, samples in prepared.survey.samples.items()}
    data = {
        "images": config.data.images, "truth": config.data.truth,
        "split": f"by {config.split.by}: " + ", ".join(f"{n} for {part}" for part, n in counts.items()),
        "class weights": ", ".join(f"{w:.4g}" for w in prepared.survey.class_weights) or "none",
    }  # fmt: skip
    recipe = {**recipe_of(config).as_dict(), "augmentation": config.augment.model_dump()}
    card = write_card(
        folder, folder / BEST, title=folder.name, data=data, recipe=recipe, scores=scores, curves=curves,
        overlays=overlays, seconds=seconds,
    )  # fmt: skip
    figures = {
        name: {key: scored.pooled[key] for key in FIGURES if key in scored.pooled} for name, scored in scores.items()
    }
    result = {
        "model": str(folder / BEST),
        "card": str(card),
        "curves": str(folder / CSV),
        **figures,
        "seconds": round(seconds, 1),
    }
    return result, [*curves, *overlays]
