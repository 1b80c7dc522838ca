"""Training on several devices of one node: each process takes its share of every batch, gradients are added.

Started by torchrun (RANK, LOCAL_RANK and WORLD_SIZE in the environment); one process alone needs none of this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(hours=6)
"""Longest that the others wait while the first process validates."""


@contextmanager
def processes() -> Iterator[tuple[int, int]]:
    """(number of this process, how many there are); joins them for the duration where torchrun started several."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield dist.get_rank(), world
    finally:
        dist.destroy_process_group()


def is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def added(value: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if is_joined():
        dist.all_reduce(value)
    return value


def add_gradients(network: nn.Module) -> None:
    """Each gradient becomes the sum over all processes, in one exchange."""
    if not is_joined():
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    together = added(torch.cat([g.flatten() for g in gradients]))
    parts = torch.split(together, [g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def average_buffers(network: nn.Module) -> None:
    """Running means and variances of batch norms become the mean over all processes."""
    if not is_joined():
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            added(buffer).div_(dist.get_world_size())


def shared(value: float | None) -> float:
    """What the first process has, told to all: NaN stands for None."""
    told = torch.tensor([float("nan") if value is None else value], dtype=torch.float64)
    if is_joined():
        told = told.cuda() if torch.cuda.is_available() else told
        dist.broadcast(told, 0)
    return float(told.item())
