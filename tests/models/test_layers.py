"""The layers of the lecture notes against cases worked out by hand, and against each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.layers import (
    atrous,
    bed_of_nails,
    bilinear_weights,
    fractionally_strided,
    max_pool_with_positions,
    max_unpool,
    nearest_unpool,
)


def plane(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)[None, None]


def test_max_pooling_remembers_where_and_unpooling_puts_it_back() -> None:
    x = plane([1, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8])
    largest, positions = max_pool_with_positions(x)
    assert torch.equal(largest, plane([5, 6], [7, 8]))
    assert positions[0, 0].tolist() == [[3, 0], [2, 3]]
    found = max_unpool(plane([1, 2], [3, 4]), positions)
    assert torch.equal(found, plane([0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]))


def test_of_equals_the_first_in_reading_order_is_remembered() -> None:
    assert max_pool_with_positions(plane([0, 0], [0, 0]))[1].item() == 0
    assert max_pool_with_positions(plane([0, 1], [1, 1]))[1].item() == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_and_unpooling_are_torchs(layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 10, 14).contiguous(memory_format=layout).requires_grad_()
    largest, positions = max_pool_with_positions(x)
    wanted, where = F.max_pool2d(x, 2, return_indices=True)
    torch.testing.assert_close(largest, wanted, rtol=0, atol=0)
    y = torch.randn(2, 3, 5, 7).contiguous(memory_format=layout)
    torch.testing.assert_close(max_unpool(y, positions), F.max_unpool2d(y, where, 2), rtol=0, atol=0)
    (ours,) = torch.autograd.grad((max_unpool(largest * y, positions)).square().sum(), x, retain_graph=True)
    (theirs,) = torch.autograd.grad(F.max_unpool2d(wanted * y, where, 2).square().sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_nearest_and_bed_of_nails_unpooling() -> None:
    x = plane([1, 2], [3, 4])
    assert torch.equal(nearest_unpool(x), plane([1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]))
    assert torch.equal(bed_of_nails(x), plane([1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]))


def test_bilinear_weights_of_factor_two_by_hand() -> None:
    row = torch.tensor([1, 3, 3, 1]) / 4
    assert torch.equal(bilinear_weights(1, 2)[0, 0], torch.outer(row, row))


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
def test_a_bilinear_transposed_convolution_is_bilinear_inside_the_border_and_not_on_it(factor: int) -> None:
    x, rim = torch.rand(1, 3, 5, 6, dtype=torch.float64) + 1, factor // 2
    weights = bilinear_weights(3, factor).double()
    found = F.conv_transpose2d(x, weights, stride=factor, padding=rim)
    wanted = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    assert found.shape == wanted.shape
    inside = (..., slice(rim, -rim), slice(rim, -rim))
    torch.testing.assert_close(found[inside], wanted[inside], rtol=0, atol=1e-12)
    assert (found[..., rim - 1, :] < wanted[..., rim - 1, :] - 1e-3).all()
    assert (found[..., :, -rim] < wanted[..., :, -rim] - 1e-3).all()


@pytest.mark.parametrize(("kernel", "factor", "padding"), [(2, 2, 0), (4, 2, 1), (3, 2, 1), (16, 8, 4), (5, 3, 0)])
def test_a_transposed_convolution_is_a_fractionally_strided_one_of_the_flipped_kernel(
    kernel: int, factor: int, padding: int
) -> None:
    x, weight = torch.randn(2, 3, 4, 5).double(), torch.randn(3, 2, kernel, kernel).double()
    wanted = F.conv_transpose2d(x, weight, stride=factor, padding=padding)
    torch.testing.assert_close(fractionally_strided(x, weight, factor, padding), wanted, rtol=0, atol=1e-12)


def test_atrous_convolution_by_hand() -> None:
    x = plane(*[[float(10 * y + x) for x in range(5)] for y in range(5)])
    weight = torch.tensor([[1.0, 0, 2], [0, 0, 0], [3, 0, 4]])[None, None]
    assert atrous(x, weight, 2).item() == 0 + 2 * 4 + 3 * 40 + 4 * 44


@pytest.mark.parametrize("dilation", [1, 2, 3, 5])
def test_atrous_convolution_is_torchs(dilation: int) -> None:
    x, weight = torch.randn(2, 3, 17, 23).double(), torch.randn(4, 3, 3, 3).double()
    torch.testing.assert_close(atrous(x, weight, dilation), F.conv2d(x, weight, dilation=dilation), rtol=0, atol=1e-12)
