"""The training loop: it learns what can be learnt, ignores void, repeats itself, and says when it diverges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.fit import Draw, fit, new_network, weighted_loss
from models.unet import UNet
from tilekit.errors import RunError

Batch = tuple[NDArray[Any], NDArray[Any]]


def bright(generator: np.random.Generator) -> Batch:
    """Pixels of two grey levels in noise; class 1 is the brighter. Input 36 pixels, output 20."""
    level = generator.integers(0, 2, (4, 1, 9, 9)).repeat(4, 2).repeat(4, 3)
    pixels = (80 + 60 * level + generator.integers(0, 20, level.shape)).astype(np.uint8)
    return pixels, level[:, 0, 8:-8, 8:-8].astype(np.uint8)


def small(seed: int = 0, **config: Any) -> UNet:
    return new_network(seed, base=4, depth=1, dropout=0.0, **config)


def accuracy(network: UNet, draw: Draw) -> float:
    x, y = draw(np.random.default_rng(99))
    with torch.inference_mode():
        logits = network(torch.from_numpy(x.astype(np.float32) / 255))
    return float((logits.argmax(1).numpy() == y).mean())


def test_it_learns_a_trivial_task_in_seconds() -> None:
    network, seen = small(batch_norm=True), list[int]()
    losses = fit(network, bright, steps=60, learning_rate=0.02, seed=1, progress=lambda step, loss: seen.append(step))
    assert (len(losses), seen) == (60, list(range(1, 61)))
    assert np.mean(losses[-5:]) < 0.2 * losses[0]
    assert not network.training
    assert accuracy(network, bright) > 0.98


def test_the_rule_of_the_checkpoint_is_what_the_network_is_trained_with() -> None:
    seen: list[float] = []
    network = small()
    network.register_forward_pre_hook(lambda _, x: seen.append(float(x[0].mean())))
    x, y = bright(np.random.default_rng(0))
    rule = {"kind": "mean_std", "mean": [100.0], "std": [20.0]}
    fit(network, lambda _: (x, y), steps=1, learning_rate=0.01, seed=0, normalization=rule)
    fit(network, lambda _: (x, y), steps=1, learning_rate=0.01, seed=0)
    assert seen == pytest.approx([(x.mean() - 100) / 20, x.mean() / 255], rel=1e-5)


def test_the_same_seeds_give_the_same_network() -> None:
    def weights(seed: int) -> list[float]:
        network = new_network(seed, base=2, depth=1, dropout=0.3)
        fit(network, bright, steps=3, learning_rate=0.01, seed=seed)
        return [float(p.detach().sum()) for p in network.parameters()]

    state = torch.get_rng_state()
    assert weights(5) == weights(5) != weights(6)
    assert torch.equal(torch.get_rng_state(), state)  # and the caller's own random numbers stay as they were


def test_void_pixels_count_nothing_and_classes_by_their_weight() -> None:
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    y = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    y[0, :2] = 255
    weights = torch.tensor([1.0, 2.0, 0.5])
    log_p = torch.log_softmax(logits, 1)
    known = [(b, i, j) for b in range(2) for i in range(4) for j in range(5) if y[b, i, j] != 255]
    each = [(float(weights[y[at]]), -float(log_p[at[0], y[at], at[1], at[2]])) for at in known]
    expected = sum(w * loss for w, loss in each) / sum(w for w, _ in each)
    assert weighted_loss(logits, y, weights).item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_of_nothing_but_void_changes_nothing() -> None:
    network = small()
    before = [p.clone() for p in network.parameters()]
    x, y = bright(np.random.default_rng(0))
    losses = fit(network, lambda _: (x, np.full_like(y, 255)), steps=2, learning_rate=0.1, seed=0)
    assert losses == [0, 0]
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_divergence_is_said_with_its_step() -> None:
    def broken(generator: np.random.Generator) -> Batch:
        x, y = bright(generator)
        return x * np.float32("nan"), y

    with pytest.raises(RunError, match="loss is nan at step 1 of 5; lower the learning rate"):
        fit(small(), broken, steps=5, learning_rate=0.01, seed=0)


def test_what_does_not_fit_is_refused_with_both_numbers() -> None:
    x, y = bright(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"labels of \(19, 20\) pixels, but the network gives \(20, 20\)"):
        fit(small(), lambda _: (x, y[:, 1:]), steps=1, learning_rate=0.01, seed=0)
    with pytest.raises(ValueError, match="must be 2 finite numbers"):
        fit(small(), bright, steps=1, learning_rate=0.01, seed=0, class_weights=[1, 2, 3])
    with pytest.raises(ValueError, match="takes at least 2"):
        fit(small(n_classes=1), bright, steps=1, learning_rate=0.01, seed=0)
