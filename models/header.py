"""What a checkpoint says of itself beside its weights, checked; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from models.architecture import ARCHITECTURES
from models.configuration import Architecture
from models.normalization import Normalization

FORMAT_VERSION = 1
HEADS = ("softmax", "sigmoid")


@dataclass(frozen=True, slots=True)
class Header:
    """Everything but the weights: enough to plan a run and to read the network's output."""

    architecture: str
    """Name in `ARCHITECTURES`."""
    config: Architecture
    """Arguments of the architecture."""
    class_names: tuple[str, ...]
    """One per class id from 0; with a sigmoid head one more than channels, the background first."""
    normalization: Normalization
    """From raw values to the network's input."""
    head: str
    """softmax: channels are classes 0..k-1; sigmoid: channels are classes 1..k, each with its threshold."""
    thresholds: tuple[float, ...]
    """Per sigmoid channel, the probability above which its class holds. Per softmax class t: the class is that of the
    largest p / t, so that of two classes (1 - t, t) the second holds above t; empty: the likeliest."""
    pixel_size: tuple[float, float] | None
    """Micrometres (y, x) of the images it was trained on; None where unknown."""
    channel_names: tuple[str, ...] | None
    """Of the image's channels, in the network's order; None where unknown."""

    @property
    def n_classes(self) -> int:
        """Class ids that it can give, at least 2."""
        return self.config.n_classes + (self.head == "sigmoid")

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Header:
        """From the stored JSON object or the arguments of `save`; ValueError says what is wrong with which number."""
        _check_keys(stored)
        name = stored["architecture"]
        if not isinstance(name, str) or name not in ARCHITECTURES:
            raise ValueError(f"architecture {name!r} is unknown to this version, which has {', '.join(ARCHITECTURES)}")
        if not isinstance(stored["config"], dict):
            raise ValueError(f"config is {stored['config']!r}, must be an object")
        config = ARCHITECTURES[name].of(stored["config"])
        head, thresholds = _head(stored["head"], stored.get("thresholds"), config.n_classes)
        n_classes = config.n_classes + (head == "sigmoid")
        names = _names("class_names", stored["class_names"], n_classes)
        normalization = Normalization.of(stored["normalization"], config.in_channels)
        channels = stored.get("channel_names")
        return cls(
            name, config, names, normalization, head, thresholds, _pixel_size(stored.get("pixel_size")),
            None if channels is None else _names("channel_names", channels, config.in_channels),
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """The JSON object that `of` reads."""
        return {
            "format_version": FORMAT_VERSION,
            "architecture": self.architecture,
            "config": self.config.as_dict(),
            "class_names": list(self.class_names),
            "normalization": self.normalization.as_dict(),
            "head": self.head,
            "thresholds": list(self.thresholds) or None,
            "pixel_size": None if self.pixel_size is None else list(self.pixel_size),
            "channel_names": None if self.channel_names is None else list(self.channel_names),
        }


def _check_keys(stored: dict[str, Any]) -> None:
    version = stored.get("format_version")
    if isinstance(version, bool) or version != FORMAT_VERSION:
        raise ValueError(f"format version {version!r} is unknown, this tilekit reads {FORMAT_VERSION}; update it")
    missing = {"architecture", "config", "class_names", "normalization", "head"} - set(stored)
    if missing:
        raise ValueError(f"its description lacks {sorted(missing)[0]!r}")


def _head(head: object, thresholds: object, n_channels: int) -> tuple[str, tuple[float, ...]]:
    if not isinstance(head, str) or head not in HEADS:
        raise ValueError(f"head is {head!r}, must be one of {', '.join(HEADS)}")
    if head == "softmax":
        if n_channels < 2:
            raise ValueError("a softmax head over 1 channel is always class 0; use head='sigmoid'")
        if thresholds is None:
            return "softmax", ()
    if n_channels > 253 and head == "sigmoid":
        raise ValueError(f"a sigmoid head of {n_channels} channels and background exceeds 254 classes")
    given = [0.5] * n_channels if thresholds is None else thresholds
    if not isinstance(given, (list, tuple)) or len(given) != n_channels:
        raise ValueError(f"thresholds are {given!r}, the network has {n_channels} channels; give one per channel")
    if not all(_is_number(t) and 0 < t < 1 for t in given):
        raise ValueError(f"thresholds are {given!r}, must lie between 0 and 1")
    return head, tuple(float(t) for t in given)


def _names(what: str, names: object, n: int) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(s, str) and s for s in names):
        raise ValueError(f"{what} is {names!r}, must be a list of names")
    if len(names) != n:
        raise ValueError(f"{what} holds {len(names)} names, the network has {n}; give one for each")
    return tuple(names)


def _pixel_size(size: object) -> tuple[float, float] | None:
    if size is None:
        return None
    if not isinstance(size, (list, tuple)) or len(size) != 2 or not all(_is_number(s) and s > 0 for s in size):
        raise ValueError(f"pixel_size is {size!r}, must be two micrometres above 0 (y, x)")
    return float(size[0]), float(size[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
