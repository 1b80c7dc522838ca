"""The probe finds what arithmetic says, and names the layer that makes tiling impossible."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import UNet, receptive
from models.blame import find_culprit
from models.probe import ProbeError, confirm, measure
from models.receptive import Reach


def function(network: nn.Module):
    network = network.double().eval()

    def run(x):
        with torch.inference_mode():
            return network(torch.from_numpy(x)).numpy()

    return run


def look(network: nn.Module):
    return lambda strip: find_culprit(network, torch.from_numpy(strip))


@pytest.mark.parametrize("upsampling", ["learned", "bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_halo_of_a_u_net_is_that_of_its_layers(depth, padding, upsampling):
    torch.manual_seed(0)
    net = UNet(2, 3, 4, depth, padding, upsampling=upsampling)
    found = measure(function(net), 2)
    assert found.reach == (receptive.reach(net.architecture.layers),) * 2
    assert (found.n_channels, found.reason) == (3, None)
    assert found.difference < 1e-12


@dataclass
class Piece:
    """A layer, and which inputs its output i sees: from lo(i) to hi(i)."""

    module: nn.Module
    lo: object
    hi: object


def conv(kernel: int, dilation: int, padded: bool) -> Piece:
    reach = dilation * (kernel // 2)
    at = reach if padded else 0
    module = nn.Conv2d(2, 2, kernel, dilation=dilation, padding=at)
    return Piece(module, lambda i: i - at, lambda i: i - at + 2 * reach)


def pool(f: int) -> Piece:
    return Piece(nn.MaxPool2d(f), lambda i: i * f, lambda i: i * f + f - 1)


def up(f: int, kind: str) -> Piece:
    if kind == "bilinear":  # weights of a half-open pair around the center
        module = nn.Upsample(scale_factor=f, mode="bilinear", align_corners=False)
        return Piece(
            module,
            lambda i: int(np.floor((i + 0.5) / f - 0.5)),
            lambda i: int(np.floor((i + 0.5) / f - 0.5)) + 1,
        )
    module = nn.ConvTranspose2d(2, 2, f, stride=f) if kind == "learned" else nn.Upsample(scale_factor=f)
    return Piece(module, lambda i: i // f, lambda i: i // f)


def stack(seed: int) -> tuple[list[Piece], int, bool]:
    """Layers that end at the input's resolution, their stride, and whether convolutions are padded."""
    chosen = random.Random(seed)
    padded, pools, pieces = seed % 2 == 0, [], []
    for _ in range(chosen.randint(1, 2)):
        pieces.append(conv(chosen.choice([1, 3, 5]), chosen.choice([1, 2, 3]), padded))
        pools.append(chosen.choice([2, 2, 3]))
        pieces.append(pool(pools[-1]))
    pieces.append(conv(3, chosen.choice([1, 2]), padded))
    for f in reversed(pools):
        pieces.append(up(f, chosen.choice(["learned", "nearest", "bilinear"])))
        pieces.append(conv(3, 1, padded))
    return pieces, int(np.prod(pools)), padded


def support(pieces: list[Piece], i: int) -> tuple[int, int]:
    lo = hi = i
    for piece in reversed(pieces):
        lo, hi = piece.lo(lo), piece.hi(hi)
    return lo, hi


def analytic(pieces: list[Piece], stride: int, size) -> Reach:
    """By brute force: which outputs of a long tile of the tightest size see nothing beyond its ends."""
    n = min((n - size(n), n % stride, n) for n in range(30 * stride, 31 * stride) if size(n))[2]
    out, offset = size(n), (n - size(n)) // 2
    clear = [i for i in range(out) if support(pieces, i)[0] >= 0 and support(pieces, i)[1] < n]
    skipped = -(-clear[0] // stride) * stride
    before, after = offset + skipped, max(0, n - clear[-1] - 1 - offset)
    after += (n - before - after) % stride
    while not size(before + stride + after):
        after += stride
    return Reach(before, after, stride, skipped)


@pytest.mark.parametrize("seed", range(10))
def test_random_stacks_have_their_analytic_halo_and_stride(seed):
    torch.manual_seed(seed)
    pieces, stride, _ = stack(seed)
    layers = [m for piece in pieces for m in (piece.module, nn.ReLU() if isinstance(piece.module, nn.Conv2d) else None)]
    net = nn.Sequential(nn.Conv2d(1, 2, 1), *[m for m in layers if m is not None], nn.Conv2d(2, 2, 1))
    run = function(net)

    def size(n: int) -> int:
        try:
            return run(np.zeros((1, 1, n, n))).shape[-1] if n * n < 10**6 else 0
        except RuntimeError:
            return 0

    found = measure(run, 1)
    assert found.reason is None
    assert found.reach[0] == found.reach[1] == analytic(pieces, stride, size)


def test_a_halo_of_one_pixel_less_is_not_confirmed():
    torch.manual_seed(0)
    run = function(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 5, padding=2)))
    true = measure(run, 1).reach
    assert true[0] == Reach(3, 3, 1, 3)
    assert confirm(run, 1, true) < 1e-12
    assert confirm(run, 1, (Reach(2, 3, 1, 2), true[1])) > 1e-4


def test_the_axes_may_differ():
    torch.manual_seed(0)
    found = measure(function(nn.Sequential(nn.Conv2d(1, 4, (3, 7), padding=(1, 3)), nn.Conv2d(4, 2, (1, 3)))), 1)
    assert found.reach == (Reach(1, 1, 1, 1), Reach(4, 4, 1, 3))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, pool: bool) -> None:
        super().__init__()
        self.first, self.last, self.linear = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 1), nn.Linear(4, 4)
        self.pool = nn.AdaptiveAvgPool2d(1) if pool else None

    def forward(self, x):
        x = self.first(x)
        mean = self.pool(x).flatten(1) if self.pool else x.mean((2, 3))
        return self.last(x * torch.sigmoid(self.linear(mean))[:, :, None, None])


class Attention(nn.Module):
    def __init__(self, layer: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True) if layer else None

    def forward(self, x):
        x = self.first(x)
        t = x.flatten(2).transpose(1, 2)
        found = self.attention(t, t, t)[0] if self.attention else F.scaled_dot_product_attention(t, t, t)
        return self.last(x + found.transpose(1, 2).reshape(x.shape))


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.table = nn.Conv2d(1, 2, 3, padding=1), nn.Parameter(torch.randn(1, 2, 32, 32))

    def forward(self, x):
        return self.first(x) + self.table


def between(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *layers, nn.Conv2d(4, 2, 3, padding=1))


CULPRITS = {
    "instance norm (layer 1) looks at the whole tile": lambda: between(nn.InstanceNorm2d(4)),
    "group norm (layer 1) looks at the whole tile": lambda: between(nn.GroupNorm(2, 4), nn.ReLU()),
    "global pooling looks at the whole tile": lambda: Gate(pool=False),
    "global pooling (layer pool) looks at the whole tile": lambda: Gate(pool=True),
    "attention (layer attention) looks at the whole tile": lambda: Attention(layer=True),
    "attention looks at the whole tile": lambda: Attention(layer=False),
    "up-sampling with align_corners=True (layer 2) scales with the tile": lambda: between(
        nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    ),
}


@pytest.mark.parametrize("reason", CULPRITS)
def test_the_layer_to_blame_is_named(reason):
    torch.manual_seed(0)
    net = CULPRITS[reason]()
    assert measure(function(net), 1, look=look(net)).reason == reason


@pytest.mark.parametrize("reason", ["instance norm (layer 1) looks at the whole tile"])
def test_what_is_not_known_is_still_measured(reason):
    torch.manual_seed(0)
    assert measure(function(CULPRITS[reason]()), 1).reason == "every output sees the whole tile"


@pytest.mark.parametrize(
    "net",
    [between(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout()), between(nn.ChannelShuffle(2)), between(nn.Softmax(1))],
    ids=["batch norm", "channels shuffled", "softmax of channels"],
)
def test_layers_of_each_pixel_alone_are_not_blamed(net):
    found = measure(function(net), 1, look=look(net))
    assert (found.reason, found.reach[0]) == (None, Reach(2, 2, 1, 2))


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (Positions(), "takes inputs of 32 pixels alone"),
        (nn.Conv2d(1, 2, 3, stride=2, padding=1), "an output pixel per input pixel is needed"),
        (nn.Conv2d(3, 2, 1), "expected input.* to have 3 channels"),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Threshold(1e9, 0.0)), "same output wherever it looks"),
    ],
    ids=["fixed size", "coarser", "other channels", "constant"],
)
def test_what_cannot_be_tiled_says_why(net, said):
    with pytest.raises(ProbeError, match=said):
        measure(function(net), 1)
