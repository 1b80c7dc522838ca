"""Scores of object ids: against scikit-image, torchmetrics, and slow obvious answers; every empty case."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from skimage.metrics import adapted_rand_error, variation_of_information
from torchmetrics.functional.detection import panoptic_quality

from tests.oracle_seg import brute_force_seg
from tilekit.object_scores import THRESHOLDS, ObjectCounts, count_objects, object_scores
from tilekit.overlaps import count_overlaps, sum_overlaps
from tilekit.sources import open_image

Array = NDArray[Any]


def scores(prediction: Array, truth: Array, void: int | None = None) -> dict[str, Any]:
    return object_scores(count_objects(count_overlaps(prediction, truth), void=void))


def cells(seed: int, n: int = 7, side: int = 40) -> tuple[Array, Array]:
    """A map of ids and a disturbed copy of it: shifted, with some objects renamed, dropped or noisy."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, n, (side // 5, side // 5)).repeat(5, 0).repeat(5, 1)
    prediction = np.roll(truth, generator.integers(0, 3, 2), (0, 1))
    names = generator.permutation(2 * n)[:n]
    names[0] = 0
    prediction = names[prediction]
    noisy = generator.random(truth.shape) < generator.choice([0, 0.1, 0.5])
    return np.where(noisy, generator.integers(0, n, truth.shape), prediction), truth


def brute_force_matches(prediction: Array, truth: Array, threshold: float) -> int:
    """The largest number of pairs of objects with an IoU of the threshold or more, by assignment."""
    ps, ts = ([i for i in np.unique(labels) if i] for labels in (prediction, truth))
    good = np.zeros((len(ps), len(ts)))
    for a, p in enumerate(ps):
        for b, t in enumerate(ts):
            both, either = (prediction == p) & (truth == t), (prediction == p) | (truth == t)
            good[a, b] = both.sum() / either.sum() >= threshold
    return int(good[linear_sum_assignment(good, maximize=True)].sum())


def torch_panoptic(prediction: Array, truth: Array, void: int | None) -> list[float]:
    """Panoptic, segmentation and recognition quality of the things, background being stuff."""
    void_truth = np.where(truth == void, 9, np.minimum(truth, 1))
    p = torch.tensor(np.stack([np.minimum(prediction, 1), prediction], -1))[None]
    t = torch.tensor(np.stack([void_truth, truth], -1))[None]
    torch.set_default_dtype(torch.float64)  # in which it divides integers
    try:
        found = panoptic_quality(
            p,
            t,
            things={1},
            stuffs={0},
            return_sq_and_rq=True,
            return_per_class=True,
            allow_unknown_preds_category=True,
        )
    finally:
        torch.set_default_dtype(torch.float32)
    return found[0].tolist()


@given(seed=st.integers(0, 10_000))
def test_rand_and_information_are_those_of_scikit_image(seed: int) -> None:
    prediction, truth = cells(seed)
    found = scores(prediction, truth)
    assert found["adapted_rand"] == pytest.approx(adapted_rand_error(truth, prediction)[0], abs=1e-12)
    split, merge = variation_of_information(truth, prediction)
    assert (found["vi_split"], found["vi_merge"]) == pytest.approx((split, merge), abs=1e-12)


@given(seed=st.integers(0, 10_000), void=st.sampled_from([None, 3]))
def test_panoptic_quality_is_that_of_torchmetrics(seed: int, void: int | None) -> None:
    prediction, truth = cells(seed)
    found = scores(prediction, truth, void)
    names = ("panoptic_quality", "segmentation_quality", "recognition_quality")
    ours = [0.0 if math.isnan(found[name]) else found[name] for name in names]
    assert ours == pytest.approx(torch_panoptic(prediction, truth, void), abs=1e-12)


@given(seed=st.integers(0, 10_000))
def test_seg_is_that_of_a_loop_over_objects(seed: int) -> None:
    prediction, truth = cells(seed)
    assert scores(prediction, truth)["seg"] == pytest.approx(brute_force_seg(prediction, truth), abs=1e-12)


@given(seed=st.integers(0, 10_000))
def test_matches_are_the_largest_assignment(seed: int) -> None:
    prediction, truth = cells(seed, n=5, side=20)
    expected = [brute_force_matches(prediction, truth, t) for t in THRESHOLDS]
    assert scores(prediction, truth)["true_positives"] == expected


def test_an_object_in_two_halves_matches_one_of_them_at_a_half() -> None:
    truth = np.ones((2, 4), int)
    halves = np.array([[1, 1, 2, 2]] * 2)
    for prediction, wanted in ((halves, truth), (truth, halves)):
        found = scores(prediction, wanted)
        assert found["true_positives"] == [1] + [0] * 9
        assert found["ap"][0] == 1 / 2
        assert found["panoptic_quality"] == 0, "panoptic quality asks for more than a half"


def test_a_shifted_square_by_hand() -> None:
    """10 x 10 pixels shifted by 2: 80 in both, 120 in either."""
    truth, prediction = np.zeros((2, 20, 20), int)
    truth[5:15, 5:15], prediction[5:15, 7:17] = 1, 9
    found = scores(prediction, truth)
    assert found["seg"] == pytest.approx(2 / 3)
    assert found["true_positives"] == [1] * 4 + [0] * 6
    assert found["panoptic_quality"] == pytest.approx(2 / 3)
    both, lost = 80 * 79, 20 * 19
    assert found["adapted_rand"] == pytest.approx(1 - 2 * (both + lost) / (100 * 99 + both + lost))
    assert found["rand_isbi2012"] == pytest.approx(1 - 2 * both / (100 * 99 + both))


def test_rand_errors_differ_by_more_than_two_on_one_pair() -> None:
    """50 squares of 10 x 10 pixels shifted by 2: scikit-image takes the background in their place for one object."""
    truth, prediction = np.zeros((2, 20, 20 * 50), int)
    for k in range(50):
        truth[5:15, 20 * k + 5 : 20 * k + 15] = prediction[5:15, 20 * k + 7 : 20 * k + 17] = k + 1
    found = scores(prediction, truth)
    both, lost = 50 * 80 * 79, 50 * 20 * 19
    assert found["rand_isbi2012"] == pytest.approx(1 - 2 * both / (50 * 100 * 99 + both))
    assert found["adapted_rand"] == pytest.approx(1 - 2 * (both + lost) / (50 * 100 * 99 + both + 1000 * 999))
    assert found["adapted_rand"] > 2 * found["rand_isbi2012"]


def test_void_counts_nowhere_but_a_prediction_mostly_on_it_is_no_false_positive() -> None:
    truth = np.array([[1, 1, 1, 1, 7, 7, 7, 7, 0, 0]])
    prediction = np.array([[1, 1, 1, 1, 2, 2, 2, 0, 2, 3]])
    found = scores(prediction, truth, void=7)
    assert found["predicted_objects"] == 3
    assert found["object_precision"][0] == pytest.approx(1 / 3)
    assert found["recognition_quality"] == pytest.approx(1 / 1.5), "3 is one false positive, 2 is none"


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        ([0, 0], [0, 0], {"seg": None, "f1": None, "ap": None, "panoptic_quality": None, "adapted_rand": None}),
        ([1, 0], [0, 0], {"seg": None, "object_precision": 0, "object_recall": None, "f1": 0, "ap": 0}),
        ([0, 0], [1, 1], {"seg": 0, "object_precision": None, "object_recall": 0, "f1": 0, "adapted_rand": 0}),
        ([0, 0], [1, 1], {"rand_isbi2012": 1, "vi_split": 0, "vi_merge": 0, "panoptic_quality": 0}),
        ([0, 1], [1, 0], {"seg": 0, "f1": 0, "segmentation_quality": None}),
    ],
)
def test_empty_cases(prediction: list[int], truth: list[int], expected: dict[str, float | None]) -> None:
    found = scores(np.array(prediction), np.array(truth))
    for name, value in expected.items():
        one = found[name][0] if isinstance(found[name], list) else found[name]
        assert math.isnan(one) if value is None else one == value, name


def test_sums_of_images_are_those_of_one_image_in_which_no_object_meets() -> None:
    pairs = [cells(k) for k in range(4)]
    added = sum((count_objects(count_overlaps(*pair)) for pair in pairs), start=ObjectCounts())
    apart = [(np.where(p, p + 100 * k, p), np.where(t, t + 100 * k, t)) for k, (p, t) in enumerate(pairs)]
    one = count_objects(sum_overlaps(count_overlaps(*pair) for pair in apart))
    together, single = object_scores(added), object_scores(one)
    for name in ("seg", "ap", "panoptic_quality", "truth_objects"):
        assert together[name] == pytest.approx(single[name]), name


def test_seg_of_real_cells_is_that_of_a_loop_over_objects(shared_data) -> None:
    folder = shared_data / "ctc-dic-hela"
    for gold in sorted((folder / "01_GT" / "SEG").glob("*.tif"))[:4]:
        silver = folder / "01_ST" / "SEG" / gold.name
        if silver.exists():
            prediction, truth = (open_image(path, as_labels=True).read([]) for path in (silver, gold))
            prediction, truth = prediction.astype(np.int64), truth.astype(np.int64)
            found = scores(prediction, truth)
            assert found["seg"] == pytest.approx(brute_force_seg(prediction, truth), abs=1e-12)
            assert found["adapted_rand"] == pytest.approx(adapted_rand_error(truth, prediction)[0], abs=1e-12)
            assert found["panoptic_quality"] == pytest.approx(torch_panoptic(prediction, truth, None)[0], abs=1e-12)
