"""Scores of classes: counts against brute force and scikit-learn, that they add, and every empty case."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from tilekit.scores import class_scores, confusion, iou, mean_iou, pixel_accuracy

VOID = 255


def random_map(seed: int, shape: tuple[int, ...], n_classes: int) -> NDArray[np.uint8]:
    """Class ids, one pixel in six of them void."""
    generator = np.random.default_rng(seed)
    classes = generator.integers(0, n_classes, shape).astype(np.uint8)
    classes[generator.random(shape) < 1 / 6] = VOID
    return classes


def brute_force(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], n_classes: int) -> list[list[int]]:
    counts = [[0] * (n_classes + 1) for _ in range(n_classes)]
    for found, wanted in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if wanted != VOID:
            counts[wanted][min(found, n_classes)] += 1
    return counts


@given(seed=st.integers(0, 99), height=st.integers(0, 20), width=st.integers(1, 20), n_classes=st.integers(1, 7))
def test_counts_are_those_of_a_loop_over_pixels(seed: int, height: int, width: int, n_classes: int) -> None:
    prediction, truth = (random_map(s, (height, width), n_classes) for s in (seed, seed + 100))
    counts = confusion(prediction, truth, n_classes)
    assert counts.dtype == np.int64
    assert counts.tolist() == brute_force(prediction, truth, n_classes)


def test_counts_of_parts_add_to_those_of_the_whole() -> None:
    prediction, truth = random_map(1, (50, 70), 3), random_map(2, (50, 70), 3)
    whole = confusion(prediction, truth, 3)
    parts = [confusion(prediction[:, a : a + 13], truth[:, a : a + 13], 3) for a in range(0, 70, 13)]
    assert sum(parts).tolist() == whole.tolist()  # type: ignore[union-attr]


@given(seed=st.integers(0, 50), n_classes=st.integers(2, 6))
def test_every_score_is_that_of_scikit_learn(seed: int, n_classes: int) -> None:
    generator = np.random.default_rng(seed)
    truth, prediction = generator.integers(0, n_classes, (2, 30, 40)).astype(np.uint8)
    scores = class_scores(confusion(prediction, truth, n_classes))
    t, p, labels = truth.ravel(), prediction.ravel(), range(n_classes)
    assert scores["confusion"] == metrics.confusion_matrix(t, p, labels=labels).tolist()
    for name, function in (
        ("iou", metrics.jaccard_score),
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("dice", metrics.f1_score),
    ):
        expected = function(t, p, labels=labels, average=None)
        assert scores[name] == pytest.approx(expected.tolist(), abs=1e-12), name
    assert scores["miou"] == pytest.approx(metrics.jaccard_score(t, p, average="macro"), abs=1e-12)
    weighted = metrics.jaccard_score(t, p, average="weighted")
    assert scores["frequency_weighted_iou"] == pytest.approx(weighted, abs=1e-12)
    assert scores["pixel_accuracy"] == pytest.approx(metrics.accuracy_score(t, p), abs=1e-12)
    assert scores["mean_class_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(t, p), abs=1e-12)


def test_iou_is_intersection_over_union_where_the_truth_is_not_void() -> None:
    prediction, truth = random_map(3, (40, 40), 4), random_map(4, (40, 40), 4)
    seen = truth != VOID
    expected = [
        ((prediction == k) & (truth == k)).sum() / (((prediction == k) | (truth == k)) & seen).sum() for k in range(4)
    ]
    counts = confusion(prediction, truth, 4)
    assert iou(counts).tolist() == pytest.approx(expected, abs=0)
    assert mean_iou(counts) == pytest.approx(sum(expected) / 4)
    assert mean_iou(counts, background=False) == pytest.approx(sum(expected[1:]) / 3)
    assert pixel_accuracy(counts) == (prediction == truth)[seen].mean()


def test_void_of_the_truth_counts_nowhere_and_predicted_void_is_wrong() -> None:
    scores = class_scores(confusion(np.uint8([0, 1, VOID, 1]), np.uint8([0, 1, 1, VOID]), 2))
    assert (scores["pixels"], scores["unpredicted"]) == (3, [0, 1])
    assert scores["iou"] == [1, 1 / 2]
    assert scores["recall"] == [1, 1 / 2]
    assert scores["precision"] == [1, 1]
    assert scores["pixel_accuracy"] == pytest.approx(2 / 3)


def test_a_class_in_neither_map_has_no_iou_and_is_left_out_of_the_mean() -> None:
    counts = confusion(np.uint8([0, 0, 2, 2]), np.uint8([0, 2, 2, 2]), 4)
    assert str(iou(counts).tolist()) == str([1 / 2, math.nan, 2 / 3, math.nan])
    assert mean_iou(counts) == pytest.approx(7 / 12)


def test_a_class_in_one_map_alone_has_iou_0() -> None:
    assert iou(confusion(np.uint8([1]), np.uint8([0]), 2)).tolist() == [0, 0]


def test_nothing_counted_gives_nan_without_a_warning() -> None:
    counts = confusion(np.uint8([VOID, 0]), np.uint8([VOID, VOID]), 2)
    assert not counts.any()
    numbers = [v for v in class_scores(counts).values() if isinstance(v, float)]
    assert len(numbers) == 5
    assert all(map(math.isnan, numbers))


def test_void_may_be_another_number_or_none() -> None:
    prediction, truth = np.uint8([0, 1, 1, 255]), np.uint8([0, 0, 1, 255])
    assert confusion(prediction, truth, 256, void=0).sum() == 2
    assert confusion(prediction, truth, 256, void=None).sum() == 4


def test_a_class_too_high_is_refused_by_number() -> None:
    with pytest.raises(ValueError, match="a pixel has class 7, must be below 3"):
        confusion(np.uint8([0, 7]), np.uint8([0, 1]), 3)


def test_maps_of_other_shape_or_dtype_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction is uint8 \(3,\), must be uint8 \(2,\)"):
        confusion(np.zeros(3, np.uint8), np.zeros(2, np.uint8), 2)
    with pytest.raises(ValueError, match="truth is int64"):
        confusion(np.zeros(2, np.uint8), np.zeros(2, np.int64), 2)  # type: ignore[arg-type]
