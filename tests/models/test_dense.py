"""A classifier of patches gives one dense map, whichever way it is made."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.dense import a_trous, convolutionalize, shift_and_stitch, sliding_window, total_step


def classifier() -> nn.Sequential:
    """Of patches of 21 x 21: two poolings, a dilation, fully connected layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, dilation=2), nn.Tanh(),
        nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(6 * 2 * 2, 8), nn.ReLU(), nn.Dropout(),
        nn.Linear(8, 3),
    ).eval()  # fmt: skip


PATCH = (21, 21)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 2, 37, 41, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_heat_map_is_the_patches_each_f_pixels(image: torch.Tensor) -> None:
    net = convolutionalize(classifier(), PATCH)
    f = total_step(net)
    assert f == 4
    every = sliding_window(classifier(), image, PATCH)
    assert every.shape == (2, 3, 17, 21)
    torch.testing.assert_close(net(image), every[:, :, ::f, ::f], rtol=0, atol=1e-5)


@torch.no_grad()
def test_shifted_and_stitched_a_trous_and_patch_by_patch_are_equal(image: torch.Tensor) -> None:
    net = convolutionalize(classifier(), PATCH)
    stitched = shift_and_stitch(net, total_step(net), image)
    torch.testing.assert_close(stitched, a_trous(net)(image), rtol=0, atol=1e-5)
    torch.testing.assert_close(stitched, sliding_window(classifier(), image, PATCH, batch=50), rtol=0, atol=1e-5)


def test_the_classifier_is_left_as_it_was_and_its_weights_are_shared() -> None:
    net = classifier()
    dense = a_trous(convolutionalize(net, PATCH))
    assert net[3].stride == 2
    with torch.no_grad():
        net[8].weight.zero_()
    assert not dense[7].weight.any()


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        ([nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(50, 2)], "pads its input"),
        ([nn.Conv2d(1, 2, 3), nn.Linear(50, 2)], "a Linear before Flatten"),
        ([nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(50, 2)], r"takes 50 values, a patch leaves \(2, 3, 3\) = 18"),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)], "AdaptiveAvgPool2d cannot be made dense"),
    ],
)
def test_what_cannot_be_made_dense_is_refused(layers: list[nn.Module], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        convolutionalize(nn.Sequential(*layers), (5, 5))
