"""The U-Net by its configuration: its layers and parameter shapes, without torch; and all architectures by name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from models.configuration import MAX_CHANNELS, Architecture, check_choice, check_count
from models.deeplab import DeepLabConfig
from models.fcn import FCNConfig
from models.receptive import Kind, Layer
from models.segnet import SegNetConfig

UPSAMPLINGS = ("learned", "bilinear", "nearest")


@dataclass(frozen=True, slots=True)
class UNetConfig(Architecture):
    """All that decides a U-Net's shape; the defaults are those of Ronneberger et al. 2015."""

    name: ClassVar[str] = "UNet"
    title: ClassVar[str] = "U-Net"
    in_channels: int = 1
    """Channels of the image."""
    n_classes: int = 2
    """Channels of the logits, at most 254; 1 for a sigmoid head of two classes."""
    base: int = 64
    """Channels of the first level; each level below has twice as many."""
    depth: int = 4
    """Poolings; the stride is 2**depth."""
    padding: str = "valid"
    """"valid": unpadded 3x3 convolutions; "same": zero-padded ones."""
    batch_norm: bool = False
    """True: a batch norm between each 3x3 convolution and its ReLU."""
    instance_norm: bool = False
    """True: an instance norm there instead, which looks at the whole tile: such a network cannot be exact."""
    upsampling: str = "learned"
    """"learned": 2x2 up-convolution; "bilinear" or "nearest": 1x1 convolution, then up-sampled by two."""
    dropout: float = 0.5
    """Probability of dropping an element on the two deepest levels while training."""

    def __post_init__(self) -> None:
        check_count("depth", self.depth, 1, 8)
        check_count("base", self.base, 1, MAX_CHANNELS >> self.depth)
        check_choice("padding", self.padding, ("valid", "same"))
        check_choice("upsampling", self.upsampling, UPSAMPLINGS)
        check_choice("instance_norm", self.instance_norm, (False, True))
        self.check_common()
        if self.batch_norm and self.instance_norm:
            raise ValueError("batch_norm and instance_norm are both True; choose one")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """In order of computation; ends with the 1x1 head."""
        return _unet_layers(self)


@lru_cache(maxsize=64)
def _unet_layers(config: UNetConfig) -> tuple[Layer, ...]:
    """Down: depth times (two 3x3, keep, pool), then two 3x3; up: depth times (up, concat, two 3x3); 1x1 head."""
    layers: list[Layer] = []
    width = [config.base << level for level in range(config.depth + 1)]
    n_in = config.in_channels
    for level, n in enumerate(width):
        layers += _two_convs(config, f"down{level}", n_in, n)
        if config.dropout and level >= config.depth - 1:
            layers.append(Layer("dropout", n_in=n, n_out=n))
        if level < config.depth:
            layers += [Layer("skip", n_in=n, n_out=n), Layer("pool", n_in=n, n_out=n, kernel=2, step=2)]
        n_in = n
    for level in reversed(range(config.depth)):
        n = width[level]
        layers += _up(config, f"up{level}", 2 * n, n)
        layers.append(Layer("concat", n_in=2 * n, n_out=2 * n))
        layers += _two_convs(config, f"up{level}", 2 * n, n)
    return (*layers, Layer("conv", "head", config.base, config.n_classes))


def _two_convs(config: UNetConfig, name: str, n_in: int, n: int) -> list[Layer]:
    layers = []
    for i, source in enumerate((n_in, n)):
        padding = 1 if config.padding == "same" else 0
        layers.append(Layer("conv", f"{name}_conv{i}", source, n, 3, padding))
        if config.batch_norm or config.instance_norm:
            layers.append(Layer("batch_norm" if config.batch_norm else "instance_norm", f"{name}_norm{i}", n, n))
        layers.append(Layer("relu", n_in=n, n_out=n))
    return layers


def _up(config: UNetConfig, name: str, n_in: int, n: int) -> list[Layer]:
    if config.upsampling == "learned":
        return [Layer("up_conv", name, n_in, n, kernel=2, step=2)]
    # A 1x1 convolution and interpolation commute (both linear, weights that sum to one): before it costs a quarter.
    kind: Kind = "bilinear" if config.upsampling == "bilinear" else "nearest"
    return [Layer("conv", name, n_in, n), Layer(kind, n_in=n, n_out=n, step=2)]


ARCHITECTURES: dict[str, type[Architecture]] = {
    kind.name: kind for kind in (UNetConfig, FCNConfig, SegNetConfig, DeepLabConfig)
}
