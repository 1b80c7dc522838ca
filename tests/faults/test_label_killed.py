"""Labeling killed and continued: the bytes of an unbroken run, whatever was torn, and ids never shifted."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

import tilekit
from tests.faults.harness import (
    assert_same,
    begun,
    call,
    delete,
    flip,
    recorded,
    start,
    status,
    truncate,
    unrecorded,
)
from tests.test_label import whole_image

SIDE, BLOCK = 640, 32
N_BLOCKS = (SIDE // BLOCK) ** 2
STAGES = ("label-holes-find", "label-objects-find", "label-objects-count", "label")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class map of patches of two classes with holes; 255 in a corner."""
    rng = np.random.default_rng(5)
    pixels = np.kron(rng.choice(3, (SIDE // 4, SIDE // 4), p=(0.5, 0.3, 0.2)), np.ones((4, 4), int)).astype(np.uint8)
    pixels[:50, :50] = 255
    path = tmp_path_factory.mktemp("label") / "classes.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64))
    return path


def arguments(classes: Path, out: Path, *more: str) -> list[str]:
    asked = ["--block", str(BLOCK), "--fill-holes", "20", "--min-size", "17", "--json"]
    return ["label", str(classes), str(out), *asked, *more]


@pytest.fixture(scope="module")
def undisturbed(classes: Path) -> Path:
    out = classes.parent / "undisturbed.zarr"
    done = call(*arguments(classes, out, "--workers", "0"))
    assert done.returncode == 0, done.stderr
    return out


def test_the_undisturbed_run_numbers_what_the_whole_image_has(classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    done = call("label", str(classes), str(out), "--block", str(BLOCK), "--workers", "2", "--json")
    expected = whole_image(tifffile.imread(classes), 8)
    assert json.loads(done.stdout)["objects"] == expected.max()
    np.testing.assert_array_equal(zarr.open_array(str(out / "labels/objects/0"), mode="r")[:], expected)


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(classes: Path, undisturbed: Path, tmp_path: Path) -> None:
    for workers in ("1", "2"):
        start(arguments(classes, tmp_path / f"{workers}.zarr", "--workers", workers), tmp_path).finish()
        assert_same(tmp_path / f"{workers}.zarr", undisturbed)


@pytest.mark.parametrize(
    ("stage", "workers"),
    [
        ("label-objects-find", "0"),
        *[pytest.param(s, w, marks=pytest.mark.slow) for s in STAGES for w in "02"],
    ],
)
def test_a_killed_tree_continues_with_the_same_bytes(
    classes: Path, undisturbed: Path, tmp_path: Path, stage: str, workers: str
) -> None:
    choice, out = random.Random(f"{stage} {workers}"), tmp_path / "out.zarr"
    run = start(arguments(classes, out, "--workers", workers), out)
    run.wait_until_begun(stage, choice.randrange(1, N_BLOCKS // 2))
    run.kill_tree()
    run.wait_until_gone()
    assert status(out)["status"] == "stopped"
    left = sum(len(unrecorded(out, s["stage"])) for s in status(out)["stages"])
    n_begun = begun(out, stage)
    result = start(arguments(classes, out, "--workers", "0"), out).finish()
    print(f"killed in {stage} at {n_begun} of {N_BLOCKS}, redone {result['redone']} <= {left}")
    assert result["redone"] <= left
    assert_same(out, undisturbed)


@pytest.mark.parametrize("tear", [flip, *[pytest.param(t, marks=pytest.mark.slow) for t in (truncate, delete)]])
def test_torn_files_between_the_stages_are_made_again(
    classes: Path, undisturbed: Path, tmp_path: Path, tear: object
) -> None:
    out = tmp_path / "out.zarr"
    run = start(arguments(classes, out, "--workers", "0"), out)
    run.wait_for(lambda: recorded(out, "label-objects-count") == N_BLOCKS and begun(out, "label") > 20)
    run.kill_tree()
    choice = random.Random(str(tear))
    held = sorted(p for p in (out / ".tilekit/label-work").rglob("*") if p.is_file())
    for path in choice.sample(held, 12):
        tear(path)  # type: ignore[operator]
    start(arguments(classes, out, "--workers", "0"), out).finish()
    assert_same(out, undisturbed)


@pytest.mark.slow
def test_a_torn_output_is_found_and_made_again(classes: Path, undisturbed: Path, tmp_path: Path) -> None:
    for name in ("labels/objects/0", "labels/objects/1", "tables"):
        out = tmp_path / f"{name.replace('/', '-')}.zarr"
        shutil.copytree(undisturbed, out)
        flip(max((p for p in (out / name).rglob("*") if p.is_file() and p.name != "zarr.json"), key=lambda p: p.name))
        with pytest.raises(AssertionError, match="files differ"):
            assert_same(out, undisturbed)
        start(arguments(classes, out, "--workers", "0"), out).finish()
        assert_same(out, undisturbed)


def test_a_finished_labeling_is_no_work(classes: Path, undisturbed: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (undisturbed / "labels/objects").rglob("*") if p.is_file()}
    start(arguments(classes, undisturbed, "--workers", "0"), undisturbed).finish()
    assert before == {p: p.stat().st_mtime_ns for p in before}


@pytest.mark.slow
def test_other_arguments_and_a_second_run_are_refused(classes: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    run = start(arguments(classes, out, "--workers", "0"), out)
    run.wait_until_begun("label-objects-find", 10)
    run.process.send_signal(signal.SIGSTOP)
    second = call(*arguments(classes, out, "--workers", "0"))
    run.process.send_signal(signal.SIGCONT)
    run.kill_tree()
    assert second.returncode == 2
    assert second.stderr == f"tilekit: {out}: another run is writing it; wait for it, or choose another output\n"
    for store in (out, undisturbed):
        other = call(*arguments(classes, store, "--connectivity", "4", "--workers", "0"))
        assert other.returncode == 2
        assert "connectivity was 8, now 4" in other.stderr
        assert len(other.stderr.splitlines()) == 1
    start(arguments(classes, out, "--workers", "0", "--connectivity", "4", "--overwrite"), out).finish()
    start(arguments(classes, out, "--workers", "0", "--overwrite"), out).finish()
    assert_same(out, undisturbed)


def test_a_class_map_that_changed_is_refused_or_labeled_anew(tmp_path: Path) -> None:
    from tests.oracles import PlainFilter, structured_image

    image, out = structured_image((300, 300), np.uint8), tmp_path / "out.zarr"
    np.save(tmp_path / "image.npy", image)
    tilekit.predict(tmp_path / "image.npy", PlainFilter(), out, block=64, tile=64, box=[(0, 100), (0, 300)])
    first = call("label", str(out), "--json", "--workers", "0")
    assert first.returncode == 0, first.stderr
    tilekit.predict(tmp_path / "image.npy", PlainFilter(), out, block=64, tile=64, box=[(0, 300), (0, 300)])
    refused = call("label", str(out), "--json", "--workers", "0")
    assert refused.returncode == 2
    assert "classes.written was" in refused.stderr
    done = call("label", str(out), "--json", "--workers", "0", "--overwrite")
    found = zarr.open_array(str(out / "labels/objects/0"), mode="r")[:]
    expected = whole_image(zarr.open_array(str(out / "labels/classes/0"), mode="r")[:], 8)
    np.testing.assert_array_equal(found, expected)
    assert json.loads(done.stdout)["objects"] == expected.max() > json.loads(first.stdout)["objects"]
