"""The training loop: batches drawn by the caller, cross entropy, Adam with a cosine decay of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from models.normalization import Normalization
from models.unet import UNet
from tilekit.errors import RunError

VOID = 255
"""The label that says: nothing is known of this pixel. It takes no part in the loss."""

Draw = Callable[[np.random.Generator], tuple[NDArray[Any], NDArray[Any]]]
"""Draws a batch: raw pixels (b, c, y, x) of any number dtype, and class ids (b, y', x') of any integer dtype.

y' and x' are what the network makes of y and x: of an unpadded one, the input less its halo.
"""


def new_network(seed: int, **config: Any) -> UNet:
    """A U-Net of this configuration whose first weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(**config)


def fit(
    network: UNet,
    draw: Draw,
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    class_weights: Sequence[float] | None = None,
    normalization: dict[str, Any] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train `network` in place, on the device where it lies; returns the loss of each step.

    The learning rate falls from `learning_rate` to 0 as half a cosine. `seed` decides the batches and the dropout.
    class_weights: one per class; the loss is the weighted mean over the pixels of a batch that are not void.
    normalization: the rule that is saved with the network, as for `models.save`. progress(step, loss): after each step,
    counted from 1. The network is left in eval mode. RunError where the loss is no longer finite.
    """
    rule = Normalization.of(
        {"kind": "range"} if normalization is None else normalization, network.config["in_channels"]
    )
    device = next(network.parameters()).device
    weights = _weights(class_weights, network.config["n_classes"]).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    generator, losses = np.random.default_rng(seed), list[float]()
    network.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
            x, y = draw(generator)
            optimizer.zero_grad()
            loss = weighted_loss(
                network(torch.from_numpy(rule.apply(x, axis=1)).to(device)),
                torch.from_numpy(y.astype(np.int64)).to(device),
                weights,
            )
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise RunError(
                    f"training: the loss is {losses[-1]} at step {step + 1} of {steps}; lower the learning rate"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if progress is not None:
                progress(step + 1, losses[-1])
    network.eval()
    return losses


def weighted_loss(logits: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy of logits (b, k, y, x) and class ids (b, y, x) int64, averaged by the weights (k,) of the classes.

    Void pixels count nothing; 0 where there are no others.
    """
    if logits.shape[2:] != y.shape[1:]:
        raise ValueError(f"labels of {tuple(y.shape[1:])} pixels, but the network gives {tuple(logits.shape[2:])}")
    total = F.cross_entropy(logits, y, weights, ignore_index=VOID, reduction="sum")
    return total / weights[y[y != VOID]].sum().clamp_min(1e-12)


def _weights(given: Sequence[float] | None, n_classes: int) -> Tensor:
    if n_classes < 2:
        raise ValueError(f"the network has {n_classes} class; cross entropy takes at least 2")
    weights = [1.0] * n_classes if given is None else list(given)
    if len(weights) != n_classes or min(weights) < 0 or not math.isfinite(sum(weights)):
        raise ValueError(f"class weights {weights}, must be {n_classes} finite numbers from 0 up, one per class")
    return torch.tensor(weights)
