"""Losses over the pixels that are not void, each a sum and what divides it, so that parts of a batch add up first.

Logits are (b, k, y, x) and are worked on in float32 (float64 stays); one channel is that of class 1 against class 0,
whose logit is then 0: the sigmoid head. Truth is (b, y, x), uint8 or int64; weights are (b, y, x), never negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tilekit.errors import InputError
from tilekit.predictor import VOID


@dataclass(frozen=True, slots=True)
class Loss:
    """Which losses are summed, each times its factor.

    Of a batch that several processes or passes share, the loss is `total` of their numerators and denominators, each
    added up. Denominators need no logits: added up first, they give each part its share of the loss and its gradient.
    """

    cross_entropy: float = 1.0
    """Soft-max cross entropy, the weighted mean of all pixels."""
    dice: float = 0.0
    """1 - soft Dice, the mean of each patch's classes; a class that its truth lacks is left out."""
    focal: float = 0.0
    """Cross entropy times (1 - p)^gamma, p the true class's probability (Lin et al. 2017); the weighted mean."""
    gamma: float = 2.0
    """0: no focus; else 1 or more, as below 1 the gradient is infinite at p = 1."""

    def __post_init__(self) -> None:
        factors = (self.cross_entropy, self.dice, self.focal)
        if min(factors) < 0 or not 0 < sum(factors) < float("inf"):
            raise InputError(
                f"loss: factors {factors} of cross_entropy, dice and focal; give numbers from 0 up, not all 0"
            )
        if self.gamma != 0 and not 1 <= self.gamma < float("inf"):
            raise InputError(f"loss: gamma is {self.gamma}, must be 0 or at least 1")

    def numerators(self, logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        """(3,): what cross entropy, Dice and focal loss sum to; 0 for those whose factor is 0."""
        if logits.shape[2:] != truth.shape[1:]:
            raise ValueError(f"truth of {tuple(truth.shape[1:])} pixels, but logits of {tuple(logits.shape[2:])}")
        x = logits if logits.dtype == torch.float64 else logits.float()
        x = x if x.shape[1] > 1 else torch.cat((torch.zeros_like(x), x), 1)
        found = [x.new_zeros(())] * 3
        if self.cross_entropy or self.focal:
            weighted = _valid(truth, weights)
            entropy = F.cross_entropy(x, truth.long(), ignore_index=VOID, reduction="none")  # (b, y, x), 0 where void
            found[0] = (weighted * entropy).sum()
            if self.focal:
                found[2] = (weighted * (-torch.expm1(-entropy)) ** self.gamma * entropy).sum()
        if self.dice:
            found[1] = _dice_losses(x, truth, weights).sum()
        return torch.stack(found)

    def denominators(self, truth: Tensor, weights: Tensor, n_classes: int) -> Tensor:
        """(3,): the sum of weights, the number of classes in all patches, the sum of weights; 0 where all is void."""
        total = _valid(truth, weights).sum()
        if not self.dice:
            return torch.stack((total, torch.zeros_like(total), total))
        return torch.stack((total, (_by_class(truth, weights, n_classes).sum((2, 3)) > 0).sum().to(total), total))

    def total(self, numerators: Tensor, denominators: Tensor) -> Tensor:
        """The loss: the ratios times their factors, added; 0 where nothing has any weight."""
        factors = numerators.new_tensor([self.cross_entropy, self.dice, self.focal])
        return (factors * numerators / denominators.where(denominators > 0, 1)).sum()


def _valid(truth: Tensor, weights: Tensor) -> Tensor:
    return weights.where(truth != VOID, 0)


def _by_class(truth: Tensor, weights: Tensor, n_classes: int) -> Tensor:
    """(b, k, y, x): each pixel's weight at its class, else 0; 0 for all classes where it is void."""
    classes = torch.arange(max(n_classes, 2), device=truth.device).view(-1, 1, 1)
    return weights[:, None].where(truth[:, None] == classes, 0)


def _dice_losses(x: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """(b, k): 1 - 2 sum(w p y) / (sum(w p) + sum(w y)), p the probabilities, y the truth; 0 where a class is absent."""
    p, of_class = x.softmax(1), _by_class(truth, weights, x.shape[1])
    present = of_class.sum((2, 3))
    predicted = (p * _valid(truth, weights)[:, None]).sum((2, 3))
    ratio = 2 * (p * of_class).sum((2, 3)) / (predicted + present).where(present > 0, 1)
    return (1 - ratio).where(present > 0, 0)
