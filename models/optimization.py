"""Optimizers, which parameters they move, and the moving average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.recipe import Recipe

ENCODERS = ("down", "encoder.")
"""How the names of an encoder's layers begin: a U-Net's, and those of the families with one from elsewhere."""


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of a recipe over the parameters that are not frozen; biases and norms do not decay."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.momentum, 0.999))


def freeze(network: nn.Module, what: str) -> None:
    """Keep the weights, and the statistics of batch norms, of the layers down to the deepest ("encoder"), or of none.

    The statistics of a batch norm in training mode move without a gradient: see `train_mode`.
    """
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(what != "encoder" or not name.startswith(ENCODERS))


def train_mode(network: nn.Module, what: str) -> None:
    """Training mode, but for the batch norms of frozen layers."""
    network.train()
    for name, module in network.named_modules():
        if what == "encoder" and name.startswith(ENCODERS) and isinstance(module, nn.BatchNorm2d):
            module.eval()


def averaged_tensors(network: nn.Module) -> dict[str, Tensor]:
    """What a moving average is of: weights, and the statistics of batch norms, which else would be those of others."""
    return {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}


@torch.no_grad()
def average_in(average: dict[str, Tensor], network: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the network; faster at first, so that the untrained one is soon forgotten."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    for name, tensor in averaged_tensors(network).items():
        average[name].lerp_(tensor, share)
