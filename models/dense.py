"""A classifier of patches made dense: patch by patch, as a fully convolutional network, shifted and stitched, à trous.

A classifier is a torch.nn.Sequential of unpadded Conv2d, MaxPool2d and elementwise layers, then Flatten and Linear. It
sees `patch` pixels a side and says what the middle one is. All these give the same map, at growing speed:

    sliding_window       each pixel's patch by itself                              n^2 patches
    convolutionalize     one pass; a score each f pixels (f: product of steps)     no pixel computed twice
    shift_and_stitch     f^2 passes over shifted images, interleaved               a score for each pixel
    a_trous              one pass; each step turned into a dilation of the rest    likewise, in one pass
"""

from __future__ import annotations

import copy
from math import prod

import torch
from torch import Tensor, nn


def convolutionalize(classifier: nn.Sequential, patch: tuple[int, int]) -> nn.Sequential:
    """The same classifier as convolutions alone: (b, c, y, x) of any size from `patch` (y, x) on -> (b, k, y', x').

    The first fully connected layer becomes a convolution over all that is left of a patch, those after it 1x1. Weights
    are shared with the classifier, not copied. ValueError names a layer that cannot be made so.
    """
    layers: list[nn.Module] = []
    left: tuple[int, ...] = (1, *patch)
    is_flat = False
    for layer in classifier:
        if isinstance(layer, nn.Flatten):
            is_flat = True
        elif isinstance(layer, nn.Linear):
            if not is_flat:
                raise ValueError("a Linear before Flatten mixes no pixels; put Flatten first")
            layers.append(_as_convolution(layer, left))
            left = (layer.out_features, 1, 1)
        else:
            _check(layer)
            layers.append(layer)
            if not is_flat:
                left = _left_by(layer, left)
    return nn.Sequential(*layers)


def _as_convolution(layer: nn.Linear, left: tuple[int, ...]) -> nn.Conv2d:
    if layer.in_features != prod(left):
        raise ValueError(
            f"a Linear takes {layer.in_features} values, a patch leaves {left} = {prod(left)}; other patch"
        )
    conv = nn.Conv2d(left[0], layer.out_features, (left[1], left[2]), bias=layer.bias is not None, device="meta")
    conv.weight = nn.Parameter(layer.weight.detach().view(layer.out_features, *left), layer.weight.requires_grad)
    if layer.bias is not None:
        conv.bias = nn.Parameter(layer.bias.detach(), layer.bias.requires_grad)
    return conv.train(layer.training)


def _left_by(layer: nn.Module, left: tuple[int, ...]) -> tuple[int, ...]:
    """Channels and sides after this layer."""
    if not isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
        return left
    kernel, step, dilation = (_pair(value) for value in (layer.kernel_size, layer.stride, layer.dilation))
    sides = ((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(left[1:], kernel, step, dilation, strict=True))
    return (layer.out_channels if isinstance(layer, nn.Conv2d) else left[0], *sides)


def _pair(value: object) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore[arg-type, return-value]


_ELEMENTWISE = (nn.ReLU, nn.Identity, nn.Dropout, nn.Dropout2d, nn.BatchNorm2d, nn.Sigmoid, nn.Tanh, nn.LeakyReLU)


def _check(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
        if isinstance(layer.padding, str) or any(_pair(layer.padding)):
            raise ValueError(f"{layer} pads its input, so a patch in the image is not a patch by itself; unpadded only")
    elif not isinstance(layer, _ELEMENTWISE):
        raise ValueError(
            f"{type(layer).__name__} cannot be made dense; convolutions, poolings, elementwise, Linear only"
        )


def sliding_window(classifier: nn.Module, image: Tensor, patch: tuple[int, int], batch: int = 256) -> Tensor:
    """The baseline: every patch of an image (b, c, y, x) by itself, scores (b, k, y - patch + 1, x - patch + 1)."""
    ny, nx = image.shape[2] - patch[0] + 1, image.shape[3] - patch[1] + 1
    windows = image.unfold(2, patch[0], 1).unfold(3, patch[1], 1).permute(0, 2, 3, 1, 4, 5)  # (b, y, x, c, py, px)
    places = torch.arange(image.shape[0] * ny * nx)
    found = []
    for some in torch.split(places, batch):
        item, y, x = some // (ny * nx), some // nx % ny, some % nx
        found.append(classifier(windows[item, y, x]))
    return torch.cat(found).view(image.shape[0], ny, nx, -1).permute(0, 3, 1, 2)


def shift_and_stitch(network: nn.Module, factor: int, image: Tensor) -> Tensor:
    """The dense map of an unpadded network that gives one score each `factor` pixels: f^2 shifted passes, interleaved.

    Row i of the map is row i // f of the pass over the image without its first i % f rows; columns alike.
    """
    passes: list[list[Tensor]] = [[network(image[:, :, i:, j:]) for j in range(factor)] for i in range(factor)]
    b, k = passes[0][0].shape[:2]
    ny = sum(row[0].shape[2] for row in passes)
    nx = sum(found.shape[3] for found in passes[0])
    out = passes[0][0].new_empty((b, k, ny, nx))
    for i, row in enumerate(passes):
        for j, found in enumerate(row):
            out[:, :, i::factor, j::factor] = found
    return out


def a_trous(network: nn.Sequential) -> nn.Sequential:
    """The network of one pass that gives what `shift_and_stitch` does: no steps, all that follows one dilated by it.

    Takes a network of `convolutionalize`, whose weights it shares.
    """
    layers, dilation = [], 1
    for layer in network:
        _check(layer)
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
            layer = copy.copy(layer)
            step, own = _pair(layer.stride), _pair(layer.dilation)
            if step[0] != step[1]:
                raise ValueError(f"{layer} has two different steps; equal ones only")
            layer.stride, layer.dilation = (1, 1), (own[0] * dilation, own[1] * dilation)
            dilation *= step[0]
        layers.append(layer)
    return nn.Sequential(*layers)


def total_step(network: nn.Sequential) -> int:
    """Pixels from one score of a convolutionalized network to the next: f."""
    return prod(_pair(layer.stride)[0] for layer in network if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)))
