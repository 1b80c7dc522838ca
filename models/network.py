"""The one walker that executes lists of layers, and the families' networks as torch modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.configuration import Architecture
from models.layers import bilinear_weights, max_pool_with_positions, max_unpool
from models.receptive import Layer, admits, nearest_inputs


class Network(nn.Module):
    """(b, in_channels, y, x) float -> logits (b, n_classes, y', x'), by the layers of an architecture, in order.

    Inputs whose poolings would meet a side that they do not divide are refused with ValueError, never padded.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        for layer in architecture.layers:
            if layer.name:
                _register(self, layer.name, _module(layer))
        self.reset_parameters()

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that rebuild this network: type(net)(**net.config)."""
        return self.architecture.as_dict()

    def reset_parameters(self) -> None:
        """He initialisation: Gaussian of std sqrt(2 / N), N incoming nodes of one neuron; biases 0.

        N is kernel^2 x in_channels; of an up-convolution's 2x2 kernel one tap reaches each pixel, so N = in_channels.
        Up-convolutions whose kernels overlap begin as bilinear interpolation.
        """
        for module in self.modules():
            if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                continue
            if isinstance(module, nn.ConvTranspose2d) and module.kernel_size[0] == 2 * module.stride[0]:
                with torch.no_grad():
                    module.weight.copy_(bilinear_weights(module.in_channels, module.stride[0]))
            else:
                taps = module.kernel_size[0] ** 2 if isinstance(module, nn.Conv2d) else 1
                nn.init.normal_(module.weight, std=(2 / (taps * module.in_channels)) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, one channel per class; each tensor is let go as soon as no later layer needs it."""
        self._check(x)
        kept: list[Tensor] = []
        parts: list[Tensor] = []
        for layer in self.architecture.layers:
            if layer.kind == "skip":
                kept.append(x)
            elif layer.kind == "swap":
                x, kept[-1] = kept[-1], x
            elif layer.kind == "concat":  # lets the uncropped one go
                parts.insert(0, _crop(kept.pop(), x).contiguous(memory_format=_format(x)))
            elif layer.kind == "add":
                x = x.add_(_crop(kept.pop(), x))
            elif layer.kind == "pool_positions":
                x, positions = max_pool_with_positions(x)
                kept.append(positions)
            elif layer.kind == "unpool":
                x = max_unpool(x, kept.pop())
            elif parts:
                x = self._convolve_all(layer, parts, x)
            else:
                x = self._apply_layer(layer, x)
        return x

    def _convolve_all(self, layer: Layer, parts: list[Tensor], x: Tensor) -> Tensor:
        """The convolution of (*parts, x) concatenated, as a sum of convolutions: no copy of all is ever made.

        For a U-Net a quarter less memory at its peak than torch.cat, in the same time. Empties `parts`.
        """
        conv = self.get_submodule(layer.name)
        assert isinstance(conv, nn.Conv2d)
        dense, start = _format(x), parts[0].shape[1]
        how: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        weight = conv.weight[:, :start].contiguous(memory_format=dense)  # (n_out, n of this part, k, k)
        out = F.conv2d(parts.pop(0), weight, conv.bias, **how)
        while start < conv.in_channels:
            part = parts.pop(0) if parts else x
            stop = start + part.shape[1]
            out.add_(F.conv2d(part, conv.weight[:, start:stop].contiguous(memory_format=dense), **how))
            start = stop
        return out

    def _apply_layer(self, layer: Layer, x: Tensor) -> Tensor:
        if layer.kind == "image_pool":
            mean = self.get_submodule(layer.name)(x.mean((2, 3), keepdim=True))  # (b, n_out, 1, 1)
            return mean.expand(-1, -1, *x.shape[2:]).contiguous(memory_format=_format(x))  # type: ignore[no-any-return]
        if layer.kind == "conv" and layer.kernel == 1 < layer.step:
            # Sliced first: torch 2.13 on CPUs crashes in the gradient of such a convolution of a channels_last tensor.
            x = x[:, :, :: layer.step, :: layer.step].contiguous(memory_format=_format(x))
            conv = self.get_submodule(layer.name)
            return F.conv2d(x, conv.weight, conv.bias)  # type: ignore[arg-type]
        if layer.name:
            return self.get_submodule(layer.name)(x)  # type: ignore[no-any-return]
        if layer.kind == "relu":
            return F.relu_(x)
        if layer.kind == "pool":
            return F.max_pool2d(x, layer.kernel, layer.step, layer.padding)
        if layer.kind == "dropout":
            return F.dropout(x, self.architecture.dropout, self.training)
        if layer.kind == "bilinear":
            return F.interpolate(x, scale_factor=layer.step, mode="bilinear", align_corners=False)
        return F.interpolate(x, scale_factor=layer.step, mode="nearest")

    def _check(self, x: Tensor) -> None:
        title = self.architecture.title
        if x.ndim != 4 or x.shape[1] != self.architecture.in_channels:
            wanted = f"(b, {self.architecture.in_channels}, y, x)"
            raise ValueError(f"input of shape {tuple(x.shape)} does not fit this {title}, which takes {wanted}")
        for side in x.shape[2:]:
            if not admits(self.architecture.layers, side):
                near = " or ".join(map(str, nearest_inputs(self.architecture.layers, side)))
                raise ValueError(f"an input side of {side} pixels does not pass through this {title}; use {near}")


def _register(root: nn.Module, name: str, module: nn.Module) -> None:
    """Under a name with dots, by way of empty modules."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)


def _module(layer: Layer) -> nn.Module:
    if layer.kind in ("conv", "image_pool"):
        return nn.Conv2d(
            layer.n_in, layer.n_out, layer.kernel, layer.step, layer.padding, layer.dilation, bias=layer.bias
        )
    if layer.kind == "up_conv":
        padding = (layer.kernel - layer.step) // 2
        return nn.ConvTranspose2d(layer.n_in, layer.n_out, layer.kernel, layer.step, padding, bias=layer.bias)
    if layer.kind == "batch_norm":
        return nn.BatchNorm2d(layer.n_out)
    return nn.InstanceNorm2d(layer.n_out, affine=True)


def _format(x: Tensor) -> torch.memory_format:
    dense = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if dense else torch.contiguous_format


def _crop(kept: Tensor, x: Tensor) -> Tensor:
    """The middle of `kept`, as large as x: with admissible inputs the same pixels as x, on the same phase."""
    top, left = (kept.shape[2] - x.shape[2]) // 2, (kept.shape[3] - x.shape[3]) // 2
    return kept[:, :, top : top + x.shape[2], left : left + x.shape[3]]
