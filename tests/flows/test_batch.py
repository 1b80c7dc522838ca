"""Several images as one run: each as if it were alone, failures listed, finished ones left alone."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from flows.batch import segment_files
from flows.images import BatchError
from flows.params import SegmentParameters
from flows.work import segment_file
from tests.faults.harness import assert_same, call, make_image, make_model, shards, start
from tilekit.errors import InputError

PLAIN = SegmentParameters(workers=0, device="cpu", block=128, tile=64)
OPTIONS = ["--device", "cpu", "--block", "128", "--tile", "64"]


@dataclass(frozen=True)
class Files:
    images: Path
    model: Path
    out: Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A folder with two good images, one spoiled between them and a text."""
    found = Files(tmp_path / "images", tmp_path / "model.safetensors", tmp_path / "out")
    found.images.mkdir()
    make_image(found.images / "a.tif", 200, seed=1)
    (found.images / "b.tif").write_text("This is not an image.\n")
    make_image(found.images / "c.ome.tif", 300, seed=2)
    (found.images / "notes.txt").write_text("mine")
    make_model(found.model)
    return found


def table(out: Path) -> list[dict[str, str]]:
    with (out / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def pixel_files(out: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in shards(out)}


def test_each_image_is_segmented_as_if_alone_and_a_failure_stops_none(files: Files, tmp_path: Path) -> None:
    arguments = ["segment", str(files.images), str(files.model), str(files.out), *OPTIONS, "--workers", "0"]
    done = call(*arguments, "--json")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "tilekit: 1 of 4 images failed" in done.stderr
    assert "b.tif: not an image" in done.stderr
    rows = json.loads(done.stdout)
    assert [Path(r["image"]).name for r in rows] == ["a.tif", "b.tif", "c.ome.tif", "notes.txt"]
    assert [r["status"] for r in rows] == ["complete", "failed", "complete", "left out"]
    assert [r["blocks"] for r in rows] == [4, None, 9, None]
    assert sum(rows[0]["classes"].values()) == 200 * 200
    assert all(("reason" in r and bool(r["reason"])) == (r["status"] != "complete") for r in rows)
    for name, image in (("a", "a.tif"), ("c", "c.ome.tif")):
        alone = tmp_path / f"{name}.zarr"
        segment_file(files.images / image, files.model, alone, PLAIN)
        assert_same(files.out / f"{name}.zarr", alone)
    listed = table(files.out)
    assert list(listed[0]) == [
        "image", "output", "status", "blocks", "written", "redone", "seconds", "megapixels_per_second",
        "pixels of background", "pixels of class 1", "pixels of class 2", "pixels of void", "reason",
    ]  # fmt: skip
    assert [r["status"] for r in listed] == [r["status"] for r in rows]
    assert int(listed[0]["pixels of class 1"]) == rows[0]["classes"]["1"]
    assert "not an image" in listed[1]["reason"]


def test_the_same_command_again_does_only_what_is_missing(files: Files) -> None:
    with pytest.raises(BatchError) as failed:
        segment_files(files.images, files.model, files.out, PLAIN)
    assert [r["status"] for r in failed.value.rows] == ["complete", "failed", "complete", "left out"]
    before = pixel_files(files.out)
    assert before
    make_image(files.images / "b.tif", 100, seed=3)
    rows = segment_files(files.images, files.model, files.out, PLAIN)
    assert [(r["status"], r["written"], r["redone"]) for r in rows[:3]] == [
        ("complete", 0, 0),
        ("complete", 1, 0),
        ("complete", 0, 0),
    ]
    after = pixel_files(files.out)
    assert {p: after[p] for p in before} == before
    assert {p.relative_to(files.out).parts[0] for p in after.keys() - before.keys()} == {"b.zarr"}
    assert [r["status"] for r in table(files.out)] == ["complete", "complete", "complete", "left out"]


def test_options_of_a_csv_reach_their_image(files: Files, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(10, 255, (2, 150, 150), dtype=np.uint8)
    pixels[:, :50] = 9
    xml = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(tmp_path / "two.ome.tif", pixels, metadata=xml)
    mask = np.zeros((150, 150), np.uint8)
    mask[100:, 100:] = 1
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    rows = "two.ome.tif,plain,GFP,,\ntwo.ome.tif,nodata,1,9,\ntwo.ome.tif,mask,1,,mask.tif\n"
    (tmp_path / "list.csv").write_text(f"image,out,channels,nodata,mask\n{rows}")
    plain, nodata, masked = segment_files(tmp_path / "list.csv", files.model, files.out, PLAIN)
    assert "255" not in plain["classes"]
    assert nodata["classes"]["255"] == 50 * 150
    assert masked["classes"]["255"] == 150 * 150 - 50 * 50
    alone = tmp_path / "alone.zarr"
    segment_file(tmp_path / "two.ome.tif", files.model, alone, PLAIN.model_copy(update={"channels": "1"}))
    assert_same(files.out / "plain", alone)


def test_what_concerns_all_images_is_refused_before_any_is_tried(files: Files) -> None:
    (files.images / "model.safetensors").write_text("This is not a network.\n")
    with pytest.raises(InputError, match="no safetensors"):
        segment_files(files.images, files.images / "model.safetensors", files.out, PLAIN)
    shutil.copy(files.images / "a.tif", files.images / "a.tiff")
    done = call("segment", str(files.images), str(files.model), str(files.out), "--workers", "0")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "would both become" in done.stderr
    assert not files.out.exists()


def test_previews_lie_beside_their_stores(files: Files) -> None:
    (files.images / "b.tif").unlink()
    parameters = PLAIN.model_copy(update={"preview_only": True, "preview": 1})
    rows: list[dict[str, Any]] = segment_files(files.images, files.model, files.out, parameters)
    assert [r["status"] for r in rows] == ["previewed", "previewed", "left out"]
    assert sorted(p.name for p in files.out.iterdir()) == ["a-preview", "c-preview", "summary.csv"]


def test_one_cluster_serves_all_images(files: Files) -> None:
    make_image(files.images / "b.tif", 400, seed=3)
    run = start(
        ["segment", str(files.images), str(files.model), str(files.out), *OPTIONS, "--workers", "2", "--json"],
        files.out,
    )
    workers: set[int] = set()
    while run.process.poll() is None:
        workers |= {p.pid for p in run.workers()}
    out, err = run.process.communicate()
    assert run.process.returncode == 0, err
    assert [r["status"] for r in json.loads(out)] == ["complete", "complete", "complete", "left out"]
    assert len(workers) == 2
