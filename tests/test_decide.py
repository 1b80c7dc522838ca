"""A class map decided again from stored probabilities is the one that a network with those thresholds predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import tilekit
from models import UNet, load, save
from tests.oracles import structured_image
from tilekit.errors import InputError
from tilekit.predictor import VOID


def read(path: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(str(path), mode="r")[:])


def models(tmp_path: Path, head: str, thresholds: list[float]) -> list[Any]:
    """One network, of channels for three classes, without thresholds of its own (sigmoid: of a half) and with."""
    torch.manual_seed(1)
    net = UNet(1, 3, base=4, depth=1)
    with torch.no_grad():
        net.get_submodule("head").weight.mul_(30)  # type: ignore[union-attr, operator]
    own = [0.5, 0.5, 0.5] if head == "sigmoid" else None
    for name, t in (("a", own), ("b", thresholds)):
        save(net, tmp_path / name, head=head, thresholds=t)
    return [load(tmp_path / name, "cpu") for name in "ab"]


def near(chances: np.ndarray, head: str, thresholds: list[float], rounding: float) -> np.ndarray:
    """Pixels whose class may hang on how the probabilities (k, y, x) are rounded."""
    if head == "softmax":
        scores = np.sort(chances / np.reshape(thresholds, (-1, 1, 1)), 0)
        return scores[-1] - scores[-2] <= 2 * rounding / min(thresholds)
    others = np.sort(chances[1:], 0)
    at_threshold = np.abs(chances[1:] - np.reshape(thresholds, (-1, 1, 1))).min(0) <= rounding
    return at_threshold | (np.diff(others, axis=0).min(0) <= 2 * rounding)


@pytest.mark.parametrize(("dtype", "rounding"), [("float16", 2**-11), ("uint8", 0.51 / 255)])
@pytest.mark.parametrize(("head", "thresholds"), [("softmax", [0.5, 0.2, 0.4]), ("sigmoid", [0.4, 0.6, 0.5])])
def test_it_is_what_the_network_with_these_thresholds_predicts(
    head: str, thresholds: list[float], dtype: str, rounding: float, tmp_path: Path
) -> None:
    first, second = models(tmp_path, head, thresholds)
    image = structured_image((1, 530, 60), "uint8")[0]
    box, out = ((0, 530), (0, 50)), tmp_path / "out.zarr"
    tilekit.predict(image, first, out, box=box, probabilities=dtype)
    tilekit.predict(image, second, tmp_path / "wanted.zarr", box=box)
    before, wanted = read(out / "labels/classes/0"), read(tmp_path / "wanted.zarr/labels/classes/0")
    result = tilekit.decide_again(out, thresholds)
    found = read(out / "labels/decided/0")
    (y, x), (after_y, after_x) = first.halo.before, first.halo.after
    chances = first.probabilities(np.pad(image, [(y, after_y), (x, after_x)], mode="reflect")[None, None])[0]
    unsure = near(chances, head, thresholds, rounding)
    print(f"{head}, {dtype}: {(found != wanted).mean():.2%} of the pixels differ, near a threshold {unsure.mean():.2%}")
    assert ((found == wanted) | unsure).all()
    assert unsure.mean() < 0.2
    assert (found != before).mean() > 0.05
    np.testing.assert_array_equal(found == VOID, before == VOID)
    np.testing.assert_array_equal(read(out / "labels/classes/0"), before)
    assert result["classes"] == {str(v): n for v, n in zip(*np.unique(found, return_counts=True), strict=True)}
    tilekit.decide_again(out, thresholds, name="other", block=32)
    for level in (0, 1):
        np.testing.assert_array_equal(read(out / f"labels/other/{level}"), read(out / f"labels/decided/{level}"))


def test_stacks_are_decided_slice_by_slice_and_listed_as_labels(tmp_path: Path) -> None:
    first, _ = models(tmp_path, "softmax", [0.2, 0.3, 0.5])
    stack = tilekit.open_image(structured_image((2, 40, 44), "uint8"), axes="zyx")
    out = tmp_path / "out.zarr"
    tilekit.predict(stack, first, out, probabilities="float16")
    tilekit.decide_again(out, [0.4, 0.4, 0.4])
    found, chances = read(out / "labels/decided/0"), read(out / "probabilities/0")
    np.testing.assert_array_equal(found, chances.argmax(0))
    group = zarr.open_group(str(out / "labels"), mode="r")
    assert group.attrs["ome"]["labels"] == ["classes", "decided"]
    ours, theirs = (group[n].attrs["ome"] for n in ("decided", "classes"))
    assert ours["image-label"] == theirs["image-label"]
    assert tilekit.status(out)["status"] == "complete"


def test_the_same_again_is_no_work_and_other_thresholds_are_refused(tmp_path: Path) -> None:
    first, _ = models(tmp_path, "softmax", [0.2, 0.3, 0.5])
    out = tmp_path / "out.zarr"
    tilekit.predict(structured_image((1, 70, 80), "uint8")[0], first, out, probabilities="uint8")
    for _ in range(2):
        result = tilekit.decide_again(out, [0.3, 0.3, 0.4])
        assert result["redone"] == 0
    with pytest.raises(InputError, match=r"other arguments \(thresholds"):
        tilekit.decide_again(out, [0.2, 0.3, 0.5])
    tilekit.decide_again(out, [0.2, 0.3, 0.5], overwrite=True)


@pytest.mark.parametrize(
    ("thresholds", "name", "said"),
    [
        ([0.5], "decided", r"1 thresholds, the probabilities are of 3 classes; give 3 .* or 2"),
        ([0.5, 0.5, 1.5], "decided", "must be above 0 and below 1"),
        ([0.5, 0.5], "classes", "cannot be named 'classes'"),
        ([0.5, 0.5], "../x", "cannot be named"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(thresholds: list[float], name: str, said: str, tmp_path: Path) -> None:
    first, _ = models(tmp_path, "softmax", [0.2, 0.3, 0.5])
    out = tmp_path / "out.zarr"
    tilekit.predict(np.zeros((40, 40), np.uint8), first, out, probabilities="uint8")
    with pytest.raises(InputError, match=said):
        tilekit.decide_again(out, thresholds, name=name)


def test_a_store_without_probabilities_is_refused(tmp_path: Path) -> None:
    first, _ = models(tmp_path, "softmax", [0.2, 0.3, 0.5])
    tilekit.predict(np.zeros((40, 40), np.uint8), first, tmp_path / "out.zarr")
    with pytest.raises(InputError, match="has no probabilities; segment it with --probabilities"):
        tilekit.decide_again(tmp_path / "out.zarr", [0.5, 0.5, 0.5])
