"""Encoders and pyramid against torchvision's own modules with the same weights, by outputs kept in a small file.

The file is made again where torchvision can be imported: PYTHONPATH=FOLDER python -m tests.models.test_torchvision,
FOLDER being what `pip download torchvision --no-deps` brought, unpacked (its Python models alone are used).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.architecture import ARCHITECTURES
from models.deeplab import DeepLabConfig, _pyramid
from models.encoders import pool, resnet_stages, vgg_stages
from models.families import build
from models.network import Network
from models.receptive import Layer
from tests.models.test_families import Stack
from tests.models.test_plain_families import fixed

KEPT = Path(__file__).parent / "data" / "torchvision.npz"
"""Of each kind up to 64 values of torchvision's output, evenly spread."""
N_KEPT = 64
CONFIGURATION_D = [1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M"]
RESNETS = {
    f"{kind}, stride {stride}": (kind, stride)
    for kind, stride in (("resnet18", 32), ("resnet34", 32), ("resnet50", 32), ("resnet50", 16), ("resnet50", 8))
}
PYRAMID = DeepLabConfig(width=256, rates=(12, 24, 36), image_pool=True)
"""That of torchvision's deeplabv3_resnet50 behind an encoder of stride 8; here of an input of 32 channels."""
BASE, HIDDEN, PATCH = 2, 8, 224


def sample(n: int, side: int = 64) -> Tensor:
    """(1, n, side, side + 32), waves."""
    c, y, x = torch.meshgrid(torch.arange(n) + 1.0, torch.arange(float(side)), torch.arange(side + 32.0), indexing="ij")
    return torch.sin(0.2 * y / c + 0.13 * c * x + 0.01 * x * y)[None]


def spread(output: Tensor) -> Tensor:
    flat = output.flatten()
    return flat[:: max(1, len(flat) // N_KEPT)][:N_KEPT]


def stacked(layers: list[list[Layer]], n: int) -> Network:
    return Network(Stack(tuple(layer for stage in layers for layer in stage), in_channels=n)).eval()


def vgg(batch_norm: bool) -> Network:
    stages = vgg_stages(3, BASE, batch_norm)
    return stacked([[*stage, pool(BASE << min(i, 3))] for i, stage in enumerate(stages)], 3)


def fully_connected() -> Network:
    """FCN-32s, whose fc7 at the middle of a patch of 224 pixels is what VGG-16's classifier has there."""
    return build(ARCHITECTURES["FCN"].of({"variant": "32s", "base": BASE, "hidden": HIDDEN, "dropout": 0.0})).eval()


OURS: dict[str, Callable[[], Network]] = {
    "vgg16": lambda: vgg(False),
    "vgg16_bn": lambda: vgg(True),
    **{
        name: lambda kind=kind, to=to: stacked(resnet_stages(kind, 3, 64, True, to), 3)  # type: ignore[misc]
        for name, (kind, to) in RESNETS.items()
    },
    "aspp": lambda: stacked([_pyramid(PYRAMID, 32)], 32),
}


@pytest.mark.parametrize("kind", OURS)
def test_outputs_are_torchvisions(kind: str) -> None:
    net = OURS[kind]()
    fixed(net)
    with np.load(KEPT) as kept, torch.no_grad():
        wanted, found = torch.from_numpy(kept[kind]), spread(net(sample(net.architecture.in_channels)))
    assert wanted.std() > 0.01 * wanted.abs().max()
    away = float((found - wanted).abs().max() / wanted.abs().max())
    print(f"{kind}: {away:.1e} of the largest")
    assert away < 1e-5


def test_the_fully_connected_layers_of_a_classifier_are_those_of_an_fcn() -> None:
    net = fully_connected()
    fixed(net)
    seen: list[Tensor] = []
    net.get_submodule("fc7").register_forward_hook(lambda *args: seen.append(args[-1]))
    with np.load(KEPT) as kept, torch.no_grad():
        net(sample(3, PATCH)[..., :PATCH])
        wanted = torch.from_numpy(kept["classifier"])
    found = torch.relu(seen[0])[0, :, 3, 3]
    assert wanted.std() > 0.01 * wanted.abs().max()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


# Making the file: torchvision's modules, given the weights of ours.


def theirs() -> dict[str, tuple[nn.Module, str]]:
    """torchvision's module of each kind, and what its names are prefixed with in ours."""
    # its compiled operators are of CUDA builds; its models need none of them, but for the names of two
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision.models import resnet, vgg
    from torchvision.models.segmentation.deeplabv3 import ASPP

    narrow: list[Any] = [step if step == "M" else BASE * int(step) for step in CONFIGURATION_D]
    found: dict[str, tuple[nn.Module, str]] = {
        "vgg16": (vgg.make_layers(narrow), "encoder.features."),
        "vgg16_bn": (vgg.make_layers(narrow, batch_norm=True), "encoder.features."),
        "aspp": (ASPP(32, list(PYRAMID.rates)), ""),
    }
    for name, (kind, to) in RESNETS.items():
        dilated = [False, to == 8, to <= 16]
        net = getattr(resnet, kind)(replace_stride_with_dilation=dilated)
        net.avgpool = net.fc = nn.Identity()
        found[name] = (net, "encoder.")
    classifier = vgg.VGG(vgg.make_layers(narrow))
    classifier.classifier[0] = nn.Linear(8 * BASE * 49, HIDDEN)
    classifier.classifier[3] = nn.Linear(HIDDEN, HIDDEN)
    classifier.classifier[6] = nn.Identity()
    found["classifier"] = (classifier, "encoder.")
    return found


def named(kind: str, name: str, prefix: str) -> str:
    """Our name of one of torchvision's tensors."""
    if kind == "classifier" and name.startswith("classifier"):
        return name.replace("classifier.0", "fc6").replace("classifier.3", "fc7")
    if kind != "aspp":
        return prefix + name
    head, _, part = name.rpartition(".")
    *where, last = head.split(".")
    n_branches = 1 + len(PYRAMID.rates)
    branch = "aspp_project" if where[0] == "project" else f"aspp{where[1]}"
    branch = "aspp_image" if branch == f"aspp{n_branches}" else branch
    is_norm = int(last) == (2 if branch == "aspp_image" else 1)
    return f"{branch}{'_norm' if is_norm else ''}.{part}"


def write() -> None:
    """Run torchvision's modules with the weights of ours, and say how far ours are from them."""
    arrays = {}
    for kind, (net, prefix) in theirs().items():
        ours = fully_connected() if kind == "classifier" else OURS[kind]()
        weights = fixed(ours)
        own = {
            name: weights[named(kind, name, prefix)].reshape(tensor.shape)
            for name, tensor in net.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        missing, foreign = net.eval().load_state_dict(own, strict=False)
        assert not foreign
        assert all(name.endswith("num_batches_tracked") for name in missing)
        x = sample(32 if kind == "aspp" else 3, PATCH if kind == "classifier" else 64)
        with torch.no_grad():
            output = net(x[..., :PATCH] if kind == "classifier" else x)
            if kind != "classifier":
                full = ours(x).flatten()
                away = (full - output.flatten()).abs().max() / output.abs().max()
                print(f"{kind}: {tuple(output.shape)}, largest difference {float(away):.1e} of the largest")
        arrays[kind] = (output.flatten() if kind == "classifier" else spread(output)).numpy()
    np.savez_compressed(KEPT, **arrays)


if __name__ == "__main__":
    write()
