"""Every family against its paper's counts, against brute force, and through the product on images of odd sizes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tilekit
from models import load, save
from models.architecture import ARCHITECTURES
from models.configuration import Architecture
from models.families import build
from models.network import Network
from models.optimization import freeze, train_mode
from models.receptive import Layer, reach, smallest_input, spans, stride, whole_tile_layers
from models.starting import trained_network
from tests.oracles import LOGIT_TOLERANCE, Recorder, structured_image, ties
from tests.test_exact import Liar, assert_same_classes, classes_of

SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "fcn32s": ("FCN", {"variant": "32s", "base": 4, "hidden": 16}),
    "fcn16s": ("FCN", {"variant": "16s", "base": 4, "hidden": 16, "batch_norm": True}),
    "fcn8s": ("FCN", {"variant": "8s", "base": 4, "hidden": 16, "batch_norm": True}),
    "segnet": ("SegNet", {"base": 2}),
    "segnet plain": ("SegNet", {"base": 2, "batch_norm": False, "dropout": 0.1}),
    "deeplab resnet18": (
        "DeepLab",
        {"encoder": "resnet18", "base": 2, "width": 8, "rates": (3,), "output_stride": 8},
    ),
    "deeplab resnet50": ("DeepLab", {"encoder": "resnet50", "base": 2, "width": 8, "rates": (2, 3), "decoder": True}),
    "deeplab vgg16": ("DeepLab", {"encoder": "vgg16", "base": 2, "width": 8, "rates": (2, 4), "output_stride": 8}),
}
"""A small one of each kind."""
SIZE = (131, 77)
RIM = 384
"""More than any of their halos."""


def small(kind: str, **changes: Any) -> Architecture:
    name, options = SMALL[kind]
    return ARCHITECTURES[name].of({"in_channels": 1, "n_classes": 3} | options | changes)


def randomised(net: Network, seed: int = 0) -> Network:
    """All its parameters and statistics random, the classes of its logits about equally frequent."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("bias"):
                tensor.normal_(0, 0.05, generator=generator)
            elif (
                tensor.ndim == 4 and tensor.shape[-1] % 2 == 0
            ):  # up-convolutions: bilinear, and something of their own
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.01)
            elif tensor.ndim == 4:
                n = prod(tensor.shape[1:])
                tensor.normal_(0, (2 / n) ** 0.5, generator=generator)
            elif name.endswith("weight"):
                tensor.uniform_(0.7, 1.3, generator=generator)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0  # statistics of this one image
        net.train()(
            torch.from_numpy(structured_image((2, net.architecture.in_channels, 256, 256), np.uint8)).float() / 255
        )
        image = structured_image((net.architecture.in_channels, *SIZE), np.uint8, 3)
        logits = torch.from_numpy(whole_image_logits(net.eval(), image, 256)).flatten(1)
        heads = [m for name, m in net.named_modules() if name.startswith("head") and isinstance(m, torch.nn.Conv2d)]
        scale = 2 / logits.std(1).mean()
        for head in heads:
            head.weight *= scale
            head.bias *= scale
        heads[-1].bias -= logits.median(1).values * scale
    return net


def whole_image_logits(net: Network, pixels: np.ndarray, rim: int) -> np.ndarray:
    """Logits (k, y, x) of one pass over (c, y, x) uint8, with `rim` mirrored pixels and more around, cut off again."""
    step = stride(net.architecture.layers)
    sides = [(rim, rim + -n % step) for n in pixels.shape[1:]]
    padded = np.pad(pixels, [(0, 0), *sides], mode="reflect").astype(np.float32) / 255
    with torch.inference_mode():
        logits = net(torch.from_numpy(padded)[None])[0].numpy()
    return logits[:, rim : rim + pixels.shape[1], rim : rim + pixels.shape[2]].copy()


@pytest.mark.parametrize("kind", SMALL)
def test_tiled_equals_whole_on_an_odd_size_and_less_halo_does_not(kind: str, tmp_path: Path) -> None:
    net = randomised(build(small(kind)))
    save(net, tmp_path / "m.safetensors")
    predictor = load(tmp_path / "m.safetensors", device="cpu")
    assert predictor.exact
    assert max(*predictor.halo.before, *predictor.halo.after) < RIM - 32
    step, size = predictor.stride[0], SIZE
    image = structured_image((1, *size), np.uint8, 3)
    logits = whole_image_logits(predictor.network, image, RIM)  # batch norm folded, which alone moves logits by 1e-5
    assert np.bincount(logits.argmax(0).ravel(), minlength=3).min() > 0.01 * prod(size)

    def segmented(predictor: Any) -> tuple[np.ndarray, float]:
        out = tmp_path / "out.zarr"
        tilekit.predict(image, predictor, out, tile=64, block=128, overwrite=True)
        stitched = predictor.stitched(size, 128, (64, 64))
        return classes_of(out), float(np.abs(stitched - logits).max() / np.abs(logits).max())

    classes, distance = segmented(Recorder(predictor))
    assert_same_classes(classes, logits)
    assert distance <= LOGIT_TOLERANCE
    honest = distance
    for lie in ({"short": (step, 0)}, {"short": (0, step)}, {"shift": 1}):  # halos are whole strides: padded networks
        classes, distance = segmented(Liar(predictor, **lie))
        differing = ((classes != logits.argmax(0)) & ~ties(logits)).sum()
        print(
            f"{kind}, {lie}, {predictor.halo.before[0]} and {predictor.halo.after[0]}: {distance:.1e}, {differing} px"
        )
        assert distance > max(10 * honest, 1e-7)  # the farthest pixel of 50 layers weighs little
        assert differing > 0 or "short" in lie


# What is clean, pixel by pixel, in float64: there a tile shows what the whole image shows, and nowhere else.


@dataclass(frozen=True)
class Stack(Architecture):
    """Any list of layers."""

    name: ClassVar[str] = "Stack"
    title: ClassVar[str] = "stack"
    steps: tuple[Layer, ...] = ()
    in_channels: int = 1
    n_classes: int = 1
    batch_norm: bool = False
    dropout: float = 0.0

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.steps


def check_spans(net: Network, size: int, *, loose: bool = False) -> None:
    """Perturb pixels on each side of a tile: all that does not change are the pixels that are called clean."""
    layers, generator = net.architecture.layers, torch.Generator().manual_seed(0)
    *_, last = spans(layers, size)
    step = stride(layers)
    rim = (max(last.start + last.offset, size - last.stop, 1) // step + 3) * step
    whole = torch.rand(1, net.architecture.in_channels, size, size + 2 * rim, generator=generator, dtype=torch.float64)
    tile = whole[..., rim : rim + size]
    with torch.no_grad():
        of_tile = net(tile)[0]
        of_whole = net(whole)[0]
    out_step = last.step
    assert of_tile.shape[-1] == last.size
    start = rim // out_step
    same = (of_tile - of_whole[..., start : start + last.size]).abs().amax((0, 1)) < 1e-9
    clean = torch.zeros(last.size, dtype=torch.bool)
    clean[max(last.start, 0) : max(last.stop, 0)] = True
    assert bool(same[clean].all()), f"called clean {last}, the same {same.nonzero().flatten().tolist()[:3]}"
    pools = any("pool" in layer.kind for layer in layers)  # the largest of some may be no other
    reach = step if pools else 1
    for edge in (same[max(last.start - reach, 0) : last.start], same[last.stop : last.stop + reach]):
        assert (loose and pools) or not len(edge) or not edge.all(), f"{last} is not tight"


@pytest.mark.parametrize("kind", SMALL)
def test_clean_pixels_of_a_family_are_those_that_no_other_input_changes(kind: str) -> None:
    net = randomised(build(small(kind))).double()
    needs = reach(net.architecture.layers)
    check_spans(net, needs.before + needs.stride + needs.after)


@st.composite
def stacks(draw: st.DrawFn) -> tuple[Layer, ...]:
    """Convolutions with strides and dilations, poolings, branches and up-samplings, in an order that is possible."""
    n = 2
    layers, depth = [Layer("conv", "first", 1, n, 3, draw(st.integers(0, 1)))], 0
    for i in range(draw(st.integers(1, 6))):
        what = draw(st.sampled_from(["conv", "atrous", "strided", "pool2", "pool3", "up", "branch", "positions"]))
        if what in ("conv", "atrous"):
            kernel, dilation = draw(st.sampled_from([1, 3, 5])), draw(st.integers(2, 3)) if what == "atrous" else 1
            padding = draw(st.sampled_from([0, (kernel - 1) * dilation // 2]))
            layers.append(Layer("conv", f"conv{i}", n, n, kernel, padding, dilation=dilation))
        elif what == "strided" and depth < 3:
            layers.append(Layer("conv", f"strided{i}", n, n, 7, 3, step=2))
            depth += 1
        elif what == "pool2" and depth < 3:
            layers.append(Layer("pool", n_in=n, n_out=n, kernel=2, step=2))
            depth += 1
        elif what == "pool3" and depth < 3:
            layers.append(Layer("pool", n_in=n, n_out=n, kernel=3, padding=1, step=2))
            depth += 1
        elif what == "up" and depth:
            step = 2 ** draw(st.integers(1, depth))
            kind = draw(st.sampled_from(["nearest", "bilinear", "up_conv", "overlapping"]))
            depth -= step.bit_length() - 1
            if kind in ("nearest", "bilinear"):
                layers.append(Layer(kind, n_in=n, n_out=n, step=step))
            else:
                layers.append(Layer("up_conv", f"up{i}", n, n, step if kind == "up_conv" else 2 * step, step=step))
        elif what == "branch":
            ends = draw(st.sampled_from(["add", "concat"]))
            dilation = draw(st.integers(1, 4))
            layers += [Layer("skip", n_in=n, n_out=n), Layer("conv", f"left{i}", n, n, 3, dilation, dilation=dilation),
                       Layer("swap", n_in=n, n_out=n), Layer("conv", f"right{i}", n, n)]  # fmt: skip
            if ends == "add":
                layers.append(Layer("add", n_in=n, n_out=n))
            else:
                layers += [Layer("concat", n_in=2 * n, n_out=2 * n), Layer("conv", f"both{i}", 2 * n, n)]
        elif what == "positions" and depth < 3:
            layers.append(Layer("pool_positions", n_in=n, n_out=n, kernel=2, step=2))
            layers += [Layer("conv", f"deep{i}", n, n, 3, 1), Layer("unpool", n_in=n, n_out=n, step=2)]
    if depth:
        layers.append(Layer("nearest", n_in=n, n_out=n, step=2**depth))
    return tuple(layers)


@given(stacks(), st.integers(0, 3))
@settings(max_examples=60)
def test_clean_pixels_of_any_stack_are_those_that_no_other_input_changes(layers: tuple[Layer, ...], more: int) -> None:
    torch.manual_seed(0)
    net = Network(Stack(layers)).double().eval()
    for parameter in net.parameters():
        parameter.detach().uniform_(0.1, 1)
    check_spans(net, smallest_input(layers) + (8 + more) * stride(layers), loose=True)


# What the papers say.


@pytest.mark.parametrize(
    ("name", "settings", "parameters"),
    [
        ("UNet", {}, 31_030_658),  # about 31.0 M
        # VGG-16's convolutions 14,714,688; fc6 of 7 x 7 x 512 x 4096, fc7 of 4096 x 4096, and biases 119,545,856
        ("FCN", {"variant": "32s", "n_classes": 21}, 134_260_544 + 4097 * 21 + 21 * 21 * 64**2),
        ("FCN", {"variant": "16s", "n_classes": 21}, 134_260_544 + (4097 + 513) * 21 + 21 * 21 * (4**2 + 32**2)),
        ("FCN", {"variant": "8s", "n_classes": 21}, 134_260_544 + 4867 * 21 + 21 * 21 * (2 * 4**2 + 16**2)),
        ("SegNet", {"n_classes": 11}, 29_449_355),  # about 29.5 M
    ],
)
def test_parameters_are_those_of_the_papers_tables(name: str, settings: dict[str, Any], parameters: int) -> None:
    shapes = ARCHITECTURES[name].of(settings).parameter_shapes
    assert sum(prod(s) for n, s in shapes.items() if not n.endswith(("running_mean", "running_var"))) == parameters


def test_parameters_of_segnet_by_the_papers_table() -> None:
    encoder = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    decoder = [512, 512, 512, 512, 512, 512, 256, 256, 256, 128, 128, 64, 64]
    pairs = [*pairwise(encoder), *pairwise(decoder)]
    norms = 2 * (sum(b for _, b in pairs))
    assert sum(9 * a * b + b for a, b in pairs) + norms + 9 * 64 * 11 + 11 == 29_449_355


@pytest.mark.parametrize(
    ("encoder", "parameters"),
    [("resnet18", 11_176_512), ("resnet34", 21_284_672), ("resnet50", 23_508_032), ("resnet101", 42_500_160)],
)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_an_encoder_has_the_parameters_of_the_classifier_without_its_last_layer(
    encoder: str, parameters: int, output_stride: int
) -> None:
    shapes = ARCHITECTURES["DeepLab"].of({"encoder": encoder, "output_stride": output_stride}).parameter_shapes
    own = {n: s for n, s in shapes.items() if n.startswith("encoder.") and "running" not in n}
    assert sum(map(prod, own.values())) == parameters


def test_image_pooling_is_recognised() -> None:
    layers = small("deeplab resnet18", image_pool=True).layers
    assert whole_tile_layers(layers) == ["image_pool"]
    assert reach(layers) == reach(small("deeplab resnet18").layers)


@pytest.mark.parametrize("kind", SMALL)
def test_shapes_are_torchs_and_gradients_reach_every_parameter(kind: str) -> None:
    config = small(kind, dropout=0.3)
    net = build(config).train()
    found = {n: tuple(t.shape) for n, t in net.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert found == config.parameter_shapes
    step = stride(config.layers)
    x = torch.randn(2, 1, 64 + step, 64).contiguous(memory_format=torch.channels_last)
    net.to(memory_format=torch.channels_last)(x).square().mean().backward()  # type: ignore[call-overload]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("FCN", {"variant": "4s"}, "variant is '4s', must be one of 32s, 16s, 8s"),
        ("FCN", {"hidden": 0}, "hidden is 0"),
        ("SegNet", {"base": 10**6}, "base is 1000000, must be a whole number from 1 to 8192"),
        ("SegNet", {"wings": 2}, "SegNet has no setting 'wings'"),
        ("DeepLab", {"encoder": "vgg19"}, "encoder is 'vgg19', must be one of vgg16, resnet18"),
        ("DeepLab", {"output_stride": 32}, "output_stride is 32, must be 8 or 16"),
        ("DeepLab", {"rates": []}, r"rates are \[\], must be 1 to 8 whole numbers"),
        ("DeepLab", {"rates": [6, 0]}, "a rate is 0"),
    ],
)
def test_impossible_settings_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ARCHITECTURES[name].of(settings)


def test_a_network_with_image_pooling_says_why_it_is_not_exact(tmp_path: Path) -> None:
    save(build(small("deeplab resnet18", image_pool=True)), tmp_path / "m.safetensors")
    predictor = load(tmp_path / "m.safetensors", device="cpu")
    assert predictor.inexact_reason == "image pool looks at the whole tile"
    whole = np.zeros((1, 1, *(n + 64 for n in predictor.halo.before)), np.uint8)
    whole = np.pad(whole, [(0, 0), (0, 0), *((0, n) for n in predictor.halo.after)])
    assert predictor.classes(whole).shape == (1, 64, 64)


def test_freezing_the_encoder_leaves_the_rest_to_train() -> None:
    net = build(small("segnet"))
    freeze(net, "encoder")
    train_mode(net, "encoder")
    assert all(p.requires_grad != name.startswith("encoder.") for name, p in net.named_parameters())
    norms = {n: m.training for n, m in net.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert all(is_training != name.startswith("encoder.") for name, is_training in norms.items())


@pytest.mark.parametrize("kind", ["fcn8s", "deeplab resnet18"])
def test_a_head_is_replaced_for_other_classes(kind: str, tmp_path: Path) -> None:
    save(build(small(kind)), tmp_path / "m.safetensors")
    net = trained_network(tmp_path / "m.safetensors", 0, in_channels=1, n_classes=5)
    assert net.config == small(kind, n_classes=5).as_dict()
