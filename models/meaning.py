"""What a network from elsewhere takes and gives: its channels, its classes, and how its numbers are to be read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from models.header import _head, _names, _pixel_size
from models.normalization import Normalization

OUTPUTS = ("logits", "probabilities")


@dataclass(frozen=True, slots=True)
class Meaning:
    """As in a checkpoint's description (models.header), which says of itself what these fields say."""

    in_channels: int
    """Channels of the image."""
    out_channels: int
    """Of the network's output."""
    class_names: tuple[str, ...]
    """One per class id from 0; with a sigmoid head one more than channels, the background first."""
    normalization: Normalization
    """From raw values to the network's input."""
    head: str
    """softmax: channels are classes 0..k-1; sigmoid: channels are classes 1..k, each with its threshold."""
    thresholds: tuple[float, ...]
    """Per sigmoid channel, or per softmax class."""
    outputs: str
    """"logits"; "probabilities": the network ends with the soft-max or sigmoid."""
    pixel_size: tuple[float, float] | None
    """Micrometres (y, x) of the images it was trained on; None where unknown."""
    channel_names: tuple[str, ...] | None
    """Of the image's channels, in the network's order; None where unknown."""
    window: int | None
    """Side in pixels of the images it was trained on, for blending; None where unknown."""

    @property
    def n_classes(self) -> int:
        """Class ids that it can give, at least 2."""
        return self.out_channels + (self.head == "sigmoid")

    @classmethod
    def of(cls, stored: dict[str, Any], in_channels: int, out_channels: int) -> Meaning:
        """From a description, whose keys may all be missing; ValueError says what is wrong with which."""
        head, thresholds = _head(
            stored.get("head", "sigmoid" if out_channels == 1 else "softmax"), stored.get("thresholds"), out_channels
        )
        n = out_channels + (head == "sigmoid")
        names = stored.get("classes", ["background", *(f"class {i}" for i in range(1, n))])
        channels, outputs = stored.get("channel_names"), stored.get("outputs", "logits")
        if outputs not in OUTPUTS:
            raise ValueError(f"outputs is {outputs!r}, must be {' or '.join(OUTPUTS)}")
        return cls(
            in_channels,
            out_channels,
            _names("classes", names, n),
            Normalization.of(stored.get("normalization", {"kind": "range"}), in_channels),
            head,
            thresholds,
            outputs,
            _pixel_size(stored.get("pixel_size")),
            None if channels is None else _names("channel_names", channels, in_channels),
            _window(stored.get("window")),
        )


def _window(side: object) -> int | None:
    if side is not None and (type(side) is not int or side < 1):
        raise ValueError(f"window is {side!r}, must be a whole number of pixels")
    return side


KEYS = {"head", "thresholds", "classes", "channel_names", "outputs", "normalization", "pixel_size", "window"}
"""Keys of a description that `Meaning.of` reads."""
assert len(fields(Meaning)) == len(KEYS) + 2
