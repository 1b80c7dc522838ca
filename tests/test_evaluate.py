"""`tilekit evaluate`: the same for every block, worker and format; real sets, refusals, files and resume."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from sklearn.metrics import confusion_matrix
from typer.testing import CliRunner

import tilekit
from flows.main import app
from tests.oracle_seg import brute_force_seg
from tilekit.errors import InputError
from tilekit.jobs import evaluate as job
from tilekit.predictor import VOID
from tilekit.sources import open_image


def blobs(seed: int, n: int, shape: tuple[int, int] = (150, 210), dtype: Any = np.uint8) -> np.ndarray:
    """Patches of n values."""
    small = np.random.default_rng(seed).integers(0, n, (-(-shape[0] // 9), -(-shape[1] // 7)))
    return small.repeat(9, 0).repeat(7, 1)[: shape[0], : shape[1]].astype(dtype)


def disturbed(labels: np.ndarray, seed: int, share: float = 0.2) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.where(
        generator.random(labels.shape) < share, generator.permutation(labels.ravel()).reshape(labels.shape), labels
    )


def same(one: Any, other: Any) -> bool:
    """Equal, NaN to NaN, but for how long it took and how many blocks."""

    def plain(result: Any) -> str:
        return json.dumps({k: v for k, v in result.items() if k not in ("seconds", "blocks", "redone", "worst")})

    return plain(one) == plain(other)


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def refusal(*arguments: Any) -> str:
    """The one line of an error."""
    found = run(*arguments)
    assert isinstance(found.exception, InputError), found.output + str(found.exception)
    line = str(found.exception)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("kind", ["classes", "ids"])
def test_scores_are_the_same_for_every_block_worker_and_format(kind: str, tmp_path: Path) -> None:
    dtype = np.uint8 if kind == "classes" else np.uint32
    truth = blobs(1, 5 if kind == "classes" else 300, dtype=dtype)
    prediction = disturbed(truth, 2)
    whole = tilekit.evaluate(prediction, truth, kind=kind)
    for block in (16, 37, 64, 1000):
        assert same(tilekit.evaluate(prediction, truth, kind=kind, block=block), whole), block
    tifffile.imwrite(tmp_path / "p.tif", prediction)
    zarr.save(tmp_path / "array.zarr", prediction)
    names = {"p.tif": "p.tif", "array.zarr": "array.zarr"}
    for name in names:
        found = tilekit.evaluate(tmp_path / name, truth, kind=kind, block=64)
        found["images"][0]["image"] = "array"
        assert same(found, whole), name


def test_two_workers_give_the_same(tmp_path: Path) -> None:
    for name, seed in (("p", 1), ("t", 2)):
        tifffile.imwrite(tmp_path / f"{name}.tif", blobs(seed, 4))
    one, two = (tilekit.evaluate(tmp_path / "p.tif", tmp_path / "t.tif", block=64, workers=n) for n in (0, 2))
    assert same(one, two)


def test_classes_equal_scikit_learn_and_void_follows_its_rules() -> None:
    truth, prediction = blobs(1, 4), blobs(2, 4)
    truth[:30], prediction[20:40] = VOID, VOID
    found = tilekit.evaluate(prediction, truth)
    seen = truth != VOID
    full = confusion_matrix(truth[seen], prediction[seen], labels=[0, 1, 2, 3, VOID])
    assert found["confusion"] == full[:4, :4].tolist()
    assert found["unpredicted"] == full[:4, 4].tolist()
    assert found["pixels"] == seen.sum()
    without = tilekit.evaluate(prediction, truth, void=None)
    assert len(without["confusion"]) == 256
    assert math.isnan(without["iou"][100]), "a class in neither map"
    assert without["pixels"] == truth.size


def test_the_truth_is_mapped_first_and_a_prediction_in_its_numbers_too() -> None:
    truth = np.array([[0, 255, -1, 255]] * 3, np.int16)
    mapping = {0: 0, 255: 1, -1: None}
    prediction = np.array([[0, 1, 1, 255]] * 3, np.uint8)
    found = tilekit.evaluate(prediction, truth, mapping=mapping)
    assert (found["confusion"], found["unpredicted"]) == ([[3, 0], [0, 3]], [0, 3])
    assert not found["is_mapped"]
    itself = tilekit.evaluate(truth, truth, mapping=mapping)
    assert itself["is_mapped"]
    assert itself["confusion"] == [[3, 0], [0, 6]]
    assert itself["miou"] == itself["pixel_accuracy"] == 1


def test_ids_of_a_void_region_count_nowhere() -> None:
    truth = np.array([[1, 1, 2, 9, 9]], np.uint16)
    prediction = np.array([[4, 4, 5, 6, 5]], np.uint16)
    assert tilekit.evaluate(prediction, truth, kind="ids", void=9)["seg"] == 1
    assert tilekit.evaluate(prediction, truth, kind="ids", mapping={9: None})["predicted_objects"] == 2
    assert tilekit.evaluate(prediction, truth, kind="ids")["truth_objects"] == 3, "no id is void by default"
    many = np.arange(1, 301, dtype=np.uint16).reshape(15, 20)
    assert tilekit.evaluate(many, many, kind="ids")["truth_objects"] == 300, "255 is an object"


def test_the_store_of_an_output_is_read_by_its_labels(tmp_path: Path) -> None:
    truth = blobs(1, 3)
    group = zarr.create_group(tmp_path / "out.zarr")
    for name in ("labels/classes", "labels/objects"):
        group.create_array(name, data=truth)
    assert run(tmp_path / "out.zarr", tmp_path / "out.zarr", "--json").exit_code == 0
    found = json.loads(run(tmp_path / "out.zarr/labels/objects", tmp_path / "out.zarr/labels/objects", "--json").stdout)
    assert found["kind"] == "ids"
    assert found["seg"] == 1
    forced = json.loads(
        run(tmp_path / "out.zarr/labels/objects", tmp_path / "out.zarr/labels/objects", "--classes", "--json").stdout
    )
    assert forced["miou"] == 1


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two predictions and the truth of 5 images."""
    made = tuple(tmp_path / name for name in ("a", "b", "truth"))
    for folder in made:
        folder.mkdir()
    for k in range(5):
        truth = blobs(k, 40, dtype=np.uint16)
        for folder, labels in zip(made, (disturbed(truth, k, 0.1), disturbed(truth, k + 9, 0.3), truth), strict=True):
            tifffile.imwrite(folder / f"image{k}.tif", labels)
    return made


def test_folders_are_paired_by_name_and_pooled(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "scores"
    found = run(folders[0], folders[2], "--ids", "--json", "--out", out)
    assert found.exit_code == 0, found.exception
    result = json.loads(found.stdout)
    pairs = [[tifffile.imread(folder / f"image{k}.tif") for folder in (folders[0], folders[2])] for k in range(5)]
    expected = [brute_force_seg(*pair) for pair in pairs]
    assert [row["seg"] for row in result["images"]] == pytest.approx(expected, abs=1e-12)
    assert result["mean_of_images"]["seg"] == pytest.approx(np.mean(expected))
    n = [len(np.unique(t[t > 0])) for _, t in pairs]
    assert result["seg"] == pytest.approx(np.average(expected, weights=n)), "pooled: the mean over objects"
    stored = json.loads((out / "scores.json").read_text())
    assert stored["seg"] == result["seg"]
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"image{k}" for k in range(5)] + ["all"]
    assert float(rows[-1]["seg"]) == result["seg"]
    assert (out / "worst-1.png").exists()


def test_a_comparison_has_paired_differences_intervals_and_a_layer(folders, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    result = tilekit.evaluate(folders[0], folders[2], other=folders[1], kind="ids", out=out)
    single = [tilekit.evaluate(folder, folders[2], kind="ids") for folder in folders[:2]]
    assert same(result["first"], single[0])
    assert same(result["second"], single[1])
    difference = result["differences"]["seg"]
    rows = [[row["seg"] for row in s["images"]] for s in single]
    assert difference["mean"] == pytest.approx(np.mean(np.subtract(*rows)))
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert (
        result["differences"] == tilekit.evaluate(folders[0], folders[2], other=folders[1], kind="ids")["differences"]
    )
    assert len(result["disagreement"]) == 5
    layer = zarr.open_array(out / "image0.zarr/labels/disagreement/0")[:]
    assert layer.shape == (150, 210)
    assert len(np.unique(layer)) == 5


def test_the_layer_of_classes_says_which_is_right(tmp_path: Path) -> None:
    truth, first, second = (
        np.array([[0, 1, 1, 1, 1, VOID]]),
        np.array([[0, 2, 1, 0, 2, 1]]),
        np.array([[0, 2, 0, 1, 0, 0]]),
    )
    maps = [np.array(m, np.uint8) for m in (first, truth, second)]
    result = tilekit.evaluate(maps[0], maps[1], other=maps[2], out=tmp_path / "out")
    assert result["disagreement"] == [str(tmp_path / "out/labels/disagreement")]
    assert zarr.open_array(tmp_path / "out/labels/disagreement/0")[:].tolist() == [[0, 1, 2, 3, 4, VOID]]
    label = open_image(tmp_path / "out/labels/disagreement", as_labels=True)
    assert label.shape == (1, 6)


def test_a_stopped_run_continues_and_a_finished_one_does_no_work(tmp_path: Path, monkeypatch) -> None:
    truth = blobs(1, 4)
    prediction, counted, stop = disturbed(truth, 3), [], [7]

    def stop_once(index: int, config: Any) -> Any:
        counted.append(index)
        if len(counted) in stop:
            stop.clear()
            raise KeyboardInterrupt
        return original(index, config)

    original = job.count_block
    monkeypatch.setattr(job, "count_block", stop_once)
    with pytest.raises(KeyboardInterrupt):
        tilekit.evaluate(prediction, truth, block=32, out=tmp_path / "out")
    found = tilekit.evaluate(prediction, truth, block=32, out=tmp_path / "out")
    assert len(counted) == found["blocks"] + 1, "only the block that was stopped is counted twice"
    assert same(found, tilekit.evaluate(prediction, truth))
    counted.clear()
    assert same(tilekit.evaluate(prediction, truth, block=32, out=tmp_path / "out"), found)
    assert counted == []
    with pytest.raises(InputError, match="other arguments"):
        tilekit.evaluate(truth, truth, block=32, out=tmp_path / "out")
    assert tilekit.evaluate(truth, truth, block=32, out=tmp_path / "out", overwrite=True)["miou"] == 1


def test_an_output_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        tilekit.evaluate(blobs(1, 3), blobs(1, 3), out=tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").exists()


def test_boundary_maps_of_a_stack(tmp_path: Path) -> None:
    stack = np.stack([blobs(k, 2) * 255 for k in range(3)])
    tifffile.imwrite(tmp_path / "t.tif", stack, metadata={"axes": "ZYX"}, photometric="minisblack")
    found = json.loads(run(tmp_path / "t.tif", tmp_path / "t.tif", "--boundaries", "--json").stdout)
    assert found["slices"] == 3
    assert [found[name] for name in ("pixel_error", "rand_isbi2012", "v_rand_thin", "warping_error", "splits")] == [
        0
    ] * 5


def test_each_time_is_an_image(tmp_path: Path) -> None:
    stack = np.stack([blobs(k, 9, dtype=np.uint16) for k in range(3)])
    tifffile.imwrite(tmp_path / "t.tif", stack, metadata={"axes": "TYX"}, imagej=True)
    found = tilekit.evaluate(tmp_path / "t.tif", tmp_path / "t.tif", kind="ids", block=64)
    assert [row["image"] for row in found["images"]] == [f"t.tif t={k}" for k in range(3)]
    assert found["truth_objects"] == sum(len(np.unique(s[s > 0])) for s in stack)


def write(path: Path, labels: Any, dtype: Any) -> Path:
    tifffile.imwrite(path, np.asarray(labels, dtype))
    return path


def test_bad_input_is_refused_in_one_line(tmp_path: Path) -> None:
    good = write(tmp_path / "good.tif", [[0, 1], [2, 255]], np.uint8)
    wide = write(tmp_path / "wide.tif", [[0, 1, 1]], np.uint8)
    shapes = refusal(wide, good)
    assert "(1, 3)" in shapes
    assert "(2, 2)" in shapes
    floats = write(tmp_path / "floats.tif", [[0, 1], [2, 3]], np.float32)
    assert "floats.tif: pixels are float32, object ids are integers" in refusal(floats, good, "--ids")
    assert "floats.tif: pixels are float32, classes are integers" in refusal(good, floats)
    negative = write(tmp_path / "negative.tif", [[0, -5], [2, 1]], np.int16)
    assert "negative.tif: object id -5 is negative" in refusal(good, negative, "--ids")
    assert "negative.tif: object id -5 is negative" in refusal(negative, good, "--ids")
    assert "negative.tif: value -5 is no class" in refusal(good, negative)
    assert "negative.tif: value -5 is no class" in refusal(negative, good)
    assert "negative.tif: no entry of the map covers value 2" in refusal(good, negative, "--map", "0=0,1=1,-5=void")
    empty = write(tmp_path / "empty.tif", [[0, 0], [0, 0]], np.uint8)
    assert "empty.tif: the truth holds no object" in refusal(good, empty, "--ids")
    assert "all of the truth is void" in refusal(good, empty, "--void", "0")
    assert "'x' is no entry" in refusal(good, good, "--map", "0=0,x")
    assert "1 has two entries" in refusal(good, good, "--map", "1=0,1=1")
    assert "--void x" in refusal(good, good, "--void", "x")
    assert "exclude each other" in refusal(good, good, "--ids", "--classes")
    assert "1 maps given" in refusal(good)
    assert "no void and no map" in refusal(good, good, "--boundaries", "--void", "3")
    assert "no such file" in refusal(good, tmp_path / "gone.tif")
    color = tmp_path / "color.tif"
    tifffile.imwrite(color, np.zeros((4, 4, 3), np.uint8), photometric="rgb")
    assert "has 3 channels" in refusal(color, good)


def test_missing_pairs_are_refused_in_one_line(folders, tmp_path: Path) -> None:
    (folders[0] / "image3.tif").unlink()
    assert f"{folders[0]}: has no image3, which is in {folders[2]}" in refusal(folders[0], folders[2], "--ids")
    assert f"{folders[0]}: has no image3" in refusal(folders[2], folders[0], "--ids")
    assert "is one image and" in refusal(folders[0] / "image1.tif", folders[2])
    (tmp_path / "none").mkdir()
    assert "a folder without images" in refusal(tmp_path / "none", tmp_path / "none")


REAL = [
    ("isbi2012-em/label", "classes", {0: 0, 255: 1}),
    ("isbi2012-em/label", "ids", None),
    ("ctc-dic-hela/01_ST/SEG", "ids", None),
    ("ctc-dic-hela/01_GT/SEG", "ids", None),
    ("ctc-dic-hela/01_ST_binary", "classes", {0: 1, 65535: 0}),
    ("ctc-phc-u373-labels/01_GT/SEG", "ids", None),
    ("ctc-phc-u373-labels/02_ST/SEG", "ids", None),
    ("dsb2018-nuclei/fluorescence/labels", "ids", None),
    ("dsb2018-nuclei/histology/labels", "ids", None),
    (
        "axondeepseg-sem/derivatives/labels/sub-rat1/micr/sub-rat1_sample-data1_SEM_seg-axonmyelin-manual.png",
        "classes",
        None,
    ),
    ("sen1floods11-sample/Spain_7370579_LabelHand.tif", "classes", {0: 0, 1: 1, -1: None}),
]


@pytest.mark.parametrize(("place", "kind", "mapping"), REAL)
def test_real_truth_against_itself_is_perfect(place: str, kind: str, mapping: Any, shared_data: Path) -> None:
    path = shared_data / place
    found = tilekit.evaluate(path, path, kind=kind, mapping=mapping, void=None if mapping is None else "auto")
    if kind == "classes":
        assert found["pixel_accuracy"] == found["miou"] == found["frequency_weighted_iou"] == 1
        assert set(found["iou"]) - {1.0} == set() or all(math.isnan(v) for v in set(found["iou"]) - {1.0})
    else:
        assert found["seg"] == found["mean_ap"] == found["panoptic_quality"] == 1
        assert found["vi_split"] == found["vi_merge"] == found["adapted_rand"] == found["rand_isbi2012"] == 0


def test_real_water_against_a_shifted_copy_by_hand(shared_data: Path) -> None:
    """Counted by slices: pixels where the truth is valid, and the shifted one is water, land or void."""
    path = shared_data / "sen1floods11-sample" / "Spain_7370579_LabelHand.tif"
    truth = open_image(path).read([])
    truth = truth.reshape(truth.shape[-2:])
    shifted = np.roll(truth, 10, 1)
    found = tilekit.evaluate(shifted, truth, mapping={0: 0, 1: 1, -1: None}, block=100)
    hand = [[int(((truth == t) & (shifted == p)).sum()) for p in (0, 1)] for t in (0, 1)]
    lost = [int(((truth == t) & (shifted == -1)).sum()) for t in (0, 1)]
    assert (found["confusion"], found["unpredicted"]) == (hand, lost)
    water = hand[1][1] / (hand[1][0] + hand[0][1] + hand[1][1] + lost[1])
    assert found["iou"][1] == pytest.approx(water, abs=1e-15)
    assert 0.3 < water < 0.7


def test_255_is_void_in_a_prediction_whatever_the_truth_calls_void() -> None:
    truth, prediction = np.uint8([[0, 1, 1, 2]]), np.uint8([[0, 1, 255, 1]])
    found = tilekit.evaluate(prediction, truth, void=2)
    assert (found["confusion"], found["unpredicted"]) == ([[1, 0], [0, 1]], [0, 1])
