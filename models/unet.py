"""The U-Net of Ronneberger, Fischer and Brox 2015 (arXiv 1505.04597), as a torch module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.architecture import UNetConfig
from models.receptive import Layer, admits, nearest_inputs


class UNet(nn.Module):
    """U-Net: (b, in_channels, y, x) float -> logits (b, n_classes, y', x').

    The defaults are the paper's: 31.0 million parameters, unpadded, 64 to 1024 channels, He-initialised. y' = y - 184
    with depth 4 and padding="valid"; y' = y with padding="same". Inputs whose poolings would meet an odd side are
    refused with ValueError, never padded. The layers, in order, are `UNetConfig.layers`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 2,
        base: int = 64,
        depth: int = 4,
        padding: str = "valid",
        *,
        batch_norm: bool = False,
        instance_norm: bool = False,
        upsampling: str = "learned",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.architecture = UNetConfig(
            in_channels, n_classes, base, depth, padding, batch_norm, instance_norm, upsampling, dropout
        )
        for layer in self.architecture.layers:
            if layer.name:
                self.add_module(layer.name, _module(layer))
        self.reset_parameters()

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that rebuild this network: UNet(**net.config)."""
        return self.architecture.as_dict()

    def reset_parameters(self) -> None:
        """He initialisation: Gaussian of std sqrt(2 / N), N incoming nodes of one neuron; biases 0 (section 3).

        N is kernel^2 x in_channels; of an up-convolution's 2x2 kernel one tap reaches each pixel, so N = in_channels.
        """
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                taps = module.kernel_size[0] ** 2 if isinstance(module, nn.Conv2d) else 1
                nn.init.normal_(module.weight, std=(2 / (taps * module.in_channels)) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, one channel per class; each tensor is let go as soon as no later layer needs it."""
        self._check(x)
        skips: list[Tensor] = []
        layers = self.architecture.layers
        for previous, layer in zip((None, *layers), layers, strict=False):
            if layer.kind == "skip":
                skips.append(x)
            elif previous is not None and previous.kind == "concat":
                x = self._convolve_both(layer, skips, x)
            elif layer.kind != "concat":
                x = self._apply_layer(layer, x)
        return x

    def _convolve_both(self, layer: Layer, skips: list[Tensor], x: Tensor) -> Tensor:
        """The convolution of (last skip cropped, x) concatenated, as the sum of two: no copy of both is ever made.

        A quarter less memory at its peak than torch.cat, in the same time.
        """
        conv = self.get_submodule(layer.name)
        assert isinstance(conv, nn.Conv2d)
        dense = _format(x)
        skip = _crop(skips.pop(), x).contiguous(memory_format=dense)  # (b, n, y, x): lets the uncropped one go
        n = skip.shape[1]
        of_skip, of_x = conv.weight[:, :n], conv.weight[:, n:]  # (n, n, 3, 3) each
        out = F.conv2d(skip, of_skip.contiguous(memory_format=dense), conv.bias, padding=conv.padding)
        del skip
        return out.add_(F.conv2d(x, of_x.contiguous(memory_format=dense), padding=conv.padding))

    def _apply_layer(self, layer: Layer, x: Tensor) -> Tensor:
        if layer.name:
            return self.get_submodule(layer.name)(x)  # type: ignore[no-any-return]
        if layer.kind == "relu":
            return F.relu_(x)
        if layer.kind == "pool":
            return F.max_pool2d(x, 2)
        if layer.kind == "dropout":
            return F.dropout(x, self.architecture.dropout, self.training)
        if layer.kind == "bilinear":
            return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return F.interpolate(x, scale_factor=2, mode="nearest")

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.architecture.in_channels:
            wanted = f"(b, {self.architecture.in_channels}, y, x)"
            raise ValueError(f"input of shape {tuple(x.shape)} does not fit this U-Net, which takes {wanted}")
        for side in x.shape[2:]:
            if not admits(self.architecture.layers, side):
                near = " or ".join(map(str, nearest_inputs(self.architecture.layers, side)))
                raise ValueError(f"an input side of {side} pixels does not pass through this U-Net; use {near}")


def _module(layer: Layer) -> nn.Module:
    if layer.kind == "conv":
        return nn.Conv2d(layer.n_in, layer.n_out, layer.kernel, padding=layer.padding)
    if layer.kind == "up_conv":
        return nn.ConvTranspose2d(layer.n_in, layer.n_out, 2, stride=2)
    if layer.kind == "batch_norm":
        return nn.BatchNorm2d(layer.n_out)
    return nn.InstanceNorm2d(layer.n_out, affine=True)


def _format(x: Tensor) -> torch.memory_format:
    dense = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if dense else torch.contiguous_format


def _crop(skip: Tensor, x: Tensor) -> Tensor:
    """The middle of `skip`, as large as x: with admissible inputs the same pixels as x, on the same phase."""
    top, left = (skip.shape[2] - x.shape[2]) // 2, (skip.shape[3] - x.shape[3]) // 2
    return skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]
