"""The rule that turns an image's raw values into a network's input: a shift and a scale per channel, stored with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LISTS = {"range": (), "none": (), "mean_std": ("mean", "std"), "percentile": ("low", "high")}

FAR = 10.0
"""Spreads between the mean of an image and that of training from which on they are taken for other units."""


@dataclass(frozen=True, slots=True)
class Normalization:
    """Network input = (raw value - shift) / scale, in float32, never clipped.

    range: integers divided by their dtype's maximum, floats (and booleans) as they are. none: as they are.
    mean_std, percentile: one pair of numbers per channel, in the image's raw units.
    """

    kind: str
    """range, mean_std, percentile or none."""
    first: tuple[float, ...] = ()
    """Per channel: the mean, or the low percentile's value (becomes 0)."""
    second: tuple[float, ...] = ()
    """Per channel: the standard deviation, or the high percentile's value (becomes 1)."""

    @classmethod
    def of(cls, rule: object, in_channels: int) -> Normalization:
        """From a plain dict, as stored or given to `save`; ValueError says what is wrong with it."""
        if not isinstance(rule, dict) or not isinstance(rule.get("kind"), str) or rule["kind"] not in _LISTS:
            raise ValueError(f"normalization is {rule!r}, its kind must be one of {', '.join(_LISTS)}")
        names = _LISTS[rule["kind"]]
        if set(rule) != {"kind", *names}:
            raise ValueError(f"normalization {rule['kind']!r} has {sorted(rule)}, must have {sorted(('kind', *names))}")
        first, second = (_numbers(name, rule[name], in_channels) for name in names) if names else ((), ())
        made = cls(rule["kind"], first, second)
        if any(scale <= 0 for scale in made._scales()):
            raise ValueError(f"normalization {names[1]} is {list(second)}, leaves a scale that is not above 0")
        return made

    def as_dict(self) -> dict[str, Any]:
        """What `of` reads."""
        pair = zip(_LISTS[self.kind], (list(self.first), list(self.second)), strict=False)
        return {"kind": self.kind, **dict(pair)}

    def doubt(self, means: Sequence[float]) -> str | None:
        """What is odd about an image with these means per channel, None for nothing: units other than training's."""
        for mean, usual, spread in zip(means, self.first, self._scales(), strict=False):
            if abs(mean - usual) > FAR * spread:
                return (
                    f"the image's mean is {mean:.4g}, the network was trained on values about {usual:.4g}, spread "
                    f"{spread:.4g}; where these are other units (16 bits for 8), rescale the image"
                )
        return None

    def _scales(self) -> tuple[float, ...]:
        if self.kind == "percentile":
            return tuple(high - low for low, high in zip(self.first, self.second, strict=True))
        return self.second

    def shift_and_scale(self, dtype: np.dtype[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per channel (mean_std, percentile), or one number for all (range of integers), or nothing to do: empty."""
        if self.kind == "range" and dtype.kind in "iu":
            return (), (float(np.iinfo(dtype).max),)
        return self.first, self._scales()

    def apply(self, x: NDArray[Any], *, axis: int) -> NDArray[np.float32]:
        """A new float32 array: x normalised, its channels along `axis`. What training must do as the predictor does."""
        shift, scale = self.shift_and_scale(x.dtype)
        shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
        out = x.astype(np.float32)
        if shift:
            out -= np.asarray(shift, np.float32).reshape(shape)
        if scale:
            out /= np.asarray(scale, np.float32).reshape(shape)
        return out


def _numbers(name: str, values: object, n: int) -> tuple[float, ...]:
    values = list(values) if isinstance(values, (list, tuple, np.ndarray)) else values
    if not isinstance(values, list) or len(values) != n:
        has = f"{len(values)} numbers" if isinstance(values, list) else repr(values)
        raise ValueError(f"normalization {name} has {has}, the network has {n} channels; give one per channel")
    return tuple(_number(name, value) for value in values)


def _number(name: str, value: Any) -> float:
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.number)) or not isfinite(value):
        raise ValueError(f"normalization {name} holds {value!r}, must hold finite numbers")
    return float(value)
