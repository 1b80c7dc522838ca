"""How a network is trained: two presets, and every number that they set."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "constant")
LOSSES = ("cross_entropy", "dice", "focal", "cross_entropy+dice")
CHOICES = ("uniform", "class", "weight")
FREEZES = ("none", "encoder")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the trained weights beside network, data and augmentation. Defaults: `modern`."""

    steps: int = 4000
    """Updates of the weights."""
    batch: int = 4
    """Patches of one forward pass, on each device."""
    side: int = 128
    """Side in pixels of a patch's core, where the loss is taken: a multiple of the stride."""
    choose: str = "uniform"
    """Where patches have their centers: anywhere, evenly by class, or by the weight of the loss."""
    drop: float = 0.0
    """Share of the pixels left out of the loss, drawn anew for each patch."""
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    """At its highest; the loss is normalized by the sum of its weights, so it does not depend on the patch's side."""
    momentum: float = 0.9
    """Of sgd; the first moment's decay of adamw."""
    weight_decay: float = 1e-4
    warm_up: int = 100
    """Steps over which the learning rate rises from 0."""
    schedule: str = "cosine"
    """cosine: falls to 0 as half a cosine; constant."""
    accumulate: int = 1
    """Batches to an update."""
    ema: float = 0.995
    """Decay of the exponential moving average of the weights, which is what is validated and saved; 0: none."""
    precision: str = "float32"
    """bfloat16: mixed precision."""
    loss: str = "cross_entropy"
    freeze: str = "none"
    """encoder: the layers down to the deepest keep their weights."""
    every: int = 500
    """Steps from one validation, and one stored state, to the next."""
    patience: int = 0
    """Validations without a better score after which training stops; 0: never."""
    seed: int = 0

    def __post_init__(self) -> None:
        _check_whole(self, steps=1, batch=1, side=1, warm_up=0, accumulate=1, every=1, patience=0, seed=0)
        _check_number(self, "learning_rate", 0, math.inf, above=True)
        _check_number(self, "weight_decay", 0, math.inf)
        for name in ("drop", "momentum", "ema"):
            _check_number(self, name, 0, 1)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, must be one of {', '.join(choices)}")

    @classmethod
    def of(cls, preset: str, **changes: Any) -> Recipe:
        """A preset with some numbers changed; None changes nothing. ValueError names what is unknown."""
        if preset not in PRESETS:
            raise ValueError(f"preset is {preset!r}, must be one of {', '.join(PRESETS)}")
        unknown = sorted(set(changes) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"a recipe has no {unknown[0]!r}")
        return replace(PRESETS[preset], **{name: value for name, value in changes.items() if value is not None})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / self.warm_up) if self.warm_up else 1.0
        if self.schedule == "constant":
            return self.learning_rate * warm
        after = max(0, step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * warm * (1 + math.cos(math.pi * after)) / 2


_CHOICES = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "loss": LOSSES,
    "choose": CHOICES,
    "freeze": FREEZES,
    "precision": PRECISIONS,
}


def _check_whole(recipe: Recipe, **lowest: int) -> None:
    for name, low in lowest.items():
        value = getattr(recipe, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{name} is {value!r}, must be a whole number from {low} up")


def _check_number(recipe: Recipe, name: str, low: float, high: float, *, above: bool = False) -> None:
    value = getattr(recipe, name)
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value < high
    if not fits or (above and value == low):
        limits = f"above {low}" if above else f"at least {low}"
        raise ValueError(f"{name} is {value!r}, must be {limits}" + (f" and below {high}" if high < math.inf else ""))


PRESETS = {
    "modern": Recipe(),
    # Ronneberger et al. 2015, section 3: one large tile, stochastic gradient descent, momentum 0.99
    "paper": Recipe(
        batch=1, side=384, optimizer="sgd", learning_rate=1e-3, momentum=0.99, weight_decay=0.0, schedule="constant",
        warm_up=0, ema=0.0,
    ),
}  # fmt: skip
