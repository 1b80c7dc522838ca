"""The state of a training run: everything that its next step needs, in one file that is never unpickled.

Nothing random is in it: what a step draws comes from the seed and the step's number (models.patches).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models.checkpoint import write_tensors
from tilekit.documents import parse_json
from tilekit.errors import InputError


@dataclass
class Progress:
    """How far a run is, and what it has seen."""

    step: int = 0
    """Updates done."""
    best: float | None = None
    """Best score of a validation so far."""
    stale: int = 0
    """Validations since."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One per validation: step, loss, rate, scores."""
    loss_sum: float = 0.0
    loss_count: int = 0
    """Of the steps since the last validation."""

    def add_loss(self, loss: float) -> None:
        self.loss_sum += loss
        self.loss_count += 1

    def take_mean_loss(self) -> float:
        """Mean loss of a step since it was last taken."""
        mean = self.loss_sum / max(self.loss_count, 1)
        self.loss_sum, self.loss_count = 0.0, 0
        return mean


def write_state(
    path: Path,
    network: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    arguments: dict[str, Any],
) -> None:
    """Store it, whole or not at all. `arguments`: what decides the result, compared when the run is resumed."""
    tensors = {f"network.{name}": t for name, t in network.state_dict().items()}
    tensors |= {f"average.{name}": t for name, t in average.items()}
    for number, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": t for key, t in entries.items() if t is not None}
    described = json.dumps({"progress": vars(progress), "arguments": arguments})
    own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_tensors(path, own, {"tilekit.training": described})


def read_state(
    path: Path,
    network: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    arguments: dict[str, Any],
) -> Progress:
    """Put a stored state into network, average and optimizer; InputError where it is torn or of other arguments."""
    try:
        with safe_open(path, "pt") as file:
            described = parse_json((file.metadata() or {})["tilekit.training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        stored = described["arguments"]
        progress = Progress(**described["progress"])
    except FileNotFoundError:
        raise InputError(f"{path}: there is no state to resume from; train without --resume") from None
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise InputError(f"{path}: is no state of a training run ({error}); train without --resume") from None
    differing = sorted(k for k in stored.keys() | arguments.keys() if stored.get(k) != arguments.get(k))
    if differing:
        what = "; ".join(f"{k} was {stored.get(k)!r}, is {arguments.get(k)!r}" for k in differing[:3])
        raise InputError(f"{path}: cannot be resumed with other arguments: {what}; change them back, or train anew")
    own = {k.removeprefix("network."): t for k, t in tensors.items() if k.startswith("network.")}
    try:
        network.load_state_dict(own)
        for name, tensor in average.items():
            tensor.copy_(tensors[f"average.{name}"])
    except (RuntimeError, KeyError) as error:
        raise InputError(f"{path}: its tensors are not the network's ({error}); train without --resume") from None
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            entries.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
    return progress
