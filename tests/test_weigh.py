"""Weight maps of label maps: those of the whole image, for every block size, from ids and classes, void left out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaozarrs
import zarr
from numpy.typing import NDArray

import tilekit
from tests.oracle_weights import naive_weights
from tests.oracles import PlainFilter, structured_image
from tests.test_label import whole_image
from tilekit.errors import InputError
from tilekit.sources import open_image

Array = NDArray[Any]
SIDE = 150
TOLERANCE = 1e-4


def weighed(ids: Any, out: Path, **options: Any) -> Array:
    tilekit.weight_map(ids, out, **options)
    return np.asarray(zarr.open_array(str(out / "0"), mode="r")[:])


def discs(n: int, radius: tuple[float, float], seed: int = 0, side: int = SIDE) -> Array:
    """Ids of n discs anywhere, the earlier before the later: some touch, some are cut by the edge."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((side, side), np.uint16)
    y, x = np.mgrid[:side, :side]
    for i in range(1, n + 1):
        center, r = rng.uniform(0, side, 2), rng.uniform(*radius)
        ids[((y - center[0]) ** 2 + (x - center[1]) ** 2 < r * r) & (ids == 0)] = i
    return ids


def one_object() -> Array:
    ids = np.zeros((SIDE, SIDE), np.uint8)
    ids[40:90, 30:70] = 200
    return ids


MAPS = {
    "blobs apart": discs(12, (4, 9)),
    "blobs that touch": discs(60, (8, 16)),
    "a tiling": np.arange(1, 101).reshape(10, 10).repeat(15, 0).repeat(15, 1),
    "one object": one_object(),
    "nothing but one object": np.full((20, 30), 3, np.int16),
    "no object": np.zeros((SIDE, 90), np.uint8),
    "one pixel": np.ones((1, 1), np.uint8),
    "ids of 64 bits": discs(25, (5, 12)).astype(np.uint64) * np.uint64(2**59),
    "the largest bytes": (discs(25, (5, 12)) + (discs(25, (5, 12)) > 0) * 230).astype(np.uint8),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("ridge", [True, False])
def test_blocks_have_the_weights_of_the_whole_map(name: str, ridge: bool, tmp_path: Path) -> None:
    ids = MAPS[name]
    whole = weighed(ids, tmp_path / "whole.zarr", ridge=ridge)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, naive_weights(ids, ridge=ridge), atol=TOLERANCE, rtol=0)
    for block in (32, 50, 64):
        found = weighed(ids, tmp_path / f"{block}.zarr", block=block, ridge=ridge)
        np.testing.assert_array_equal(found, whole, err_msg=f"block {block}")


@pytest.mark.parametrize(("w0", "sigma"), [(0, 5), (3, 1.5), (40, 8)])
def test_w0_and_sigma_and_class_weights_are_heeded(w0: float, sigma: float, tmp_path: Path) -> None:
    ids = MAPS["blobs that touch"]
    options = {"w0": w0, "sigma": sigma, "class_weights": (0.25, 3.0)}
    found = weighed(ids, tmp_path / "o.zarr", block=50, **options)
    np.testing.assert_allclose(found, naive_weights(ids, **options), atol=TOLERANCE, rtol=0)


def test_real_truth_has_the_weights_of_the_formula(shared_data: Path, tmp_path: Path) -> None:
    for place in (
        "dsb2018-nuclei/histology/labels",
        "ctc-dic-hela/01_ST/SEG",
        "ctc-dic-hela/02_GT/SEG",
        "ctc-phc-u373-labels/02_ST/SEG",
    ):
        check_folder(shared_data / place, tmp_path, n=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    ["dsb2018-nuclei/fluorescence/labels", "dsb2018-nuclei/histology/labels"]
    + [f"ctc-dic-hela/{part}/SEG" for part in ("01_GT", "01_ST", "02_GT")]
    + [f"ctc-phc-u373-labels/{part}/SEG" for part in ("01_GT", "01_ST", "02_GT", "02_ST")],
)
@pytest.mark.timeout(1200)
def test_all_real_truths_have_the_weights_of_the_formula(place: str, shared_data: Path, tmp_path: Path) -> None:
    check_folder(shared_data / place, tmp_path)


def check_folder(folder: Path, work: Path, n: int | None = None) -> None:
    """The first n label maps of a folder, or all, in two sizes of blocks."""
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".png", ".tif"))[:n]
    assert paths
    for path in paths:
        ids = open_image(path, as_labels=True).read([])
        found = [weighed(path, work / f"{path.stem}-{block}.zarr", block=block, overwrite=True) for block in (4096, 96)]
        np.testing.assert_array_equal(*found)
        np.testing.assert_allclose(found[0], naive_weights(ids), atol=TOLERANCE, rtol=0, err_msg=str(path))


def test_void_pixels_weigh_nothing_and_are_no_object(tmp_path: Path) -> None:
    ids = discs(30, (6, 12)).astype(np.int32)
    ids[60:80, 20:100] = -1
    ids[-20:] = -1
    found = weighed(ids, tmp_path / "o.zarr", block=64, void=-1)
    np.testing.assert_allclose(found, naive_weights(ids, void=ids == -1), atol=TOLERANCE, rtol=0)
    assert (found[ids == -1] == 0).all()


def test_nothing_but_void_weighs_nothing(tmp_path: Path) -> None:
    assert not weighed(np.full((40, 40), 255, np.uint8), tmp_path / "o.zarr", kind="classes").any()


@pytest.mark.parametrize("void", [None, 9])
def test_objects_of_a_class_map_are_labeled_first(void: int | None, tmp_path: Path) -> None:
    classes = (discs(30, (6, 12)) % 4).astype(np.uint8)  # of three classes, that touch each other
    is_void = np.zeros(classes.shape, bool)
    is_void[70:90, 40:] = True
    classes[is_void] = 255
    if void is not None:
        classes[:12], is_void[:12] = void, True
    ids = whole_image(np.where(is_void, 255, classes), 8)
    for block in (4096, 64):
        out = tmp_path / f"{block}.zarr"
        found = weighed(classes, out, kind="classes", void=void, block=block)
        np.testing.assert_allclose(found, naive_weights(ids, void=is_void), atol=TOLERANCE, rtol=0)
        np.testing.assert_array_equal(zarr.open_array(str(out / "labels/objects/0"), mode="r")[:], ids)
    yaozarrs.validate_zarr_store(str(out))


def test_float16_is_the_same_to_its_rounding(tmp_path: Path) -> None:
    ids = MAPS["blobs that touch"]
    whole, half = (weighed(ids, tmp_path / f"{d}.zarr", dtype=d, block=64) for d in ("float32", "float16"))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, whole.astype(np.float16))


def test_planes_are_weighed_one_by_one_with_the_class_weights_of_all(tmp_path: Path) -> None:
    planes = np.stack([discs(n, (6, 12), seed=n) for n in (3, 12, 40)])
    found = weighed(planes, tmp_path / "o.zarr", block=64)
    result = tilekit.weight_map(planes, tmp_path / "o.zarr", block=64)
    for plane, ids in zip(found, planes, strict=True):
        balanced = naive_weights(ids, class_weights=tuple(result["class_weights"]))
        np.testing.assert_allclose(plane, balanced, atol=TOLERANCE, rtol=0)
    whole = naive_weights(planes.reshape(-1, SIDE), w0=0)  # ridges between planes are few pixels
    assert math.isclose(whole.max(), max(result["class_weights"]), rel_tol=0.01)


def test_the_output_is_an_ome_zarr_with_the_place_of_the_labels(tmp_path: Path) -> None:
    ids = np.kron(discs(60, (8, 16)), np.ones((8, 8), np.uint16))
    source = open_image(ids, pixel_size=(0.5, 0.25))
    result = tilekit.weight_map(source, tmp_path / "o.zarr", block=1024)
    assert (result["halo"], result["tolerance"], result["blocks"]) == (28, 1e-6, 4)
    yaozarrs.validate_zarr_store(str(tmp_path / "o.zarr"))
    image = open_image(tmp_path / "o.zarr")
    assert (image.pixel_size, image.axes, image.nodata) == ((0.5, 0.25), "yx", None)
    assert list(image.levels) == [(1200, 1200), (600, 600), (300, 300)]
    level = open_image(tmp_path / "o.zarr", level=1).read([])
    cells = image.read([]).reshape(600, 2, 600, 2).mean((1, 3), dtype=np.float64)
    np.testing.assert_allclose(level, cells, rtol=1e-6)


def test_again_is_no_work_other_arguments_are_refused_and_torn_shards_redone(tmp_path: Path) -> None:
    ids, out = MAPS["blobs that touch"], tmp_path / "o.zarr"
    first = weighed(ids, out, block=64)
    shard = next(p for p in sorted((out / "0/c").rglob("*")) if p.is_file())
    written = shard.stat().st_mtime_ns
    assert tilekit.weight_map(ids, out, block=64)["redone"] == 0
    assert shard.stat().st_mtime_ns == written
    with pytest.raises(InputError, match=r"sigma was 5\.0, now 6"):
        tilekit.weight_map(ids, out, block=64, sigma=6)
    with pytest.raises(InputError, match=r"labels\.sha256 was"):
        tilekit.weight_map(ids[1:], out, block=64)
    shard.write_bytes(shard.read_bytes()[:-7])
    assert tilekit.weight_map(ids, out, block=64)["redone"] == 1
    np.testing.assert_array_equal(weighed(ids, out, block=64), first)
    assert not (weighed(ids, out, block=64, sigma=6, overwrite=True) == first).all()


NONE = np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize(
    ("ids", "options", "said"),
    [
        (np.zeros((4, 4), np.float32), {}, "object ids of type float32, must be integers"),
        (np.zeros((4, 4), np.float32), {"kind": "classes"}, "classes of type float32, must be integers"),
        (np.full((4, 4), -7), {}, "id -7 is below 0; map it to another, or say --void -7"),
        (NONE, {"sigma": 0}, "sigma 0: must be above 0"),
        (NONE, {"w0": -2}, "w0 -2: must be 0 or more"),
        (NONE, {"block": 20}, "looks 28 pixels far, more than a block of 20; use a smaller one, or --block 4096"),
        (NONE, {"sigma": 300}, "looks 1703 pixels far, more than a block of 1024"),
        (NONE, {"dtype": "float64"}, "float32 or float16"),
        (NONE, {"kind": "cells"}, "ids or classes"),
        (NONE, {"void": 300}, "--void 300 is no value of uint8 pixels"),
        (NONE, {"void": 0}, "--void 0 is the background"),
        (NONE, {"class_weights": (1.0, -1.0)}, "must be 0 or more, of background and object"),
        (NONE, {"dtype": "float16", "w0": 1e5}, "do not fit float16"),
        (np.zeros((2, 3, 4, 5, 6), np.uint8), {}, "name each once, y and x among them"),
        ("absent.tif", {}, "absent.tif: no such file"),
        ("ftp://host/ids.zarr", {}, "is no URL that can be used"),
    ],
)
def test_bad_input_is_one_line(ids: Any, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    options = {"block": 1024, **options}
    with pytest.raises((InputError, tilekit.RunError)) as caught:
        tilekit.weight_map(ids, tmp_path / "o.zarr", **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_outputs_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    ids = MAPS["blobs apart"]
    np.save(tmp_path / "ids.npy", ids)
    image = tmp_path / "image.zarr"
    tilekit.ingest(ids, image)
    with pytest.raises(InputError, match="weigh did not begin; choose another output"):
        tilekit.weight_map(tmp_path / "ids.npy", image)
    with pytest.raises(InputError, match="holds the labels"):
        tilekit.weight_map(image, image, overwrite=True)
    tilekit.label_objects(ids.astype(bool).astype(np.uint8), image)
    with pytest.raises(InputError, match="holds the labels"):
        tilekit.weight_map(image, image, overwrite=True)
    found = weighed(image, tmp_path / "o.zarr")  # the objects of a store
    np.testing.assert_allclose(found, naive_weights(whole_image(ids > 0, 8)), atol=TOLERANCE, rtol=0)
    (image / "labels/objects").rename(image / "labels/classes")
    with pytest.raises(InputError, match="has labels/classes and no labels/objects; label it first"):
        tilekit.weight_map(image, tmp_path / "other.zarr")
    tifffile.imwrite(tmp_path / "colors.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputError, match="has axes cyx, a label map has no channels"):
        tilekit.weight_map(tmp_path / "colors.tif", tmp_path / "other.zarr")


def test_labels_of_a_store_that_changed_are_refused_or_weighed_anew(tmp_path: Path) -> None:
    store, out = tmp_path / "store.zarr", tmp_path / "o.zarr"
    for kept in (1, 100):
        classes = MAPS["blobs apart"].astype(bool).astype(np.uint8)
        tilekit.label_objects(classes, store, block=64, min_size=kept, overwrite=True)
        if kept == 100:
            with pytest.raises(InputError, match=r"labels\.written was"):
                tilekit.weight_map(store, out, block=64)
        tilekit.weight_map(store, out, block=64, overwrite=True)


def test_a_class_map_that_changed_is_refused_or_weighed_anew(tmp_path: Path) -> None:
    image, store, out = structured_image((150, 150), np.uint8), tmp_path / "store.zarr", tmp_path / "o.zarr"
    np.save(tmp_path / "image.npy", image)
    for rows in (70, 150):
        tilekit.predict(tmp_path / "image.npy", PlainFilter(), store, block=32, tile=32, box=[(0, rows), (0, 150)])
        if rows == 150:
            with pytest.raises(InputError, match=r"labels\.written was"):
                tilekit.weight_map(store, out, kind="classes", block=32)
        found = weighed(store, out, kind="classes", block=32, overwrite=True)
        classes = zarr.open_array(str(store / "labels/classes/0"), mode="r")[:]
        expected = naive_weights(whole_image(classes, 8), void=classes == 255)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
