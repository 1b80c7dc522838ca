"""The one pass before training: exact counts, statistics of the training part, centers, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import flows.training.samples as samples_module
import flows.training.survey as module
from flows.training.centers import BORDER, Draw, lists_of
from flows.training.survey import Survey, survey
from models.normalization import Normalization
from tests.flows.training.specimens import blobs, configured, noise, write_pair
from tilekit.errors import InputError
from tilekit.predictor import VOID
from tilekit.weights import ridge

SHAPE = (60, 80)
SPLIT = {"by": "group", "group": r"images/(\w)", "validation": ("c",)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images to train on, and one for validation, brighter."""
    for k, name in enumerate("abc"):
        write_pair(tmp_path, name, noise(SHAPE, k) + np.uint8(50 * (name == "c")), blobs(SHAPE, 12, k))
    return tmp_path


def surveyed(folder: Path, **sections: Any) -> Survey:
    return survey(configured(folder, **{"split": SPLIT, **sections}), 20, folder / "scratch")


def pixels(folder: Path, part: str, names: str) -> Any:
    return np.stack([tifffile.imread(folder / part / f"{name}.tif") for name in names])


@pytest.mark.parametrize("block", [2048, 17])
def test_counts_and_statistics_are_those_of_the_training_part(
    folder: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    found = surveyed(folder)
    training = pixels(folder, "images", "ab")
    assert found.normalization == {
        "kind": "mean_std",
        "mean": [pytest.approx(training.mean())],
        "std": [pytest.approx(training.std())],
    }
    Normalization.of(found.normalization, 1)
    inside = np.stack([ridge(ids) > 0 for ids in pixels(folder, "truth", "ab")])
    n, n_inside = inside.size, int(inside.sum())
    assert found.class_weights == (n / (2 * (n - n_inside)), n / (2 * n_inside))
    assert found.class_names == ("background", "object")
    assert [len(found.samples[part]) for part in ("train", "validation", "test")] == [2, 1, 0]
    for row, ids in zip(found.rows, pixels(folder, "truth", "abc"), strict=True):
        apart = ridge(ids)
        assert row.pixels == (int((apart == 0).sum()), int((apart > 0).sum()))
        assert (row.void, row.objects, row.shape) == (0, len(np.unique(apart)) - 1, SHAPE)
    assert [(row.name, row.part, row.group) for row in found.rows] == [
        ("a", "train", "a"),
        ("b", "train", "b"),
        ("c", "validation", "c"),
    ]


def test_percentiles_are_those_of_the_training_part(folder: Path) -> None:
    found = surveyed(folder, normalization={"kind": "percentile", "percentiles": (5.0, 95.0)})
    training = np.sort(pixels(folder, "images", "ab").ravel())
    for q, value in zip((0.05, 0.95), (found.normalization["low"], found.normalization["high"]), strict=True):
        assert value == [training[int(np.ceil(q * training.size)) - 1]]


def test_the_samples_are_weighed_by_the_classes_of_the_training_part(folder: Path) -> None:
    for kind in ("unet", "class", "none"):
        found = surveyed(folder, weights={"kind": kind})
        for sample in (*found.samples["train"], *found.samples["validation"]):
            weights, classes = sample.weights(sample.box), sample.truth(sample.box)
            levels = found.class_weights or (1.0, 1.0)
            assert (weights[classes == 1] == np.float32(levels[1])).all()
            assert weights[classes == 0].min() == np.float32(levels[0])
            assert (weights[classes == 0].max() > levels[0]) == (kind == "unet")
        assert bool(found.class_weights) == (kind != "none")


def test_centers_are_as_likely_as_they_should_be(folder: Path) -> None:
    """With all positions of all samples in one list; 4,800 pixels each leave little to chance."""
    found = surveyed(folder)
    train = found.samples["train"]
    assert not found.samples["validation"][0].centers
    classes = [s.truth(s.box) for s in train]
    weights = [s.weights(s.box).astype(float) for s in train]
    for name, wanted in {
        "class:0": [c == 0 for c in classes],
        "class:1": [c == 1 for c in classes],
        "known": [c != VOID for c in classes],
        "weight": weights,
    }.items():
        drawn = [np.zeros(SHAPE) for _ in train]
        for count, sample in zip(drawn, train, strict=True):
            np.add.at(count, tuple(sample.centers[name].T), 1)
        total, expected = sum(d.sum() for d in drawn), sum(w.sum() for w in wanted)
        for count, share in zip(drawn, wanted, strict=True):
            assert not count[share == 0].any()
            for y in range(0, SHAPE[0], 20):  # bands of 20 rows
                p = share[y : y + 20].sum() / expected
                assert abs(count[y : y + 20].sum() - p * total) < 5 * np.sqrt(total * p) + 2, name


def test_every_pixel_of_a_rare_class_is_a_center(tmp_path: Path) -> None:
    classes = np.zeros(SHAPE, np.uint8)
    classes[3, 4] = classes[50, 70] = 1
    write_pair(tmp_path, "a", noise(SHAPE), classes)
    write_pair(tmp_path, "c", noise(SHAPE), classes)
    train = surveyed(tmp_path, data={"kind": "classes"}).samples["train"][0]
    assert {tuple(p) for p in train.centers["class:1"].tolist()} == {(3, 4), (50, 70)}


def test_lists_keep_to_the_totals_of_blocks_whatever_each_could_give() -> None:
    draws = [
        Draw(0, 0, 3000.0, np.zeros((10, 2), np.int64)),
        Draw(1, 0, 1000.0, np.ones((900, 2), np.int64)),
        Draw(1, BORDER, 500.0, np.full((50, 2), 2, np.int64)),
    ]
    first, second = lists_of(draws, 2, (2.0,), 1, 0)
    assert len(first["class:0"]) == 3 * len(second["class:0"])
    assert len(second["weight"]) / len(first["weight"]) == pytest.approx(2500 / 6000, rel=0.01)
    assert (second["weight"] == 2).all(1).sum() / len(second["weight"]) == pytest.approx(500 / 2500, rel=0.01)


def test_the_survey_is_the_same_every_time_and_read_by_boxes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = surveyed(folder)
    monkeypatch.setattr(samples_module, "KEPT_BYTES", 0)
    second = surveyed(folder)
    assert replace(first, samples={}) == replace(second, samples={})
    for a, b in zip(first.samples["train"], second.samples["train"], strict=True):
        assert a.centers.keys() == b.centers.keys()
        assert all(np.array_equal(a.centers[name], b.centers[name]) for name in a.centers)


def test_void_counts_nowhere_and_regions_are_pieces(tmp_path: Path) -> None:
    ids = blobs((60, 200), 30)
    coded = np.where(np.arange(200) % 7 == 0, 999, ids).astype(np.uint16)
    write_pair(tmp_path, "a", noise((60, 200)), coded)
    found = surveyed(tmp_path, data={"void": 999}, split={"by": "region", "validation": 0.25})
    assert [(row.name, row.part, row.shape) for row in found.rows] == [
        ("a 0:60,0:135", "train", (60, 135)),
        ("a 0:60,155:200", "validation", (60, 45)),
    ]
    for row in found.rows:
        assert sum(row.pixels) + row.void == row.shape[0] * row.shape[1]
        assert row.void == 60 * -(-row.shape[1] // 7) - (60 if row.part == "validation" else 0)


def test_what_stands_for_nodata_is_the_mean_of_its_own_file(folder: Path) -> None:
    for name in "abc":
        image = noise(SHAPE, ord(name), np.float32) + ord(name)
        image[:9] = np.nan
        tifffile.imwrite(folder / "images" / f"{name}.tif", image)
    found = surveyed(folder, data={"nodata": float("nan")})
    for sample, name in zip((*found.samples["train"], *found.samples["validation"]), "abc", strict=True):
        image = tifffile.imread(folder / "images" / f"{name}.tif")
        assert sample.read(sample.box)[0, 0, 0] == np.float32(np.nanmean(image.astype(float)))


def test_pixel_size_and_names_of_channels_are_kept_where_all_agree(folder: Path) -> None:
    assert surveyed(folder).pixel_size is None
    assert surveyed(folder, data={"pixel_size": 0.5}).pixel_size == (0.5, 0.5)
    assert surveyed(folder).channel_names is None
    assert surveyed(folder).channels == 1


def refusal(folder: Path, **sections: Any) -> str:
    with pytest.raises(InputError) as refused:
        surveyed(folder, **sections)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_pixels_that_are_no_numbers_are_refused_unless_they_are_nodata(folder: Path) -> None:
    image = noise(SHAPE, dtype=np.float32)
    image[4, 5] = np.nan
    image[6, 7] = np.inf
    for name in "abc":
        tifffile.imwrite(folder / "images" / f"{name}.tif", image)
    told = "a: 2 values are NaN or infinite, one at y 4, x 5 of channel 0; set [data] nodata = nan to leave such out"
    assert refusal(folder) == told
    told = "a: 1 values are NaN or infinite, one at y 6, x 7 of channel 0; correct the file"
    assert refusal(folder, data={"nodata": float("nan")}) == told


def test_a_class_beyond_the_names_is_refused(folder: Path) -> None:
    told = "a.tif: the truth holds 3, 4, 5, 6, 7, 8, 9, 10, ..., classes are 0 to 2 as class_names has them; say what"
    assert told in refusal(folder, data={"kind": "classes", "class_names": ("x", "y", "z")})


def test_a_class_that_training_never_sees_is_refused(folder: Path) -> None:
    for name, k in (("a", 1), ("b", 1), ("c", 2)):
        tifffile.imwrite(folder / "truth" / f"{name}.tif", (blobs(SHAPE, 9) > 0).astype(np.uint8) * k)
    told = "config.toml: [split] train: has not one pixel of class 2 (class 2), of the others "
    assert told in refusal(folder, data={"kind": "classes"})


def test_an_image_of_which_nothing_is_known_is_refused(folder: Path) -> None:
    tifffile.imwrite(folder / "truth" / "b.tif", np.full(SHAPE, 999, np.uint16))
    assert "b: not one of the 60 x 80 pixels of its truth is known; leave it out" in refusal(folder, data={"void": 999})
    tifffile.imwrite(folder / "truth" / "a.tif", np.full(SHAPE, 999, np.uint16))
    told = "config.toml: [split] train: not one pixel of its truth is known"
    assert told in refusal(folder, data={"void": 999})


def test_a_constant_channel_is_refused(folder: Path) -> None:
    for name in "ab":
        tifffile.imwrite(folder / "images" / f"{name}.tif", np.full(SHAPE, 7, np.uint8))
    assert "[normalization] mean_std: channel 0 is 7 throughout the training part" in refusal(folder)
    surveyed(folder, normalization={"kind": "range"})


def test_what_the_split_refuses_names_the_toml(folder: Path) -> None:
    assert "config.toml: [split] validation: there is no group 'd'" in refusal(
        folder, split={**SPLIT, "validation": ("d",)}
    )
