"""The training loop: it learns, repeats itself to the bit, goes on after a kill, and says where it diverges."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models import load
from models.architecture import UNetConfig
from models.augment import Augmentation
from models.recipe import PRESETS, Recipe
from models.starting import new_network
from models.training import BEST, LAST, STATE, Job, Validation, train
from models.unet import UNet
from tests.models.disks import ArraySample, disks
from tilekit.errors import InputError, RunError

CPU = torch.device("cpu")
MEAN_STD = {"kind": "mean_std", "mean": [80.0], "std": [40.0]}
VARIED = Augmentation(flip=True, rotate=180, scale=0.1, elastic=1.5, brightness=0.1, noise=0.05)


def small(seed: int = 0, **config: Any) -> UNet:
    return new_network(seed, UNetConfig(**{"base": 4, "depth": 1, "dropout": 0.0, "batch_norm": True} | config))


def quick(**changes: Any) -> Recipe:
    settings = {"steps": 12, "side": 16, "batch": 2, "every": 4, "warm_up": 2, "ema": 0.9, "learning_rate": 0.01}
    return Recipe.of("modern", **settings | changes)


def job(folder: Path, recipe: Recipe, **changes: Any) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    samples = [disks(1), disks(2)]
    settings = {"augmentation": VARIED, "description": {"class_names": ["a", "b"], "normalization": MEAN_STD}}
    return Job(**{"samples": samples, "recipe": recipe, "folder": folder} | settings | changes)


def accuracy(path: Path, sample: ArraySample) -> float:
    p = load(path)
    shape = [n - n % p.stride[0] for n in sample.box.shape]
    core = dataclasses.replace(sample.box, stop=tuple(shape))
    found = p.classes(sample.read(core.grow(p.halo.before, p.halo.after))[None])[0]
    return float((found == sample.truth(core)).mean())


def test_it_learns_and_keeps_the_best(tmp_path: Path) -> None:
    test = disks(9)

    def validate(path: Path, step: int) -> Validation:
        return Validation(accuracy(path, test), {"steps": step})

    chosen = job(tmp_path, quick(steps=100, every=25), validate=validate)
    seen: list[int] = []
    progress = train(small(), chosen, CPU, report=lambda rows: seen.append(len(rows)))
    rows = progress.rows
    assert seen == [1, 2, 3, 4]
    assert [row["step"] for row in rows] == [25, 50, 75, 100]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert progress.best == max(row["score"] for row in rows) > 0.97
    assert accuracy(tmp_path / BEST, test) == progress.best
    assert rows[-1]["patches_per_second"] > 0
    assert 0 <= rows[-1]["waiting"] <= 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_each_preset_overfits_one_example(tmp_path: Path, preset: str) -> None:
    sample = disks(3, side=64)
    recipe = Recipe.of(preset, steps=400, side=64, batch=1, every=400, warm_up=10, ema=0.9, seed=1)
    chosen = job(tmp_path, recipe, samples=[sample], augmentation=Augmentation())
    train(small(base=8, depth=2, batch_norm=preset == "modern"), chosen, CPU)
    p = load(tmp_path / BEST)
    found = p.classes(sample.read(sample.box.grow(p.halo.before, p.halo.after))[None])[0]
    for k in (0, 1):
        both = ((found == k) & (sample.classes == k)).sum()
        assert both / ((found == k) | (sample.classes == k)).sum() > 0.98


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)


def same(a: Path, b: Path) -> bool:
    first, second = weights_of(a), weights_of(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_the_same_seed_gives_the_same_weights_whatever_the_threads(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    for name, seed, threads in (("a", 5, 1), ("b", 5, 3), ("c", 6, 1)):
        train(small(dropout=0.3), job(tmp_path / name, quick(seed=seed), threads=threads), CPU)
    assert same(tmp_path / "a" / LAST, tmp_path / "b" / LAST)
    assert not same(tmp_path / "a" / LAST, tmp_path / "c" / LAST)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's random numbers stay as they were


class Killed(BaseException):
    """What no except clause of the loop catches."""


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, preset: str) -> None:
    recipe = Recipe.of(preset, steps=10, side=16, batch=2, every=4, warm_up=2, learning_rate=0.01, accumulate=2)

    def start(folder: Path, kill_at: int = 0, *, resume: bool = False) -> None:
        network, n_seen = small(dropout=0.3), 0

        def count(*_: Any) -> None:
            nonlocal n_seen
            n_seen += 1
            if n_seen == kill_at:
                raise Killed

        network.register_forward_pre_hook(count)
        train(network, job(folder, recipe), CPU, resume=resume)

    start(tmp_path / "whole")
    with pytest.raises(Killed):
        start(tmp_path / "killed", kill_at=13)  # in the seventh step; a state was stored after the fourth
    start(tmp_path / "killed", resume=True)
    for name in (LAST, STATE):
        assert same(tmp_path / "whole" / name, tmp_path / "killed" / name)


def test_a_run_is_not_resumed_with_other_arguments_or_from_a_torn_state(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no state to resume from; train without --resume"):
        train(small(), job(tmp_path, quick()), CPU, resume=True)
    train(small(), job(tmp_path, quick()), CPU)
    with pytest.raises(InputError, match=r"cannot be resumed with other arguments: recipe was .*; change them back"):
        train(small(), job(tmp_path, quick(batch=3)), CPU, resume=True)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:-100])
    with pytest.raises(InputError, match="is no state of a training run"):
        train(small(), job(tmp_path, quick()), CPU, resume=True)


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    plain = {"batch_norm": False}
    train(small(**plain), job(tmp_path / "one", quick(batch=4, steps=3)), CPU)
    train(small(**plain), job(tmp_path / "two", quick(batch=2, accumulate=2, steps=3)), CPU)
    one, two = (weights_of(tmp_path / name / LAST) for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    train(small(batch_norm=False), job(tmp_path / "one", quick(batch=4, steps=3)), CPU)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = subprocess.run(
        [*command, __file__, str(tmp_path / "two")], capture_output=True, text=True, timeout=200, check=False,
        cwd=Path(__file__).parents[2], env=None,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    one, two = (weights_of(tmp_path / name / LAST) for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)


def test_training_stops_where_scores_no_longer_rise(tmp_path: Path) -> None:
    scores = iter([0.5, 0.7, 0.6, 0.65, 0.9])
    chosen = job(tmp_path, quick(steps=40, patience=2), validate=lambda *_: Validation(next(scores)))
    progress = train(small(), chosen, CPU)
    assert (progress.step, progress.best, progress.stale) == (16, 0.7, 2)


def test_divergence_is_said_with_step_and_place(tmp_path: Path) -> None:
    broken = disks(1)
    broken = dataclasses.replace(broken, pixels=broken.pixels * np.float32("nan"))
    message = r"training diverged, the loss is nan at step 1 of 12 \(disks 1 at \d+, \d+; .*lower learning_rate 0.01"
    with pytest.raises(RunError, match=message):
        train(small(), job(tmp_path, quick(), samples=[broken]), CPU)
    assert not (tmp_path / BEST).exists()


def test_a_batch_of_nothing_but_void_changes_nothing(tmp_path: Path) -> None:
    void = disks(1)
    void = dataclasses.replace(void, classes=np.full_like(void.classes, 255))
    network = small(batch_norm=False)
    before = [p.detach().clone() for p in network.parameters()]
    train(network, job(tmp_path, quick(weight_decay=0.0, steps=2), samples=[void]), CPU)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_a_frozen_encoder_keeps_its_weights_and_statistics(tmp_path: Path) -> None:
    network = small()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    train(network, job(tmp_path, quick(freeze="encoder", steps=3)), CPU)
    changed = {name for name, t in network.state_dict().items() if not torch.equal(t, before[name])}
    assert changed
    assert not any(name.startswith("down") for name in changed)
    assert same(tmp_path / LAST, tmp_path / BEST)


def test_patches_are_chosen_by_class(tmp_path: Path) -> None:
    from models.normalization import Normalization
    from models.patches import Reader
    from tilekit.box import Box

    rare = disks(1, side=200, n=1)
    share = {}
    for choose in ("uniform", "class"):
        rule = Normalization.of(MEAN_STD, 1)
        reader = Reader([rare], quick(choose=choose), Augmentation(), rule, 24, Box((4, 4), (20, 20)))
        middles = [reader.read(step, 0).truth[8, 8].item() for step in range(200)]
        share[choose] = float(np.mean(middles))
    assert share["uniform"] < 0.1
    assert share["class"] == pytest.approx(0.5, abs=0.12)


def test_dropped_pixels_have_no_weight(tmp_path: Path) -> None:
    from models.normalization import Normalization
    from models.patches import Reader
    from tilekit.box import Box

    rule = Normalization.of(MEAN_STD, 1)
    reader = Reader([disks(1)], quick(side=64, drop=0.3), Augmentation(), rule, 72, Box((4, 4), (68, 68)))
    first, second = (reader.read(step, 0).weights for step in (0, 1))
    assert float((first == 0).float().mean()) == pytest.approx(0.3, abs=0.04)
    assert not torch.equal(first == 0, second == 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": 17}, "side is 17 pixels, must be a multiple of the stride 2"),
        ({"samples": []}, "training has no images"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    samples = changes.pop("samples", [disks(1)])
    with pytest.raises(InputError, match=message):
        train(small(), job(tmp_path, quick(**changes), samples=samples), CPU)


def test_recipes_say_what_is_wrong_with_them() -> None:
    with pytest.raises(ValueError, match="optimizer is 'lion', must be one of adamw, sgd"):
        Recipe.of("modern", optimizer="lion")
    with pytest.raises(ValueError, match="learning_rate is 0, must be above 0"):
        Recipe.of("modern", learning_rate=0)
    with pytest.raises(ValueError, match="a recipe has no 'speed'"):
        Recipe.of("paper", speed=1)
    with pytest.raises(ValueError, match="preset is 'old', must be one of modern, paper"):
        Recipe.of("old")


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = Recipe.of("modern", steps=110, warm_up=10, learning_rate=1.0)
    rates = [recipe.rate(step) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5, abs=0.01)
    assert math.isclose(rates[-1], 0, abs_tol=1e-3)
    assert Recipe.of("paper").rate(10**6) == Recipe.of("paper").learning_rate


if __name__ == "__main__":  # one of two processes, started by torchrun
    train(small(batch_norm=False), job(Path(sys.argv[1]), quick(batch=2, steps=3)), CPU)
