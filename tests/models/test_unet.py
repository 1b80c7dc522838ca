"""The U-Net against the paper, written a second time in a few lines."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from models import UNet


def plain_unet(w, x, depth, *, padding, upsampling):
    """The paper's forward pass, straight from its figure 1, over a state dict."""

    def conv(name, x):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding if "_conv" in name else 0)

    def two(name, x):
        return F.relu(conv(f"{name}_conv1", F.relu(conv(f"{name}_conv0", x))))

    kept = []
    for level in range(depth):
        kept.append(two(f"down{level}", x))
        x = F.max_pool2d(kept[-1], 2)
    x = two(f"down{depth}", x)
    for level in reversed(range(depth)):
        if upsampling == "learned":
            x = F.conv_transpose2d(x, w[f"up{level}.weight"], w[f"up{level}.bias"], stride=2)
        else:
            align = False if upsampling == "bilinear" else None
            x = conv(f"up{level}", F.interpolate(x, scale_factor=2, mode=upsampling, align_corners=align))
        skip = kept.pop()
        cut = (skip.shape[-1] - x.shape[-1]) // 2
        skip = skip[..., cut : cut + x.shape[-2], cut : cut + x.shape[-1]]
        x = two(f"up{level}", torch.cat([skip, x], 1))
    return conv("head", x)


@pytest.mark.parametrize("upsampling", ["learned", "bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_forward_is_the_papers(padding, upsampling):
    torch.manual_seed(0)
    net = UNet(2, 3, 4, 2, padding, upsampling=upsampling).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 2, 60, 76)
    for layout in (torch.contiguous_format, torch.channels_last):
        with torch.no_grad():
            found = net(x.contiguous(memory_format=layout))
        wanted = plain_unet(net.state_dict(), x, 2, padding=int(padding == "same"), upsampling=upsampling)
        assert found.shape == wanted.shape
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


def test_defaults_are_the_papers():
    net = UNet()
    assert sum(p.numel() for p in net.parameters()) == 31_030_658
    assert net.config == {
        "in_channels": 1, "n_classes": 2, "base": 64, "depth": 4, "padding": "valid", "batch_norm": False,
        "instance_norm": False, "upsampling": "learned", "dropout": 0.5,
    }  # fmt: skip
    assert UNet(**net.config).config == net.config


def test_he_initialisation_counts_incoming_nodes():
    torch.manual_seed(0)
    net = UNet(base=32, depth=2)
    for name, nodes in (("down1_conv1", 9 * 64), ("up1_conv0", 9 * 128), ("up1", 128)):
        module = net.get_submodule(name)
        assert module.weight.std().item() == pytest.approx((2 / nodes) ** 0.5, rel=0.02)
        assert not module.bias.any()


def test_the_papers_tile_gives_388_pixels():
    with torch.no_grad():
        assert UNet(base=1).eval()(torch.zeros(1, 1, 572, 572)).shape == (1, 2, 388, 388)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 572, 570), r"input side of 570 pixels does not pass through this U-Net; use 556 or 572"),
        ((1, 1, 20, 572), r"20 pixels .* use 188"),
        ((1, 3, 572, 572), r"shape \(1, 3, 572, 572\) .* takes \(b, 1, y, x\)"),
        ((1, 572, 572), r"takes \(b, 1, y, x\)"),
    ],
)
def test_sizes_that_do_not_pass_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        UNet(base=1)(torch.zeros(shape))


def test_dropout_acts_while_training_on_the_two_deepest_levels_alone():
    net = UNet(base=4, depth=2, padding="same")
    x = torch.randn(1, 1, 32, 32)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))
    assert [layer.n_in for layer in net.architecture.layers if layer.kind == "dropout"] == [8, 16]


def test_gradients_reach_every_parameter():
    net = UNet(base=2, depth=2, batch_norm=True).train()
    net(torch.randn(2, 1, 60, 60)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
