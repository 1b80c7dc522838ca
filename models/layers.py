"""The layers of the field's lecture notes that torch lacks or has in another form; images (b, c, y, x).

Positions in a cell of 2 x 2 are numbered in reading order, so they mean the same in every tile on the same phase:

    0 1
    2 3
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def max_pool_with_positions(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each 2 x 2 cell, and its position there, uint8; of equals the first in reading order."""
    best, *others = (x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1))
    positions = torch.zeros_like(best, dtype=torch.uint8)
    for number, other in enumerate(others, 1):
        wins = other > best
        positions.masked_fill_(wins, number)
        best = torch.where(wins, other, best)
    return best, positions


def max_unpool(x: Tensor, positions: Tensor) -> Tensor:
    """Each value at its position in a cell of 2 x 2, zeros in the other three: (b, c, y, x) -> (b, c, 2 y, 2 x)."""
    b, c, ny, nx = x.shape
    dense = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    out = torch.empty((b, c, 2 * ny, 2 * nx), dtype=x.dtype, device=x.device, memory_format=dense)
    for number in range(4):
        out[:, :, number // 2 :: 2, number % 2 :: 2] = x.where(positions == number, 0)
    return out


def nearest_unpool(x: Tensor, factor: int = 2) -> Tensor:
    """Each value at all pixels of its cell."""
    return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def bed_of_nails(x: Tensor, factor: int = 2) -> Tensor:
    """Each value at the first pixel of its cell, zeros elsewhere."""
    b, c, ny, nx = x.shape
    out = x.new_zeros((b, c, factor * ny, factor * nx))
    out[:, :, ::factor, ::factor] = x
    return out


def bilinear_weights(n_channels: int, factor: int) -> Tensor:
    """Weights (c, c, 2 f, 2 f) of an up-convolution of step f and padding f / 2 that interpolates each channel.

    Equal to bilinear up-sampling (align_corners=False) but within f / 2 pixels of the border, where that repeats the
    edge, and this one's missing neighbors are zero. For an even factor.
    """
    distance = (torch.arange(2 * factor, dtype=torch.float32) - factor + 0.5).abs() / factor
    ramp = 1 - distance
    return torch.eye(n_channels)[:, :, None, None] * torch.outer(ramp, ramp)


def fractionally_strided(x: Tensor, weight: Tensor, factor: int, padding: int = 0) -> Tensor:
    """The transposed convolution as an ordinary one: of x with zeros between its pixels, by the flipped kernel.

    weight (n_in, n_out, k, k), as torch.nn.functional.conv_transpose2d has it, to which this is equal.
    """
    spaced = bed_of_nails(x, factor)[:, :, : 1 - factor or None, : 1 - factor or None]
    flipped = weight.flip(2, 3).transpose(0, 1)
    return F.conv2d(spaced, flipped, padding=weight.shape[-1] - 1 - padding)


def atrous(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Unpadded convolution with taps `dilation` pixels apart, x (b, c, y, x), weight (o, c, k, k).

    Each of the dilation^2 phases of x is convolved as an image of its own. Equal to conv2d(..., dilation=dilation).
    """
    b, _, ny, nx = x.shape
    lost = dilation * (weight.shape[-1] - 1)
    out = x.new_empty((b, weight.shape[0], ny - lost, nx - lost))
    for i in range(dilation):
        for j in range(dilation):
            place = out[:, :, i::dilation, j::dilation]
            if place.numel():
                place.copy_(F.conv2d(x[:, :, i::dilation, j::dilation], weight))
    return out
