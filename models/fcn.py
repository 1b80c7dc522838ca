"""The fully convolutional networks of Long, Shelhamer and Darrell 2015 (arXiv 1411.4038): FCN-32s, 16s, 8s on VGG-16.

    image -> stage 1..5, each ended by a pooling -> fc6 (7x7), fc7 (1x1) -> score (1x1)      stride 32
                          |        `-- pool4 -> score_pool4 (1x1) ----------- + <-- x2       16s and 8s
                          `----------- pool3 -> score_pool3 (1x1) ----------- + <-- x2       8s
                                                                              x32, x16 or x8

The originals pad the image by 100 zeros and crop scores by fixed offsets; here convolutions pad by half their
kernels ("same"), so that scores of all strides lie on each other and nothing is cropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from models.configuration import MAX_CHANNELS, Architecture, check_choice, check_count
from models.encoders import convolved, keep, pool, swap, vgg_stages, vgg_widths
from models.receptive import Layer

STRIDES = ("32s", "16s", "8s")


@dataclass(frozen=True, slots=True)
class FCNConfig(Architecture):
    """All that decides an FCN's shape; the defaults are those of the paper's FCN-8s, but for channels and classes."""

    name: ClassVar[str] = "FCN"
    title: ClassVar[str] = "FCN"
    in_channels: int = 3
    """Channels of the image."""
    n_classes: int = 2
    """Channels of the logits, at most 254; 1 for a sigmoid head of two classes."""
    variant: str = "8s"
    """"32s", "16s" or "8s": the stride of the finest scores that are added."""
    base: int = 64
    """Channels of the first of VGG-16's stages; the last have 8 times as many."""
    hidden: int = 4096
    """Channels of fc6 and fc7, the fully connected layers that became convolutions."""
    batch_norm: bool = False
    """True: a batch norm between each convolution of the encoder, fc6 and fc7, and its ReLU."""
    dropout: float = 0.5
    """Probability of dropping an element after fc6 and fc7 while training."""

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, STRIDES)
        check_count("base", self.base, 1, MAX_CHANNELS >> 3)
        check_count("hidden", self.hidden, 1, MAX_CHANNELS)
        self.check_common()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """In order of computation; ends with the last up-convolution."""
        return _layers(self)


@lru_cache(maxsize=64)
def _layers(c: FCNConfig) -> tuple[Layer, ...]:
    added = {"32s": (), "16s": (4,), "8s": (3, 4)}[c.variant]
    widths, k = vgg_widths(c.base), c.n_classes
    layers: list[Layer] = []
    for number, (stage, n) in enumerate(zip(vgg_stages(c.in_channels, c.base, c.batch_norm), widths, strict=True), 1):
        layers += [*stage, pool(n)]
        if number in added:  # the score is kept, which is smaller than what it is of
            layers += [keep(n), Layer("conv", f"head.score_pool{number}", n, k), swap(n)]
    for name, n_in, kernel in (("fc6", widths[-1], 7), ("fc7", c.hidden, 1)):
        layers += convolved(name, n_in, c.hidden, kernel, c.batch_norm)
        if c.dropout:
            layers.append(Layer("dropout", n_in=c.hidden, n_out=c.hidden))
    layers.append(Layer("conv", "head.score", c.hidden, k))
    for number in reversed(added):
        layers += [_up(f"head.up_pool{number}", k, 2), Layer("add", n_in=k, n_out=k)]
    return (*layers, _up("head.up", k, 32 >> len(added)))


def _up(name: str, n: int, factor: int) -> Layer:
    """An up-convolution that begins as bilinear interpolation, and learns."""
    return Layer("up_conv", name, n, n, kernel=2 * factor, step=factor, bias=False)
