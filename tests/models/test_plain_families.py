"""The families against their papers' and torchvision's forward passes, written a second time, and kept outputs."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.architecture import ARCHITECTURES
from models.encoders import resnet_stages
from models.families import build
from models.network import Network
from tests.models.test_families import Stack

KEPT = Path(__file__).parent / "data" / "families.npz"
"""Input x (1, 3, 32, 64) and logits of each family with the weights of `fixed`, as the functions below gave them."""
Weights = dict[str, Tensor]
CONFIGURATION_D = (1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M")


def fixed(net: Network) -> Weights:
    """Weights that hang on names alone, not on a generator of random numbers: small waves, and statistics near 1."""
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                place = torch.arange(tensor.numel(), dtype=torch.float64) + zlib.crc32(name.encode()) % 1000
                wave = torch.sin(place * 0.7 + place.square() * 0.01).view(tensor.shape)
                n = tensor[0].numel() if tensor.ndim == 4 else 1
                tensor.copy_(2.5 * wave / n**0.5 if n > 1 else wave * 0.1 + (not name.endswith(("bias", "mean"))))
    return net.eval().state_dict()


def conv(w: Weights, name: str, x: Tensor, **how: int) -> Tensor:
    return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), **how)  # type: ignore[arg-type]


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    parts = (w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts, eps=1e-5)


def vgg16_bn(w: Weights, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors after each pooling, and where in the plane the largest were."""
    pooled, where, number = [], [], 0
    for step in CONFIGURATION_D:
        name = f"encoder.features.{number}"
        if step == "M":
            x, positions = F.max_pool2d(x, 2, 2, return_indices=True)
            pooled.append(x)
            where.append(positions)
            number += 1
        else:
            x = F.relu(norm(w, f"encoder.features.{number + 1}", conv(w, name, x, padding=1)))
            number += 3
    return pooled, where


def fcn8s(w: Weights, x: Tensor) -> Tensor:
    (_, _, pool3, pool4, pool5), _ = vgg16_bn(w, x)
    x = F.relu(norm(w, "fc6_norm", conv(w, "fc6", pool5, padding=3)))
    x = F.relu(norm(w, "fc7_norm", conv(w, "fc7", x)))
    x = F.conv_transpose2d(conv(w, "head.score", x), w["head.up_pool4.weight"], stride=2, padding=1)
    x = x + conv(w, "head.score_pool4", pool4)
    x = F.conv_transpose2d(x, w["head.up_pool3.weight"], stride=2, padding=1)
    x = x + conv(w, "head.score_pool3", pool3)
    return F.conv_transpose2d(x, w["head.up.weight"], stride=8, padding=4)


def segnet(w: Weights, x: Tensor) -> Tensor:
    pooled, where = vgg16_bn(w, x)
    x = pooled[-1]
    for level, convolutions in ((4, 3), (3, 3), (2, 3), (1, 2), (0, 1)):
        x = F.max_unpool2d(x, where[level], 2, 2)
        for i in range(convolutions):
            x = F.relu(norm(w, f"up{level}_conv{i}_norm", conv(w, f"up{level}_conv{i}", x, padding=1)))
    return conv(w, "head", x, padding=1)


def block(w: Weights, name: str, x: Tensor, step: int, first: int, second: int) -> Tensor:
    """A basic block of a ResNet."""
    e = f"encoder.{name}"
    y = F.relu(norm(w, f"{e}.bn1", conv(w, f"{e}.conv1", x, stride=step, padding=first, dilation=first)))
    y = norm(w, f"{e}.bn2", conv(w, f"{e}.conv2", y, padding=second, dilation=second))
    if f"{e}.downsample.0.weight" in w:
        x = norm(w, f"{e}.downsample.1", conv(w, f"{e}.downsample.0", x, stride=step))
    return F.relu(x + y)


def deeplab(w: Weights, x: Tensor) -> Tensor:
    """v3+ on a ResNet-18 of stride 8, with rates of 2 and 4."""
    x = F.relu(norm(w, "encoder.bn1", conv(w, "encoder.conv1", x, stride=2, padding=3)))
    x = F.max_pool2d(x, 3, 2, 1)
    x = low = block(w, "layer1.1", block(w, "layer1.0", x, 1, 1, 1), 1, 1, 1)
    x = block(w, "layer2.1", block(w, "layer2.0", x, 2, 1, 1), 1, 1, 1)
    x = block(w, "layer3.1", block(w, "layer3.0", x, 1, 1, 2), 1, 2, 2)
    x = block(w, "layer4.1", block(w, "layer4.0", x, 1, 2, 4), 1, 4, 4)
    branches = [F.relu(norm(w, "aspp0_norm", conv(w, "aspp0", x)))]
    for i, rate in ((1, 2), (2, 4)):
        branches.append(F.relu(norm(w, f"aspp{i}_norm", conv(w, f"aspp{i}", x, padding=rate, dilation=rate))))
    x = F.relu(norm(w, "aspp_project_norm", conv(w, "aspp_project", torch.cat(branches, 1))))
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    x = torch.cat([F.relu(norm(w, "low_norm", conv(w, "low", low))), x], 1)
    for i in (0, 1):
        x = F.relu(norm(w, f"decoder_conv{i}_norm", conv(w, f"decoder_conv{i}", x, padding=1)))
    return F.interpolate(conv(w, "head", x), scale_factor=4, mode="bilinear", align_corners=False)


PLAIN: dict[str, tuple[str, dict[str, Any], Callable[[Weights, Tensor], Tensor]]] = {
    "fcn8s": ("FCN", {"base": 2, "hidden": 8, "batch_norm": True}, fcn8s),
    "segnet": ("SegNet", {"base": 2}, segnet),
    "deeplab": (
        "DeepLab",
        {"encoder": "resnet18", "base": 4, "width": 16, "rates": [2, 4], "output_stride": 8, "decoder": True},
        deeplab,
    ),
}


def sample() -> Tensor:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(64.0), indexing="ij")
    return torch.stack([torch.sin(0.2 * y + 0.1 * x), torch.cos(0.05 * x * y), torch.sin(0.3 * x)])[None]


@pytest.mark.parametrize("kind", PLAIN)
def test_a_family_gives_what_its_paper_says_and_what_it_gave_before(kind: str) -> None:
    name, settings, plain = PLAIN[kind]
    net = build(ARCHITECTURES[name].of({"in_channels": 3, "n_classes": 2} | settings))
    weights = fixed(net)
    with np.load(KEPT) as kept:
        x, wanted = torch.from_numpy(kept["x"]), torch.from_numpy(kept[kind]).float()
    assert wanted.std() > 0.01 * wanted.abs().max()
    with torch.no_grad():
        found, second = net(x), plain(weights, x)
    tolerance = 1e-5 * float(second.abs().max())
    torch.testing.assert_close(found, second, rtol=0, atol=tolerance)
    torch.testing.assert_close(found, wanted, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_dilated_encoder_gives_what_the_strided_one_gives_and_what_lies_between(
    encoder: str, output_stride: int
) -> None:
    """A stride turned into dilation: the same kernels see the same pixels."""
    strided, dilated = (
        Network(Stack(tuple(layer for s in resnet_stages(encoder, 1, 2, True, to) for layer in s))).eval()
        for to in (32, output_stride)
    )
    dilated.load_state_dict(fixed(strided))
    x, step = torch.rand(1, 1, 128, 96), 32 // output_stride
    with torch.no_grad():
        found, wanted = dilated(x)[:, :, ::step, ::step], strided(x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def write() -> None:
    """Make the kept file again, from the functions above: python -m tests.models.test_plain_families."""
    arrays = {"x": sample().numpy()}
    for kind, (name, settings, plain) in PLAIN.items():
        net = build(ARCHITECTURES[name].of({"in_channels": 3, "n_classes": 2} | settings))
        with torch.no_grad():
            arrays[kind] = plain(fixed(net), sample()).numpy()
    KEPT.parent.mkdir(exist_ok=True)
    np.savez_compressed(KEPT, **arrays)


if __name__ == "__main__":
    write()
