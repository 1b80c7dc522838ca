"""Objects across every seam: the ids are those of the whole image, for every block size and worker count."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from numpy.typing import NDArray
from scipy import ndimage

import tilekit
from tilekit.errors import InputError
from tilekit.jobs.label_plan import label_workers
from tilekit.specimen import Specimen

Array = NDArray[Any]
SIDE = 200


def whole_image(classes: Array, connectivity: int) -> Array:
    """Labels of the whole image at once, in row-major order of first pixels."""
    found = cc3d.connected_components(
        np.where(classes == 255, 0, classes), connectivity=connectivity, out_dtype=np.uint32
    )
    kept = found.ravel()
    order = np.unique(kept[kept > 0], return_index=True)[1]
    rank = np.zeros(found.max() + 1, np.int64)
    rank[kept[kept > 0][np.sort(order)]] = np.arange(1, len(order) + 1)
    return rank[found]


def spiral(side: int) -> Array:
    """One object, one pixel wide, that winds through every block."""
    image = np.zeros((side, side), np.uint8)
    top, bottom, left, right = 0, side - 1, 0, side - 1
    while top <= bottom and left <= right:
        image[top, left : right + 1] = 1
        image[top : bottom + 1, right] = 1
        image[bottom, left : right + 1] = 1
        image[top + 2 : bottom + 1, left] = 1
        if top + 2 <= bottom:
            image[top + 2, left : left + 2] = 1
        top, bottom, left, right = top + 2, bottom - 2, left + 2, right - 2
    return image


def comb(side: int) -> Array:
    """Teeth that only the last row joins."""
    image = np.zeros((side, side), np.uint8)
    image[:, ::2] = 1
    image[-1] = 1
    return image


def blobs(density: float, seed: int = 0) -> Array:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((SIDE, SIDE)), 2)
    return (noise > np.quantile(noise, 1 - density)).astype(np.uint8)


IMAGES = {
    "spiral": spiral(SIDE),
    "comb": comb(SIDE),
    "comb, upside down": comb(SIDE)[::-1].copy(),
    "checkerboard": (np.indices((SIDE, SIDE)).sum(0) % 2).astype(np.uint8),
    "one": np.ones((SIDE, SIDE), np.uint8),
    "none": np.zeros((SIDE, SIDE), np.uint8),
    "void": np.full((SIDE, SIDE), 255, np.uint8),
    "stripes of classes": (np.indices((SIDE, SIDE))[0] % 3).astype(np.uint8),
    **{f"blobs of {d:.0%}": blobs(d) for d in (0.01, 0.1, 0.3, 0.6)},
}


def labeled(classes: Any, out: Path, **options: Any) -> Array:
    tilekit.label_objects(classes, out, **options)
    return np.asarray(zarr.open_array(str(out / "labels/objects/0"), mode="r")[:])


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("name", IMAGES)
def test_ids_are_those_of_the_whole_image(name: str, connectivity: int, tmp_path: Path) -> None:
    expected = whole_image(IMAGES[name], connectivity)
    for block in (64, SIDE):
        found = labeled(IMAGES[name], tmp_path / f"{block}.zarr", connectivity=connectivity, block=block)
        np.testing.assert_array_equal(found, expected)


def test_the_check_can_fail(tmp_path: Path) -> None:
    found = labeled(IMAGES["checkerboard"], tmp_path / "o.zarr", connectivity=4, block=64)
    assert (found != whole_image(IMAGES["checkerboard"], 8)).any()


def test_workers_write_the_same(tmp_path: Path) -> None:
    classes = blobs(0.3)
    alone = labeled(classes, tmp_path / "0.zarr", block=64)
    np.testing.assert_array_equal(labeled(classes, tmp_path / "2.zarr", block=64, workers=2), alone)
    tables = [pq.read_table(tmp_path / f"{w}.zarr/tables/objects.parquet") for w in (0, 2)]
    assert tables[0].equals(tables[1])


def test_small_objects_are_left_out(tmp_path: Path) -> None:
    classes = blobs(0.1)
    whole = whole_image(classes, 8)
    kept = np.bincount(whole.ravel()) >= 30
    kept[0] = False
    assert 0 < kept.sum() < len(kept) - 1
    numbers = np.where(kept, np.cumsum(kept), 0)
    for block in (32, 64):
        found = labeled(classes, tmp_path / f"{block}.zarr", block=block, min_size=30)
        np.testing.assert_array_equal(found, numbers[whole])


@pytest.mark.parametrize("connectivity", [4, 8])
def test_small_holes_are_filled(connectivity: int, tmp_path: Path) -> None:
    classes = blobs(0.6)
    classes[:, SIDE // 2 :] *= 2
    classes[5:9, 5:9] = 255
    expected = whole_image(filled_whole(classes, 40, connectivity), connectivity)
    assert (expected != whole_image(classes, connectivity)).any()
    for block in (32, 50, SIDE):
        found = labeled(classes, tmp_path / f"{block}.zarr", block=block, fill_holes=40, connectivity=connectivity)
        np.testing.assert_array_equal(found, expected)


def filled_whole(classes: Array, below: int, connectivity: int) -> Array:
    """Background of fewer pixels that one class alone is beside, away from the image's edge and void, filled."""
    structure = np.ones((3, 3)) if connectivity == 4 else None
    holes, n = ndimage.label(classes == 0, structure=structure)
    padded = np.pad(classes, 1, constant_values=255)
    out = classes.copy()
    for hole in range(1, n + 1):
        inside = holes == hole
        ring = ndimage.binary_dilation(np.pad(inside, 1)) & ~np.pad(inside, 1)
        beside = set(padded[ring].tolist()) - {0}
        if inside.sum() < below and len(beside) == 1 and 255 not in beside:
            out[inside] = beside.pop()
    return out


def test_table_counts_an_object_cut_by_seams_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 60000, (2, SIDE, SIDE)).astype(np.uint16)
    classes = blobs(0.3) * rng.integers(1, 3, (SIDE, SIDE)).astype(np.uint8)
    classes[50:60, 50:60] = 255
    out = tmp_path / "o.zarr"
    tilekit.ingest(image, out, pixel_size=(0.5, 0.25))
    whole = labeled(classes, out, block=32)
    table = {k: np.array(v) for k, v in pq.read_table(out / "tables/objects.parquet").to_pydict().items()}
    ids = np.arange(1, whole.max() + 1)
    np.testing.assert_array_equal(table["id"], ids)
    np.testing.assert_array_equal(table["area"], np.bincount(whole.ravel())[1:])
    np.testing.assert_allclose(
        np.stack([table["centroid_y"], table["centroid_x"]], 1), ndimage.center_of_mass(whole > 0, whole, ids)
    )
    np.testing.assert_allclose(table["equivalent_diameter"], np.sqrt(4 * table["area"] / math.pi))
    boxes = [(s[0].start, s[1].start, s[0].stop, s[1].stop) for s in ndimage.find_objects(whole)]
    np.testing.assert_array_equal(np.stack([table[k] for k in ("y0", "x0", "y1", "x1")], 1), boxes)
    np.testing.assert_array_equal(table["class"], ndimage.maximum(classes, whole, ids))
    for c in range(2):
        np.testing.assert_allclose(table[f"mean_{c}"], ndimage.mean(image[c], whole, ids))
        np.testing.assert_array_equal(table[f"min_{c}"], ndimage.minimum(image[c], whole, ids))
        np.testing.assert_array_equal(table[f"max_{c}"], ndimage.maximum(image[c], whole, ids))
    beside_void = ndimage.binary_dilation(np.pad(classes == 255, 1, constant_values=True))[1:-1, 1:-1]
    np.testing.assert_array_equal(table["touches_edge"], ndimage.maximum(beside_void, whole, ids))


def test_the_table_is_the_same_whatever_is_folded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = np.stack([blobs(0.2, seed) for seed in range(6)]).reshape(2, 3, SIDE, SIDE)
    labeled(stack, tmp_path / "whole.zarr", block=64)
    for module in ("measure", "label"):
        monkeypatch.setattr(f"tilekit.jobs.{module}.BATCH", 7)
    ids = labeled(stack, tmp_path / "batches.zarr", block=64)
    whole, batches = (pq.read_table(tmp_path / f"{n}.zarr/tables/objects.parquet") for n in ("whole", "batches"))
    assert whole.equals(batches)
    assert pq.ParquetFile(tmp_path / "batches.zarr/tables/objects.parquet").num_row_groups > 3
    first = np.unique(ids, return_index=True)[1][1:]
    t, z, _, _ = np.unravel_index(first, ids.shape)
    np.testing.assert_array_equal(np.stack([whole["t"], whole["z"]]), [t, z])


def test_planes_are_numbered_one_after_the_other(tmp_path: Path) -> None:
    planes = np.stack([blobs(0.2, seed) for seed in range(3)])
    found = labeled(planes, tmp_path / "o.zarr", block=64)
    before = 0
    for plane, expected in zip(found, (whole_image(p, 8) for p in planes), strict=True):
        np.testing.assert_array_equal(plane, np.where(expected > 0, expected + before, 0))
        before += expected.max()


def test_again_is_no_work_and_other_arguments_are_refused(tmp_path: Path) -> None:
    classes, out = blobs(0.3), tmp_path / "o.zarr"
    first = labeled(classes, out, block=64)
    again = tilekit.label_objects(classes, out, block=64)
    assert again["redone"] == 0
    assert not (out / ".tilekit/label-work").exists()
    with pytest.raises(InputError, match="connectivity was 8, now 4"):
        tilekit.label_objects(classes, out, block=64, connectivity=4)
    shard = next(p for p in (out / "labels/objects/0/c").rglob("*") if p.is_file())
    shard.write_bytes(shard.read_bytes()[:-7])
    np.testing.assert_array_equal(labeled(classes, out, block=64), first)


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        (np.zeros((4, 4), np.float32), {}, "float32, must be integers"),
        (np.full((4, 4), -1), {}, "class -1"),
        (np.zeros((4, 4), np.uint8), {"connectivity": 6}, "4 or 8"),
        (np.zeros((4, 4), np.uint8), {"block": 0}, "block of 0"),
    ],
)
def test_bad_input_is_one_line(classes: Array, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((InputError, tilekit.RunError), match=message) as caught:
        tilekit.label_objects(classes, tmp_path / "o.zarr", **options)
    assert "\n" not in str(caught.value)


def test_touching_objects_are_split_alike_in_every_block(tmp_path: Path) -> None:
    specimen = Specimen(400, 3)
    classes = specimen.truth([(0, 400), (0, 400)]).copy()
    classes[300:302] = 1  # one object too large to be split
    whole = labeled(classes, tmp_path / "whole.zarr", block=400, split=120)
    assert whole.max() > whole_image(classes, 8).max()
    np.testing.assert_array_equal(whole > 0, classes > 0)
    for block in (64, 100):
        out = tmp_path / f"{block}.zarr"
        result = tilekit.label_objects(classes, out, block=block, split=120)
        assert result["unsplit"] == 1
        np.testing.assert_array_equal(labeled(classes, out, block=block, split=120), whole)
    areas = np.array(pq.read_table(tmp_path / "64.zarr/tables/objects.parquet")["area"])
    np.testing.assert_array_equal(areas, np.bincount(whole.ravel())[1:])
    again = tilekit.label_objects(classes, tmp_path / "64.zarr", block=64, split=120)
    assert (again["objects"], again["unsplit"]) == (whole.max(), 1)


def test_holes_are_filled_before_objects_are_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    classes = Specimen(400, 3).truth([(0, 400), (0, 400)]).copy()
    classes[tuple(rng.integers(0, 400, (2, 2000)))] = 0
    expected = labeled(filled_whole(classes, 20, 8), tmp_path / "filled.zarr", block=400, split=120)
    assert expected.max() < labeled(classes, tmp_path / "open.zarr", block=400, split=120).max()
    for block in (64, 400):
        found = labeled(classes, tmp_path / f"{block}.zarr", block=block, split=120, fill_holes=20)
        np.testing.assert_array_equal(found, expected)


MEMORY = """
import sys
import numpy as np
import tilekit
from tilekit.specimen import Specimen
def read(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
kind, side, out = sys.argv[1], 1536, sys.argv[2]
options = {"split": 64} if kind == "split" else {"connectivity": 4}
if kind == "noise":
    classes = np.random.default_rng(0).integers(1, 3, (2 * side, side), dtype=np.uint8)
else:
    classes = np.tile(Specimen(side).truth([(0, side), (0, side)]), (2, 1))
tilekit.label_objects(np.ones((64, 64), np.uint8), out + "-small", **options)
start = read("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
promised = tilekit.label_objects(classes, out, block=side, **options)["task_bytes"]
print(read("VmHWM") - start, promised)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["cells", "noise", "split"])
def test_measured_memory_is_under_the_promise(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEMORY, kind, str(tmp_path / "o.zarr")]
    taken, promised = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    print(f"{kind}: {taken / 2**20:.0f} of {promised / 2**20:.0f} MiB")
    assert 0 < taken <= promised


def test_workers_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tilekit.jobs.label_plan.available_memory", lambda: 2 << 30)
    with pytest.raises(InputError, match=r"2 workers needs \d\.\d\d GiB but 1\.60 are free; use fewer --workers"):
        tilekit.label_objects(np.zeros((2048, 2048), np.uint8), tmp_path / "o.zarr", workers=2)
    monkeypatch.setattr("tilekit.jobs.label_plan.available_cores", lambda: 4)
    assert [label_workers(n << 20, None) for n in (1, 400)] == [2, 0]
