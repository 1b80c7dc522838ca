"""Whole runs from and to an object store: the same bytes as on a disk, and no word of the credentials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from models import load
from tests.cloud.servers import download, environment, upload
from tests.faults.harness import assert_same, call, make_image, make_model
from tilekit import evaluate, ingest, label_objects, open_image, predict, status, verify, weight_map
from tilekit.errors import InputError
from tilekit.place import RemotePath

SIDE = 150
OPTIONS = ("--block", "64", "--tile", "32", "--nodata", "0", "--device", "cpu", "--workers", "0", "--json")
INPUTS = ("a.tif", "m.safetensors", "truth.npy")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image, a network, a truth, and what all jobs make of them."""
    folder = tmp_path_factory.mktemp("local")
    make_image(folder / "a.tif", SIDE)
    make_model(folder / "m.safetensors")
    np.save(folder / "truth.npy", (tifffile.imread(folder / "a.tif") > 127).astype(np.uint8))
    run_all(str(folder))
    return folder


@pytest.fixture
def place(bucket: RemotePath, local: Path) -> RemotePath:
    """A bucket with the same input."""
    for name in INPUTS:
        upload(local / name, bucket / name)
    return bucket


def run_all(folder: str, workers: int = 0) -> None:
    """Every job, with input and output in one folder or bucket."""
    out = f"{folder}/out.zarr"
    network = load(f"{folder}/m.safetensors", "cpu")
    predict(f"{folder}/a.tif", network, out, block=64, tile=32, nodata=0, probabilities="uint8", workers=workers)
    label_objects(f"{out}/labels/classes", out, block=64, polygons="qupath", workers=workers)
    weight_map(f"{out}/labels/objects", f"{folder}/weights.zarr", block=64, workers=workers)
    evaluate(out, f"{folder}/truth.npy", other=f"{folder}/truth.npy", block=64, out=f"{folder}/scores", workers=workers)


def check_same(copy: Path, local: Path) -> None:
    """Every file of the stores, and every figure of the scores."""
    for store in ("out.zarr", "weights.zarr", "scores/labels"):
        assert_same(copy / store, local / store)
    first, second = (scores(folder / "scores/scores.json") for folder in (copy, local))
    assert first == second
    assert (copy / "scores/scores.csv").read_text() == (local / "scores/scores.csv").read_text()


def scores(path: Path) -> dict[str, Any]:
    left_out = ("seconds", "redone", "disagreement", "output")
    return {k: v for k, v in json.loads(path.read_text()).items() if k not in left_out}


def check_silence(copy: Path) -> None:
    """No file says of the credentials, or of the server."""
    for path in copy.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            secret = environment(0)["AWS_SECRET_ACCESS_KEY"], environment(0)["AWS_ACCESS_KEY_ID"], "127.0.0.1"
            assert not any(text.encode() in data for text in secret), path


def test_every_job_makes_of_an_object_store_what_it_makes_of_a_disk(
    place: RemotePath, local: Path, tmp_path: Path
) -> None:
    run_all(str(place))
    copy = download(place, tmp_path / "copy")
    check_same(copy, local)
    check_silence(copy)
    assert status(f"{place}/out.zarr")["status"] == "complete"
    proof = verify(f"{place}/out.zarr", load(f"{place}/m.safetensors", "cpu"), boxes=2, side=64)
    assert proof["differing_pixels"] == 0


@pytest.mark.slow
def test_worker_processes_make_the_same(place: RemotePath, local: Path, tmp_path: Path) -> None:
    run_all(str(place), workers=2)
    check_same(download(place, tmp_path / "copy"), local)


def test_a_finished_output_is_no_work_and_other_arguments_are_refused(place: RemotePath, local: Path) -> None:
    network, out = load(f"{place}/m.safetensors", "cpu"), f"{place}/out.zarr"
    image = f"{place}/a.tif"
    assert predict(image, network, out, block=64, tile=32, nodata=0)["written"] == 9
    assert predict(image, network, out, block=64, tile=32, nodata=0)["written"] == 0
    with pytest.raises(InputError, match=r"out.zarr: was begun with other arguments \(nodata was 0"):
        predict(image, network, out, block=64, tile=32, nodata=1)
    (place / "out.zarr/labels/classes/0/c/1/1").unlink()
    (place / "out.zarr/0/c/0/0").write_bytes(b"torn")
    again = predict(image, network, out, block=64, tile=32, nodata=0)
    assert (again["written"], again["redone"]) == (1, 2)
    make_image(local / "other.tif", SIDE, seed=1)
    upload(local / "other.tif", place / "a.tif")
    with pytest.raises(InputError, match=r"was begun with other arguments .*e_tag was"):
        predict(image, network, out, block=64, tile=32, nodata=0)
    assert predict(image, network, out, block=64, tile=32, nodata=0, overwrite=True)["written"] == 9


def test_images_of_every_kind_are_read_by_url(bucket: RemotePath, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    pixels = np.random.default_rng(0).integers(0, 255, (300, 200), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "tiles.tif", pixels, tile=(64, 64), compression="zlib")
    tifffile.imwrite(tmp_path / "strips.tif", pixels)
    np.save(tmp_path / "array.npy", pixels)
    (tmp_path / "picture.png").write_bytes(imagecodecs.png_encode(pixels))
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["raw"] = pixels
    ingest(pixels, tmp_path / "v3.zarr")
    ingest(pixels, tmp_path / "v2.zarr", ngff="0.4")
    upload(tmp_path, bucket)
    for name in ("tiles.tif", "strips.tif", "array.npy", "picture.png", "data.h5", "v3.zarr", "v2.zarr", "v3.zarr/0"):
        source = open_image(f"{bucket}/{name}")
        assert source.name == Path(name).parts[-1 if "zarr/" not in name else 0]
        np.testing.assert_array_equal(source.read([(100, 290), (30, 190)]), pixels[100:290, 30:190], err_msg=name)
        assert open_image(tmp_path / name).shape == source.shape


def test_a_tiff_by_url_keeps_its_place_on_the_ground(bucket: RemotePath, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "map.tif"
    transform = rasterio.Affine(10, 0, 500_000, 0, -10, 4_000_000)
    with rasterio.open(path, "w", "GTiff", 90, 80, 1, "EPSG:32633", transform, "uint8", nodata=0) as file:
        file.write(np.full((1, 80, 90), 7, np.uint8))
    upload(path, bucket / "map.tif")
    here, there = open_image(path), open_image(f"{bucket}/map.tif")
    assert there.georeference == here.georeference is not None
    assert (there.pixel_size, there.nodata) == (here.pixel_size, here.nodata) == ((1e7, 1e7), 0)


@pytest.mark.slow
def test_a_folder_of_images_becomes_a_folder_of_stores(place: RemotePath, local: Path) -> None:
    for name in ("b.tif", "c.tif"):
        upload(local / "a.tif", place / "images" / name)
    done = call("segment", f"{place}/images", f"{place}/m.safetensors", f"{place}/stores", *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (place / "stores").iterdir()) == ["b.zarr", "c.zarr", "summary.csv"]
    by_glob = call("segment", f"{place}/images/[b]*.tif", f"{place}/m.safetensors", f"{place}/stores", *OPTIONS)
    assert [row["written"] for row in json.loads(by_glob.stdout)] == [0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{0}/none.tif", "{0}/m.safetensors", "{0}/o.zarr"], "none.tif"),
        (["{0}/a.tif", "{0}/none.safetensors", "{0}/o.zarr"], "none.safetensors: there is no such file"),
        (["{0}/a.tif", "{0}/m.safetensors", "s3://no-such-bucket/o.zarr"], "there is no such bucket"),
        (["{0}/a.tif", "{0}/m.safetensors", "https://localhost/o.zarr"], "is read over the web, not written"),
        (["ftp://host/a.tif", "{0}/m.safetensors", "{0}/o.zarr"], "is no URL that can be used"),
        (["{0}/a.tif", "{0}/m.safetensors", "{0}/truth.npy"], "exists and is no Zarr store; choose another output"),
    ],
)
def test_bad_input_is_one_line(place: RemotePath, arguments: list[str], said: str) -> None:
    image, model, out = (text.format(place) for text in arguments)
    with pytest.raises((InputError, FileNotFoundError)) as refused:
        predict(image, load(model, "cpu"), out)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_bad_input_is_status_2(place: RemotePath) -> None:
    done = call("segment", f"{place}/a.tif", f"{place}/m.safetensors", "s3://no-such-bucket/o.zarr", *OPTIONS)
    assert done.returncode == 2
    expected = "s3://no-such-bucket/o.zarr: there is no such bucket; create it, or correct the URL"
    assert done.stderr == f"tilekit: {expected}\n"
