"""Losses: their value and gradient, void and weights, and that parts of a batch add up to the whole."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.losses import Loss
from tilekit.errors import InputError

VOID = 255
EACH = [
    Loss(),
    Loss(0, 1, 0),
    Loss(0, 0, 1),
    Loss(0, 0, 1, gamma=1),
    Loss(0, 0, 1, gamma=0),
    Loss(0.5, 2, 1, gamma=1.5),
]


def batch(n_classes: int = 3, b: int = 2, side: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Logits (b, k, y, x), truth with a fifth of void, weights of 0.2 to 3."""
    g = torch.Generator().manual_seed(b)
    logits = 2 * torch.randn((b, n_classes, side, side), generator=g, dtype=dtype)
    truth = torch.randint(0, max(n_classes, 2), (b, side, side), generator=g, dtype=torch.uint8)
    truth[torch.rand(truth.shape, generator=g) < 0.2] = VOID
    weights = 0.2 + 2.8 * torch.rand(truth.shape, generator=g, dtype=dtype)
    return logits, truth, weights


def value(loss: Loss, logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    numerators = loss.numerators(logits, truth, weights)
    return loss.total(numerators, loss.denominators(truth, weights, logits.shape[1]))


def gradient(loss: Loss, logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    value(loss, leaf, truth, weights).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("loss", EACH)
@pytest.mark.parametrize("n_classes", [1, 2, 3])
def test_gradients_are_those_of_finite_differences(loss: Loss, n_classes: int) -> None:
    logits, truth, weights = batch(n_classes)
    assert torch.autograd.gradcheck(lambda x: value(loss, x, truth, weights), (logits.requires_grad_(),))


def test_cross_entropy_is_the_weighted_mean_and_has_the_closed_gradient() -> None:
    logits, truth, weights = batch()
    p = logits.softmax(1).numpy()
    valid, w = truth.numpy() != VOID, weights.numpy()
    one_hot = truth.numpy()[:, None] == np.arange(3)[:, None, None]
    entropy = -np.log((p * one_hot).sum(1), where=valid, out=np.zeros(valid.shape))
    total = w[valid].sum()
    assert float(value(Loss(), logits, truth, weights)) == pytest.approx((w * entropy)[valid].sum() / total, rel=1e-12)
    expected = np.where(valid[:, None], w[:, None] * (p - one_hot) / total, 0)
    np.testing.assert_allclose(gradient(Loss(), logits, truth, weights).numpy(), expected, rtol=1e-12, atol=1e-15)


def test_dice_is_the_mean_over_the_classes_that_each_patch_has() -> None:
    logits, truth, weights = batch()
    truth[0][truth[0] == 2] = VOID  # the first patch has classes 0 and 1, the second all three
    p, each = logits.softmax(1), []
    for item in (0, 1):
        valid = truth[item] != VOID
        for k in (0, 1) if item == 0 else (0, 1, 2):
            w, q, y = weights[item][valid], p[item, k][valid], truth[item][valid] == k
            each.append(1 - 2 * (w * q * y).sum() / ((w * q).sum() + (w * y).sum()))
    assert float(value(Loss(0, 1, 0), logits, truth, weights)) == pytest.approx(float(sum(each) / 5), rel=1e-12)


def test_dice_is_0_where_all_is_right_and_1_where_all_is_wrong() -> None:
    _, truth, weights = batch(2)
    sure = 100.0 * F.one_hot(truth.clamp_max(1).long(), 2).permute(0, 3, 1, 2).double()
    assert float(value(Loss(0, 1, 0), sure, truth, weights)) == pytest.approx(0, abs=1e-12)
    assert float(value(Loss(0, 1, 0), -sure, truth, weights)) == pytest.approx(1)


def test_focal_loss_of_gamma_0_is_cross_entropy_and_of_2_is_lins() -> None:
    logits, truth, weights = batch()
    assert torch.equal(value(Loss(0, 0, 1, gamma=0), logits, truth, weights), value(Loss(), logits, truth, weights))
    valid = truth != VOID
    p = logits.softmax(1).gather(1, truth.clamp_max(2).long()[:, None])[:, 0][valid]
    expected = (weights[valid] * -((1 - p) ** 2) * p.log()).sum() / weights[valid].sum()
    assert float(value(Loss(0, 0, 1), logits, truth, weights)) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("loss", EACH)
def test_void_pixels_have_no_gradient_whatever_their_weight(loss: Loss) -> None:
    logits, truth, weights = batch()
    weights[truth == VOID] = torch.inf
    grad = gradient(loss, logits, truth, weights)
    assert (grad.permute(0, 2, 3, 1)[truth == VOID] == 0).all()
    assert (grad.permute(0, 2, 3, 1)[truth != VOID] != 0).any()


@pytest.mark.parametrize("loss", EACH)
@pytest.mark.parametrize("void", [True, False])
def test_a_batch_of_no_weight_has_loss_0_and_no_gradient(loss: Loss, void: bool) -> None:
    logits, truth, weights = batch()
    nothing = (truth.fill_(VOID), weights) if void else (truth, torch.zeros_like(weights))
    assert float(value(loss, logits, *nothing)) == 0
    assert (gradient(loss, logits, *nothing) == 0).all()


@pytest.mark.parametrize("loss", EACH)
def test_parts_of_a_batch_add_up_to_the_whole(loss: Loss) -> None:
    logits, truth, weights = batch(b=5)
    whole = value(loss, logits, truth, weights)
    parts = [slice(0, 1), slice(1, 4), slice(4, 5)]
    denominators = torch.stack([loss.denominators(truth[s], weights[s], 3) for s in parts]).sum(0)
    shares, grads = [], []
    for s in parts:
        leaf = logits[s].clone().requires_grad_()
        share = loss.total(loss.numerators(leaf, truth[s], weights[s]), denominators)
        share.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        shares.append(float(share.detach()))
        grads.append(leaf.grad)
    assert sum(shares) == pytest.approx(float(whole), rel=1e-12)
    torch.testing.assert_close(torch.cat(grads), gradient(loss, logits, truth, weights))


@pytest.mark.parametrize("loss", EACH)
def test_a_sigmoid_head_is_a_soft_max_of_two_with_one_logit_0(loss: Loss) -> None:
    logits, truth, weights = batch(1)
    both = torch.cat((torch.zeros_like(logits), logits), 1)
    torch.testing.assert_close(value(loss, logits, truth, weights), value(loss, both, truth, weights))
    if loss == Loss():
        valid = truth != VOID
        binary = F.binary_cross_entropy_with_logits(
            logits[:, 0][valid], truth[valid].double(), weights[valid], reduction="sum"
        )
        assert float(value(loss, logits, truth, weights)) == pytest.approx(float(binary / weights[valid].sum()))


@pytest.mark.parametrize("loss", EACH)
def test_bfloat16_logits_are_worked_on_in_float32(loss: Loss) -> None:
    logits, truth, weights = batch(dtype=torch.float32)
    rounded = logits.bfloat16()
    found = value(loss, rounded, truth.long(), weights)
    assert found.dtype == torch.float32
    assert torch.equal(found, value(loss, rounded.float(), truth, weights))
    assert gradient(loss, rounded, truth, weights).dtype == torch.bfloat16


@pytest.mark.parametrize("loss", EACH)
def test_logits_of_any_size_give_finite_losses_and_gradients(loss: Loss) -> None:
    logits, truth, weights = batch(dtype=torch.float32)
    assert torch.isfinite(value(loss, 1e4 * logits, truth, weights))
    assert torch.isfinite(gradient(loss, 1e4 * logits, truth, weights)).all()


def test_sizes_that_differ_are_refused() -> None:
    logits, truth, weights = batch()
    with pytest.raises(ValueError, match=re.escape("truth of (4, 5) pixels, but logits of (5, 5)")):
        Loss().numerators(logits, truth[:, 1:], weights[:, 1:])


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ((0.0, 0.0, 0.0), "not all 0"),
        ((1.0, -1.0), "from 0 up"),
        ((float("nan"),), "from 0 up"),
        ((1.0, 0.0, 1.0, 0.5), "0.5"),
    ],
)
def test_factors_that_make_no_loss_are_refused(factors: tuple[float, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Loss(*factors)
