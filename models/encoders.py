"""VGG-16 and ResNets as lists of layers, stage by stage, named as torchvision names them, below "encoder."."""

from __future__ import annotations

from collections.abc import Sequence

from models.receptive import Layer

VGG16 = (2, 2, 3, 3, 3)
"""3x3 convolutions of each stage (Simonyan and Zisserman 2015, configuration D); a 2x2 pooling ends a stage."""


def vgg_widths(base: int) -> tuple[int, ...]:
    """Channels of each stage."""
    return base, 2 * base, 4 * base, 8 * base, 8 * base


def vgg_stages(
    in_channels: int, base: int, batch_norm: bool, dilations: Sequence[int] = (1, 1, 1, 1, 1)
) -> list[list[Layer]]:
    """The convolutions of the five stages, without the poolings that follow each; same size ("same" padding)."""
    stages, number, n_in = [], 0, in_channels
    for convolutions, n, dilation in zip(VGG16, vgg_widths(base), dilations, strict=True):
        stage: list[Layer] = []
        for _ in range(convolutions):
            stage += convolved(f"encoder.features.{number}", n_in, n, 3, batch_norm, dilation=dilation,
                               norm=f"encoder.features.{number + 1}")  # fmt: skip
            number, n_in = number + (3 if batch_norm else 2), n
        stages.append(stage)
        number += 1  # of the pooling
    return stages


RESNETS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
}
"""Blocks of the four stages, and whether these are bottlenecks (He et al. 2016)."""


def resnet_widths(kind: str, base: int) -> tuple[int, ...]:
    """Channels that each of the four stages gives."""
    return tuple((base << stage) * (4 if RESNETS[kind][1] else 1) for stage in range(4))


def resnet_stages(kind: str, in_channels: int, base: int, batch_norm: bool, output_stride: int) -> list[list[Layer]]:
    """The four stages of a ResNet, its first convolution and pooling in the first; stride 32, or less where asked for.

    A stride that is not taken dilates all that follows it, so that kernels trained with it see the same pixels.
    """
    blocks, is_bottleneck = RESNETS[kind]
    stem = convolved("encoder.conv1", in_channels, base, 7, batch_norm, norm="encoder.bn1", step=2, bias=False)
    stages, n_in, taken, dilation = [], base, 4, 1
    for number, (count, n_out) in enumerate(zip(blocks, resnet_widths(kind, base), strict=True)):
        stage = [*stem, Layer("pool", n_in=base, n_out=base, kernel=3, padding=1, step=2)] if number == 0 else []
        step, before = 1, dilation
        if number and taken < output_stride:
            step, taken = 2, taken * 2
        elif number:
            dilation *= 2
        for i in range(count):
            name, first = f"encoder.layer{number + 1}.{i}", before if i == 0 else dilation
            block = _bottleneck if is_bottleneck else _basic
            stage += block(name, n_in, n_out, batch_norm, step if i == 0 else 1, first, dilation)
            n_in = n_out
        stages.append(stage)
    return stages


def _bottleneck(
    name: str, n_in: int, n_out: int, batch_norm: bool, step: int, first: int, dilation: int
) -> list[Layer]:
    """1x1, 3x3 (with the step and the dilation before it), 1x1, and what it began with added."""
    n = n_out // 4
    main = _normed(f"{name}.conv1", n_in, n, 1, batch_norm)
    main += _normed(f"{name}.conv2", n, n, 3, batch_norm, step=step, dilation=first)
    main += _normed(f"{name}.conv3", n, n_out, 1, batch_norm, relu=False)
    return _residual(name, main, n_in, n_out, batch_norm, step)


def _basic(name: str, n_in: int, n_out: int, batch_norm: bool, step: int, first: int, dilation: int) -> list[Layer]:
    """3x3 (with the step and the dilation before it), 3x3, and what it began with added."""
    main = _normed(f"{name}.conv1", n_in, n_out, 3, batch_norm, step=step, dilation=first)
    main += _normed(f"{name}.conv2", n_out, n_out, 3, batch_norm, dilation=dilation, relu=False)
    return _residual(name, main, n_in, n_out, batch_norm, step)


def _normed(name: str, n_in: int, n: int, kernel: int, batch_norm: bool, **how: int) -> list[Layer]:
    relu = bool(how.pop("relu", True))
    return convolved(name, n_in, n, kernel, batch_norm, norm=name.replace(".conv", ".bn"), bias=False, relu=relu, **how)


def _residual(name: str, main: list[Layer], n_in: int, n_out: int, batch_norm: bool, step: int) -> list[Layer]:
    """Where size or channels change, the shortcut is a 1x1 convolution."""
    layers = [keep(n_in), *main]
    if step > 1 or n_in != n_out:
        down = f"{name}.downsample"
        layers += [swap(n_in), *convolved(f"{down}.0", n_in, n_out, 1, batch_norm, norm=f"{down}.1", step=step,
                                          bias=False, relu=False)]  # fmt: skip
    return [*layers, Layer("add", n_in=n_out, n_out=n_out), Layer("relu", n_in=n_out, n_out=n_out)]


def convolved(
    name: str, n_in: int, n: int, kernel: int, batch_norm: bool, *,
    norm: str = "", step: int = 1, dilation: int = 1, bias: bool = True, relu: bool = True,
) -> list[Layer]:  # fmt: skip
    """A convolution that keeps the size (or divides it by `step`), its batch norm (or none) and its ReLU."""
    padding = (kernel - 1) * dilation // 2
    layers = [Layer("conv", name, n_in, n, kernel, padding, step, dilation, bias or not batch_norm)]
    if batch_norm:
        layers.append(Layer("batch_norm", norm or f"{name}_norm", n, n))
    return [*layers, Layer("relu", n_in=n, n_out=n)] if relu else layers


def pool(n: int) -> Layer:
    """Max pooling of 2 x 2."""
    return Layer("pool", n_in=n, n_out=n, kernel=2, step=2)


def keep(n: int) -> Layer:
    """Keep the tensor, and go on with it."""
    return Layer("skip", n_in=n, n_out=n)


def swap(n: int) -> Layer:
    """Go on with what was kept last (n channels), and keep the tensor instead."""
    return Layer("swap", n_in=n, n_out=n)
