"""SegNet of Badrinarayanan, Kendall and Cipolla 2017 (arXiv 1511.00561): a decoder that knows where the largest were.

image -> stage 1 -> pool -> ... -> stage 5 -> pool     VGG-16; each pooling keeps its positions
                      : positions         :
logits <- stage 1 <- unpool <- ... <- stage 5 <- unpool     each the encoder's mirror image; stride 32
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from models.configuration import MAX_CHANNELS, Architecture, check_count
from models.encoders import VGG16, convolved, vgg_stages, vgg_widths
from models.receptive import Layer


@dataclass(frozen=True, slots=True)
class SegNetConfig(Architecture):
    """All that decides a SegNet's shape; the defaults are those of the paper, but for the classes."""

    name: ClassVar[str] = "SegNet"
    title: ClassVar[str] = "SegNet"
    in_channels: int = 3
    """Channels of the image."""
    n_classes: int = 2
    """Channels of the logits, at most 254; 1 for a sigmoid head of two classes."""
    base: int = 64
    """Channels of the first of VGG-16's stages; the last have 8 times as many."""
    batch_norm: bool = True
    """A batch norm between each convolution and its ReLU."""
    dropout: float = 0.0
    """Probability of dropping an element of the deepest tensor while training; the paper has none."""

    def __post_init__(self) -> None:
        check_count("base", self.base, 1, MAX_CHANNELS >> 3)
        self.check_common()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """In order of computation; ends with the 3x3 head."""
        return _layers(self)


@lru_cache(maxsize=64)
def _layers(c: SegNetConfig) -> tuple[Layer, ...]:
    widths = vgg_widths(c.base)
    layers: list[Layer] = []
    for stage, n in zip(vgg_stages(c.in_channels, c.base, c.batch_norm), widths, strict=True):
        layers += [*stage, Layer("pool_positions", n_in=n, n_out=n, kernel=2, step=2)]
    if c.dropout:
        layers.append(Layer("dropout", n_in=widths[-1], n_out=widths[-1]))
    for level in reversed(range(5)):
        n, convolutions = widths[level], VGG16[level]
        layers.append(Layer("unpool", n_in=n, n_out=n, step=2))
        for i in range(convolutions - (level == 0)):
            is_last = level and i == convolutions - 1
            layers += convolved(f"up{level}_conv{i}", n, widths[level - 1] if is_last else n, 3, c.batch_norm)
    return (*layers, Layer("conv", "head", c.base, c.n_classes, 3, 1))
