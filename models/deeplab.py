"""DeepLab (Chen et al. 2018, arXiv 1606.00915; v3 1706.05587, v3+ 1802.02611): atrous encoder, pyramid, bilinear.

    image -> encoder, stride 8 or 16 -+-> 1x1 ------------+
      (beyond it strides are          +-> 3x3 at rate 6 --+
      dilations: a trained kernel     +-> 3x3 at rate 12 -+-> concatenated -> 1x1 -> head 1x1 -> bilinear, x8 or x16
      sees what it was trained on)    +-> ...             |
                                      +-> image pool -----+       (if asked for: tiles can then not be exact)

With the decoder of v3+ the features of stride 4, made narrow by a 1x1, are concatenated before two 3x3 and the head.
Up-sampling has align_corners=False: with True a tile's pixels would hang on its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from models.configuration import MAX_CHANNELS, Architecture, check_choice, check_count
from models.encoders import RESNETS, convolved, keep, pool, resnet_stages, resnet_widths, swap, vgg_stages, vgg_widths
from models.receptive import Layer

ENCODERS = ("vgg16", *RESNETS)


@dataclass(frozen=True, slots=True)
class DeepLabConfig(Architecture):
    """All that decides a DeepLab's shape; the defaults are v3's without its image pool."""

    name: ClassVar[str] = "DeepLab"
    title: ClassVar[str] = "DeepLab"
    in_channels: int = 3
    """Channels of the image."""
    n_classes: int = 2
    """Channels of the logits, at most 254; 1 for a sigmoid head of two classes."""
    encoder: str = "resnet50"
    """"vgg16", "resnet18", "resnet34", "resnet50" or "resnet101"."""
    base: int = 64
    """Channels of the encoder's first convolution."""
    output_stride: int = 16
    """8 or 16: of the encoder; its other strides are turned into dilations."""
    rates: tuple[int, ...] = (6, 12, 18)
    """Dilations of the pyramid's 3x3 convolutions."""
    width: int = 256
    """Channels of each branch of the pyramid, and of the decoder."""
    image_pool: bool = False
    """True: one more branch, the mean of the whole tile: such a network cannot be exact."""
    decoder: bool = False
    """True: that of v3+, from features of stride 4."""
    batch_norm: bool = True
    """A batch norm between each convolution and its ReLU."""
    dropout: float = 0.5
    """Probability of dropping an element of the pyramid's sum while training."""

    def __post_init__(self) -> None:
        check_choice("encoder", self.encoder, ENCODERS)
        check_count("base", self.base, 1, MAX_CHANNELS >> 5)
        check_count("width", self.width, 1, MAX_CHANNELS)
        if type(self.output_stride) is not int or self.output_stride not in (8, 16):
            raise ValueError(f"output_stride is {self.output_stride!r}, must be 8 or 16")
        rates: object = self.rates
        if not isinstance(rates, (list, tuple)) or not 1 <= len(rates) <= 8:
            raise ValueError(f"rates are {rates!r}, must be 1 to 8 whole numbers")
        object.__setattr__(self, "rates", tuple(rates))  # JSON has lists
        for rate in self.rates:
            check_count("a rate", rate, 1, 1024)
        for name in ("image_pool", "decoder"):
            check_choice(name, getattr(self, name), (False, True))
        self.check_common()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """In order of computation; the head is a 1x1 convolution before the last up-sampling, which is the last."""
        return _layers(self)


@lru_cache(maxsize=64)
def _layers(c: DeepLabConfig) -> tuple[Layer, ...]:
    """The narrow features of stride 4 are kept (v3+), rather than the wide ones that they are made of."""
    at_4, deep, n_low, n_deep = _vgg(c) if c.encoder == "vgg16" else _resnet(c)
    narrow, k = max(1, 3 * c.width // 16), c.n_classes  # 48 of 256, as the paper
    layers = list(at_4)
    if c.decoder:
        layers += [keep(n_low), *convolved("low", n_low, narrow, 1, c.batch_norm, bias=False), swap(n_low)]
    layers += [*deep, *_pyramid(c, n_deep)]
    if c.dropout:
        layers.append(Layer("dropout", n_in=c.width, n_out=c.width))
    if not c.decoder:
        return (*layers, Layer("conv", "head", c.width, k), Layer("bilinear", n_in=k, n_out=k, step=c.output_stride))
    both = c.width + narrow
    layers += [Layer("bilinear", n_in=c.width, n_out=c.width, step=c.output_stride // 4),
               Layer("concat", n_in=both, n_out=both)]  # fmt: skip
    layers += convolved("decoder_conv0", both, c.width, 3, c.batch_norm, bias=False)
    layers += convolved("decoder_conv1", c.width, c.width, 3, c.batch_norm, bias=False)
    return (*layers, Layer("conv", "head", c.width, k), Layer("bilinear", n_in=k, n_out=k, step=4))


def _pyramid(c: DeepLabConfig, n: int) -> list[Layer]:
    """Atrous spatial pyramid pooling: n channels to `width`."""
    branches = [convolved("aspp0", n, c.width, 1, c.batch_norm, bias=False)]
    for i, rate in enumerate(c.rates, 1):
        branches.append(convolved(f"aspp{i}", n, c.width, 3, c.batch_norm, dilation=rate, bias=False))
    if c.image_pool:
        first, *rest = convolved("aspp_image", n, c.width, 1, c.batch_norm, bias=False)
        branches.append([Layer("image_pool", first.name, n, c.width, bias=first.bias), *rest])
    layers: list[Layer] = []
    for branch in branches[:-1]:
        layers += [keep(n), *branch, swap(n)]
    layers += branches[-1]
    for joined in range(2, len(branches) + 1):
        layers.append(Layer("concat", n_in=joined * c.width, n_out=joined * c.width))
    return layers + convolved("aspp_project", len(branches) * c.width, c.width, 1, c.batch_norm, bias=False)


def _resnet(c: DeepLabConfig) -> tuple[list[Layer], list[Layer], int, int]:
    """Layers to stride 4, those beyond, and the channels that each gives."""
    first, *others = resnet_stages(c.encoder, c.in_channels, c.base, c.batch_norm, c.output_stride)
    widths = resnet_widths(c.encoder, c.base)
    return first, [layer for stage in others for layer in stage], widths[0], widths[-1]


def _vgg(c: DeepLabConfig) -> tuple[list[Layer], list[Layer], int, int]:
    """Likewise; a pooling of step 1 in the place of each whose stride is not taken, as the paper's."""
    dilations = (1, 1, 1, 1, 2) if c.output_stride == 8 else (1, 1, 1, 1, 1)
    widths = vgg_widths(c.base)
    stages = []
    for number, stage in enumerate(vgg_stages(c.in_channels, c.base, c.batch_norm, dilations)):
        n, is_taken = widths[number], 2 << number <= c.output_stride
        end = pool(n) if is_taken else Layer("pool", n_in=n, n_out=n, kernel=3, padding=1)
        stages.append([*stage, end])
    at_4 = stages[0] + stages[1]
    return at_4, [layer for stage in stages[2:] for layer in stage], widths[1], widths[-1]
