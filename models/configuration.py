"""What all architectures have in common: checked settings, and from these layers and parameter shapes; no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from typing import Any, ClassVar, Self, cast

from models.receptive import Layer

MAX_CLASSES = 254
MAX_CHANNELS = 65536


class Architecture:
    """The settings of a network, each family a frozen dataclass of its own; its layers follow from them."""

    __slots__ = ()
    name: ClassVar[str]
    """In checkpoints."""
    title: ClassVar[str]
    """In messages."""
    in_channels: int
    n_classes: int
    batch_norm: bool
    dropout: float

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """From a plain dict, as stored; ValueError naming what is unknown."""
        unknown = sorted(set(values) - {field.name for field in fields(cast(Any, cls))})
        if unknown:
            raise ValueError(f"{cls.name} has no setting {unknown[0]!r}")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        return asdict(cast(Any, self))

    def changed(self, **changes: Any) -> Self:
        """With other values of these settings."""
        return cast(Self, replace(cast(Any, self), **changes))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """In order of computation."""
        raise NotImplementedError

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of each stored float32 tensor to its shape, as torch's state_dict has them."""
        return {name: shape for layer in self.layers for name, shape in _shapes(layer)}

    def check_common(self) -> None:
        """ValueError where a setting that all have is out of its range."""
        check_count("in_channels", self.in_channels, 1, 1024)
        check_count("n_classes", self.n_classes, 1, MAX_CLASSES)
        check_choice("batch_norm", self.batch_norm, (False, True))
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}, must be at least 0 and below 1")


def check_count(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, must be a whole number from {low} to {high}")


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"{name} is {value!r}, must be one of {', '.join(map(str, choices))}")


def _shapes(layer: Layer) -> list[tuple[str, tuple[int, ...]]]:
    if layer.kind in ("conv", "up_conv", "image_pool"):
        pair = (layer.n_in, layer.n_out) if layer.kind == "up_conv" else (layer.n_out, layer.n_in)
        weight = (f"{layer.name}.weight", (*pair, layer.kernel, layer.kernel))
        return [weight, (f"{layer.name}.bias", (layer.n_out,))] if layer.bias else [weight]
    if layer.kind == "batch_norm":
        return [(f"{layer.name}.{part}", (layer.n_out,)) for part in ("weight", "bias", "running_mean", "running_var")]
    if layer.kind == "instance_norm":
        return [(f"{layer.name}.{part}", (layer.n_out,)) for part in ("weight", "bias")]
    return []
