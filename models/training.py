"""The training loop: patches to gradients to checkpoints, validated by whoever calls it, resumed to the same bits.

samples -> patches (threads) -> augmented (device) -> network -> weighted loss / sum of weights -> update
                                                        |
           every N steps: last.safetensors -> validate -> model.safetensors (the best), state.safetensors
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import parallel, receptive
from models.augment import Augmentation, apply
from models.checkpoint import save
from models.clock import Clock
from models.losses import Loss
from models.network import Network
from models.normalization import Normalization
from models.optimization import average_in, averaged_tensors, freeze, make_optimizer, train_mode
from models.patches import Patch, Reader, batches, on_device
from models.recipe import Recipe
from models.sample import Sample
from models.state import Progress, read_state, write_state
from tilekit.allocator import keep_memory
from tilekit.box import Box
from tilekit.errors import InputError, RunError

BEST, LAST, STATE = "model.safetensors", "last.safetensors", "state.safetensors"
CHECK_STEPS = 20
"""Steps after which a device with a queue is asked whether its losses are finite."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What a validation found."""

    score: float
    """Higher is better; NaN is worse than anything."""
    figures: dict[str, float] = field(default_factory=dict)


Validate = Callable[[Path, int], Validation]
"""Given a checkpoint and the number of steps it was trained for."""


@dataclass(frozen=True, slots=True)
class Job:
    """All that decides a training run."""

    samples: Sequence[Sample]
    recipe: Recipe
    augmentation: Augmentation
    folder: Path
    """Where model.safetensors (the best), last.safetensors and state.safetensors are written."""
    description: dict[str, Any]
    """For models.save: class_names, normalization, pixel_size, channel_names."""
    validate: Validate | None = None
    """Called by the first process alone; None: the last network is the best."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """What else decides the result, such as the data; compared when a run is resumed."""
    threads: int = 2
    """That read patches."""


def train(
    network: Network,
    job: Job,
    device: torch.device,
    *,
    resume: bool = False,
    report: Callable[[list[dict[str, Any]]], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Progress:
    """Train `network` in place, on `device`; where torchrun started several processes, with all of them.

    report(rows) after each validation, a row for each so far: step, loss, learning rate, score, figures, patches per
    second, share of the time spent waiting for patches. progress("train", steps done, steps in all) after each step.
    RunError where the loss is no longer finite: says the step and the patches.
    """
    others = [device] if device.type == "cuda" else []
    with parallel.processes() as (rank, world), torch.random.fork_rng(devices=others):
        if device.type == "cpu":
            torch.set_num_threads(max(1, available_cores() // world))
        run = _Run(network, job, device, rank, world, report, progress)
        if rank == 0:
            for half_written in job.folder.glob(".*.part"):  # by a training that was killed
                half_written.unlink(missing_ok=True)
        if resume:
            run.progress = read_state(run.path(STATE), network, run.average, run.optimizer, run.arguments)
        run.loop()
        return run.progress


class _Run:
    """The state between two steps."""

    def __init__(
        self,
        network: Network,
        job: Job,
        device: torch.device,
        rank: int,
        world: int,
        report: Callable[[list[dict[str, Any]]], None] | None,
        show: Callable[[str, int, int], None] | None,
    ) -> None:
        keep_memory()
        self.job, self.recipe, self.device, self.rank, self.world = job, job.recipe, device, rank, world
        self.report, self.show = report, show
        reach = receptive.reach(network.architecture.layers)
        if job.recipe.side % reach.stride:
            raise InputError(f"side is {job.recipe.side} pixels, must be a multiple of the stride {reach.stride}")
        side = job.recipe.side
        self.core = slice(reach.skipped, reach.skipped + side)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze(network, job.recipe.freeze)
        self.optimizer = make_optimizer(network, job.recipe)
        self.average = {n: t.clone() for n, t in averaged_tensors(network).items()} if job.recipe.ema else {}
        self.loss = Loss(
            **{name: float(name in job.recipe.loss.split("+")) for name in ("cross_entropy", "dice", "focal")}
        )
        rule = Normalization.of(job.description["normalization"], network.config["in_channels"])
        in_input = Box((reach.before, reach.before), (reach.before + side, reach.before + side))
        input_side = reach.before + side + reach.after
        self.reader = Reader(job.samples, job.recipe, job.augmentation, rule, input_side, in_input)
        self.progress = Progress()
        self.arguments = {
            "recipe": job.recipe.as_dict(), "augmentation": asdict(job.augmentation), "network": network.config,
            "normalization": rule.as_dict(), "processes": world, **job.arguments,
        }  # fmt: skip

    def path(self, name: str) -> Path:
        return self.job.folder / name

    def loop(self) -> None:
        """From the step reached to the last, or to an early stop."""
        if self.is_over:
            return
        n = self.recipe.batch * self.recipe.accumulate
        items = range(self.rank * n, (self.rank + 1) * n)
        self.clock = Clock()
        pending: list[tuple[int, Tensor, list[Patch]]] = []
        source = batches(self.reader, self.progress.step, items, self.job.threads)
        try:
            for patches in self.clock.waiting(source):
                pending.append((self.progress.step, self.update(patches), patches))
                self.progress.step += 1
                if self.show and self.rank == 0:
                    self.show("train", self.progress.step, self.recipe.steps)
                is_due = self.progress.step % self.recipe.every == 0 or self.progress.step == self.recipe.steps
                if is_due or self.device.type == "cpu" or len(pending) == CHECK_STEPS:
                    self.check(pending)
                if is_due and self.is_over_after_validation():
                    break
                if self.clock.is_time_to_store():
                    self.check(pending)  # a state that diverged is not to take the place of a sound one
                    self.store()
        finally:
            source.close()
        self.network.eval()

    def update(self, patches: list[Patch]) -> Tensor:
        """One step of the optimizer over all batches of this update; returns its loss, on the device."""
        step, size = self.progress.step, self.recipe.batch
        torch.manual_seed(_seed(self.recipe.seed, step, self.rank))  # dropout's
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(step)
        train_mode(self.network, self.recipe.freeze)
        self.optimizer.zero_grad(set_to_none=True)
        parts = [self.augmented(patches[i : i + size]) for i in range(0, len(patches), size)]
        k = self.network.config["n_classes"]
        dividing = torch.stack([self.loss.denominators(truth, weights, k) for _, truth, weights in parts]).sum(0)
        parallel.added(dividing)
        total = torch.zeros((), device=self.device)
        for image, truth, weights in parts:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
                logits = self.network(image)[:, :, self.core, self.core]
            loss = self.loss.total(self.loss.numerators(logits, truth, weights), dividing)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        parallel.add_gradients(self.network)
        self.optimizer.step()
        if self.average:
            average_in(self.average, self.network, self.recipe.ema, step)
        return parallel.added(total)

    def augmented(self, patches: list[Patch]) -> tuple[Tensor, Tensor, Tensor]:
        """Images (b, c, y, x) of the network's input, truth and weights (b, y, x) of its core."""
        images, truth, weights = apply(
            [p.warp for p in patches],
            [on_device(p.image, self.device) for p in patches],
            [on_device(p.truth, self.device) for p in patches],
            [on_device(p.weights, self.device) for p in patches],
            self.reader.input_side,
            self.reader.core,
        )
        return images.contiguous(memory_format=torch.channels_last), truth, weights

    def check(self, pending: list[tuple[int, Tensor, list[Patch]]]) -> None:
        """Add up the losses; RunError at the first that is not finite."""
        for step, loss, patches in pending:
            value = float(loss)
            if not math.isfinite(value):
                where = "; ".join(map(str, patches[:4]))
                raise self.divergence(f"the loss is {value} at step {step + 1} of {self.recipe.steps} ({where})")
            self.progress.add_loss(value)
        pending.clear()

    def divergence(self, what: str) -> RunError:
        rate = self.recipe.learning_rate
        return RunError(
            f"{self.job.folder}: training diverged, {what}; lower learning_rate {rate:g}, or look at the data"
        )

    def is_over_after_validation(self) -> bool:
        """Save, validate, keep the best and the state; True where training shall stop here."""
        parallel.average_buffers(self.network)
        if self.rank == 0:
            with self.clock.paused():
                self.validate()
        self.progress.stale = int(parallel.shared(self.progress.stale))
        return self.is_over

    @property
    def is_over(self) -> bool:
        """True where no validation has been better for too long."""
        return bool(self.recipe.patience and self.progress.stale >= self.recipe.patience)

    def validate(self) -> None:
        progress, last, network = self.progress, self.path(LAST), self.averaged()
        for name, tensor in network.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise self.divergence(f"{name} is not finite after step {progress.step} of {self.recipe.steps}")
        save(network, last, **self.job.description)
        threads = torch.get_num_threads()
        found = self.job.validate(last, progress.step) if self.job.validate else Validation(math.nan)
        torch.set_num_threads(threads)  # a predictor leaves one
        is_best = self.job.validate is None or progress.best is None or found.score > progress.best
        if is_best:
            progress.best, progress.stale = (None if math.isnan(found.score) else found.score), 0
            shutil.copyfile(last, part := self.path(f".{BEST}.part"))
            part.replace(self.path(BEST))
        else:
            progress.stale += 1
        row = {
            "step": progress.step,
            "loss": progress.take_mean_loss(),
            "learning_rate": self.recipe.rate(progress.step - 1),
            "score": found.score,
            **found.figures,
            **self.clock.rates(self.recipe.batch * self.recipe.accumulate * self.world),
        }
        progress.rows.append(row)
        self.store()
        if self.report:
            self.report(progress.rows)

    def averaged(self) -> Network:
        """The network to be validated and kept: the moving average where there is one."""
        network: Network = copy.deepcopy(self.network)
        network.load_state_dict(self.average, strict=False)
        return network

    def store(self) -> None:
        self.clock.last_stored = time.monotonic()
        if self.rank == 0:
            write_state(self.path(STATE), self.network, self.average, self.optimizer, self.progress, self.arguments)


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for each step of each process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
