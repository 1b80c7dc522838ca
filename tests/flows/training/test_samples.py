"""Samples against arrays of the whole image: values, classes and weights of any box, kept in memory or not."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

import flows.training.samples as module
from flows.training.pairs import list_examples
from flows.training.samples import ImageSample, open_samples
from models.sample import Sample
from tests.flows.training.specimens import blobs, configured, noise, write_pair
from tilekit.box import Box
from tilekit.predictor import VOID

SHAPE = (90, 110)
BOXES = [Box((0, 0), SHAPE), Box((30, 20), (61, 77)), Box((-40, -20), (37, 130)), Box((-200, 80), (90, 300))]


@pytest.fixture(params=[True, False], ids=["kept", "by boxes"])
def is_kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(module, "KEPT_BYTES", 0)
    return bool(request.param)


def opened(folder: Path, box: Box | None = None, **sections: Any) -> ImageSample:
    config = configured(folder, **sections)
    (example,), _ = list_examples(config)
    (sample,) = open_samples([(example, box or example.box)], config, folder / "scratch")
    return sample


def mirrored(whole: NDArray[Any], box: Box) -> NDArray[Any]:
    padded = np.pad(whole, [(0, 0)] * (whole.ndim - 2) + [(300, 300)] * 2, mode="reflect")
    return padded[(..., *box.shift((300, 300)).slices)]


def ridged(ids: NDArray[Any]) -> NDArray[Any]:
    """The ridge, pixel by pixel."""
    out = ids.copy()
    for y, x in np.argwhere(ids):
        around = ids[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        if ((around != ids[y, x]) & (around != 0)).any():
            out[y, x] = 0
    return out


def border_of(ids: NDArray[Any]) -> NDArray[np.float64]:
    """The border term, by one distance transform per object."""
    distances = np.sort([distance_transform_edt(ids != k) for k in np.unique(ids[ids > 0])], axis=0)
    term = 10 * np.exp(-((distances[0] + distances[1]) ** 2) / 50)
    return np.where(ids > 0, 0, term)


def test_ids_are_objects_and_background_with_ridge_and_border(tmp_path: Path, is_kept: bool) -> None:
    image, ids = noise(SHAPE), blobs(SHAPE, 30)
    write_pair(tmp_path, "a", image, ids)
    sample: Sample = opened(tmp_path).with_facts((0,), (0.5, 2.0), {})
    apart = ridged(ids)
    assert 0 < (apart != ids).sum() < (ids > 0).sum()
    classes = (apart > 0).astype(np.uint8)
    weights = np.array([0.5, 2.0])[classes] + border_of(apart)
    for box in BOXES:
        np.testing.assert_array_equal(sample.read(box), mirrored(image[None], box))
        np.testing.assert_array_equal(sample.truth(box), mirrored(classes, box))
        np.testing.assert_allclose(sample.weights(box), mirrored(weights, box), atol=1e-4)
    assert sample.read(BOXES[0]).dtype == np.uint8
    assert sample.weights(BOXES[0]).dtype == np.float32


def test_a_sample_knows_nothing_outside_its_box_of_truth_and_objects(tmp_path: Path, is_kept: bool) -> None:
    image, ids, own = noise(SHAPE), blobs(SHAPE, 30), Box((20, 30), (70, 95))
    write_pair(tmp_path, "a", image, ids)
    sample = opened(tmp_path, own).with_facts((0,), (0.5, 2.0), {})
    assert sample.name == "a 20:70,30:95"
    apart = ridged(ids[own.slices])
    classes, weights = np.full(SHAPE, VOID, np.uint8), np.zeros(SHAPE)
    classes[own.slices] = apart > 0
    weights[own.slices] = np.array([0.5, 2.0])[classes[own.slices]] + border_of(apart)
    for box in BOXES:
        np.testing.assert_array_equal(sample.read(box), mirrored(image[None], box))
        np.testing.assert_array_equal(sample.truth(box), mirrored(classes, box))
        np.testing.assert_allclose(sample.weights(box), mirrored(weights, box), atol=1e-4)


def test_void_has_no_weight_and_is_no_object(tmp_path: Path, is_kept: bool) -> None:
    ids = blobs(SHAPE, 30)
    coded = np.where(ids == 7, 999, ids).astype(np.uint16)
    coded[60:, :40] = 999
    write_pair(tmp_path, "a", noise(SHAPE), coded)
    sample = opened(tmp_path, data={"void": 999}).with_facts((0,), (1.0, 1.0), {})
    void = coded == 999
    apart = ridged(np.where(void, 0, ids))
    for box in BOXES:
        np.testing.assert_array_equal(sample.truth(box), mirrored(np.where(void, VOID, apart > 0), box))
        expected = np.where(void, 0, 1 + border_of(apart))
        np.testing.assert_allclose(sample.weights(box), mirrored(expected, box), atol=1e-4)


def test_class_maps_are_taken_as_they_are_and_borders_lie_between_components(tmp_path: Path, is_kept: bool) -> None:
    coded = np.zeros(SHAPE, np.uint8)
    coded[blobs(SHAPE, 14, 1) > 0] = 100
    coded[blobs(SHAPE, 8, 2) > 0] = 200
    coded[:5, :5] = 9
    write_pair(tmp_path, "a", noise(SHAPE), coded)
    data = {"kind": "classes", "map": "0=0,100=1,200=2,9=void", "connectivity": 4}
    sample = opened(tmp_path, data=data).with_facts((0,), (1.0, 2.0, 3.0), {})
    ids = np.zeros(SHAPE, int)
    for value in (100, 200):
        found, _ = label(coded == value)
        ids[found > 0] = found[found > 0] + ids.max()
    classes = np.select([coded == 9, coded == 100, coded == 200], [VOID, 1, 2], 0)
    weights = np.where(classes == VOID, 0, np.array([1.0, 2.0, 3.0])[classes % VOID] + border_of(ids))
    for box in BOXES:
        np.testing.assert_array_equal(sample.truth(box), mirrored(classes, box))
        np.testing.assert_allclose(sample.weights(box), mirrored(weights, box), atol=1e-4)
    assert (tmp_path / "scratch").exists() != is_kept


def test_objects_of_a_stack_too_large_for_memory_are_labelled_once_with_all_its_planes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 0)
    classes = np.stack([blobs(SHAPE, 9, k) > 0 for k in range(3)]).astype(np.uint8)
    write_pair(tmp_path, "a", noise((3, *SHAPE)), classes)
    config = configured(tmp_path, data={"kind": "classes"})
    examples, _ = list_examples(config)
    samples = open_samples([(e, e.box) for e in examples], config, tmp_path / "scratch")
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    again = open_samples([(e, e.box) for e in examples], config, tmp_path / "scratch")
    np.testing.assert_array_equal(again[1].objects(again[1].box), samples[1].objects(samples[1].box))
    for sample, plane in zip(samples, classes, strict=True):
        ids, n = label(plane, np.ones((3, 3)))
        found = sample.objects(sample.box)
        np.testing.assert_array_equal(found > 0, ids > 0)
        assert len(np.unique(found)) == n + 1


def test_what_is_not_measured_is_void_and_the_mean_to_the_network(tmp_path: Path, is_kept: bool) -> None:
    image, ids = noise((2, *SHAPE), dtype=np.float32), blobs(SHAPE, 30)
    image[:, 10:20, 10:30] = np.nan
    image[1, 40, 40] = np.nan
    image[0, 50, 50] = -5
    write_pair(tmp_path, "a", np.moveaxis(image, 0, -1), ids, planarconfig="contig")
    sample = opened(tmp_path, data={"nodata": -5.0, "axes": "cyx"}).with_facts((7.0, 8.0), (1.0, 1.0), {})
    filled = image.copy()
    filled[0, 10:20, 10:30], filled[1, 10:20, 10:30], filled[1, 40, 40], filled[0, 50, 50] = 7, 8, 8, 7
    void = np.isnan(image).any(0)
    for box in BOXES:
        np.testing.assert_array_equal(sample.read(box), mirrored(filled, box))
        np.testing.assert_array_equal(sample.truth(box) == VOID, mirrored(void, box))
        np.testing.assert_array_equal(sample.weights(box) == 0, mirrored(void, box))


def test_what_a_reader_does_to_its_pixels_no_other_sees(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", noise(SHAPE), blobs(SHAPE, 5))
    sample = opened(tmp_path)
    for read in (sample.read, sample.truth, sample.weights):
        first = read(BOXES[0]).copy()
        read(BOXES[0])[...] = 77
        np.testing.assert_array_equal(read(BOXES[0]), first)


def test_many_threads_read_what_one_reads(tmp_path: Path, is_kept: bool) -> None:
    ids = blobs(SHAPE, 30)
    write_pair(tmp_path, "a", noise(SHAPE), ids, tile=(16, 16))
    generator = np.random.default_rng(0)
    starts = [tuple(map(int, s)) for s in generator.integers(-40, 90, (60, 2))]
    boxes = [Box((y, x), (y + 40, x + 50)) for y, x in starts]

    def sums(sample: ImageSample, box: Box) -> list[float]:
        return [float(part(box).astype(float).sum()) for part in (sample.read, sample.truth, sample.weights)]

    expected = [sums(opened(tmp_path), box) for box in boxes]
    with ThreadPoolExecutor(8) as pool:
        together = opened(tmp_path)
        assert list(pool.map(lambda box: sums(together, box), boxes)) == expected


def test_samples_are_kept_as_long_as_all_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write_pair(tmp_path, name, noise((10, 10)), blobs((10, 10), 2))
    monkeypatch.setattr(module, "ALL_KEPT_BYTES", 2 * 10 * 10 * 10)
    config = configured(tmp_path)
    examples, _ = list_examples(config)
    samples = open_samples([(e, e.box) for e in examples], config, tmp_path)
    assert [s.kept is not None for s in samples] == [True, True, False]


def test_a_picture_with_alpha_is_void_where_it_is_clear(tmp_path: Path, is_kept: bool) -> None:
    image, ids = noise((*SHAPE, 2)), blobs(SHAPE, 30)
    image[..., 1] = 255
    image[:20, :30, 1] = 0
    for part in ("images", "truth"):
        (tmp_path / part).mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", image, photometric="minisblack", extrasamples=["unassalpha"])
    tifffile.imwrite(tmp_path / "truth" / "a.tif", ids)
    sample = opened(tmp_path)
    void = image[..., 1] == 0
    np.testing.assert_array_equal(sample.truth(sample.box) == VOID, void)


def test_no_more_files_are_open_than_a_process_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(20):
        write_pair(tmp_path, f"a{k}", noise((10, 10), k), blobs((10, 10), 2, k))
    monkeypatch.setattr(module, "MOST_OPEN", 6)
    monkeypatch.setattr(module, "KEPT_BYTES", 0)
    config = configured(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    examples, _ = list_examples(config)
    assert len(os.listdir("/proc/self/fd")) == before
    samples = open_samples([(e, e.box) for e in examples], config, tmp_path)
    for sample, example in zip(samples, examples, strict=True):
        k = int(example.name[1:])
        np.testing.assert_array_equal(sample.read(sample.box)[0], noise((10, 10), k))
        np.testing.assert_array_equal(sample.truth(sample.box), ridged(blobs((10, 10), 2, k)) > 0)
    assert len(os.listdir("/proc/self/fd")) <= before + 6
