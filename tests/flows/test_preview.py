"""A preview shows what the run will write, where there is something to see, and leaves the store alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from flows.overlay import overlay, panels, read_png, stretch
from flows.params import SegmentParameters
from flows.preview import OPACITY
from flows.work import segment_file
from tests.faults.harness import call, contents, make_image, make_model
from tilekit import open_image
from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.ngff import class_colors

OPTIONS: dict[str, Any] = {"workers": 0, "device": "cpu", "block": 512, "tile": 160}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_model(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def segment(image: Path, model: Path, out: Path, **options: Any) -> dict[str, Any]:
    return segment_file(str(image), str(model), str(out), SegmentParameters(**{**OPTIONS, **options}))


def box_of(picture: Path) -> Box:
    """The box of the image that a picture shows, by its name and size."""
    found = re.fullmatch(r"box-\d+_y(\d+)_x(\d+)\.png", picture.name)
    assert found
    y, x, (ny, nx) = int(found[1]), int(found[2]), read_png(picture).shape[:2]
    return Box((y, x), (y + ny, x + (nx - 4) // 2))


def drawn(out: Path, box: Box, plane: tuple[int, ...] = ()) -> NDArray[np.uint8]:
    """What a picture of this box must be, from what the run has stored."""
    pixels = open_image(out).read([*((i, i + 1) for i in plane), *zip(box.start, box.stop, strict=True)])
    classes = open_image(out / "labels" / "classes").read(
        [*((i, i + 1) for i in plane), *zip(box.start, box.stop, strict=True)]
    )
    grey = stretch(np.moveaxis(pixels, 0, -1) if len(pixels) == 3 and pixels.ndim == 3 else pixels.reshape(box.shape))
    colors = {k: c[:3] for k, c in enumerate(class_colors(3)) if k}
    return panels([grey, overlay(grey, classes.reshape(box.shape), colors=colors, opacity=OPACITY)])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_pictures_are_of_what_the_run_then_writes(tmp_path: Path, model: Path, workers: int) -> None:
    make_image(tmp_path / "image.tif", 1300)
    out = tmp_path / "out.zarr"
    result = segment(tmp_path / "image.tif", model, out, preview=4, workers=workers)
    *boxes, index = map(Path, result["preview"])
    assert sorted(boxes) == sorted((tmp_path / "out-preview").glob("box-*.png"))
    assert len(boxes) == 4
    for picture in boxes:
        np.testing.assert_array_equal(read_png(picture), drawn(out, box_of(picture)))
    assert read_png(index).shape[2] == 3
    plain = tmp_path / "plain.zarr"
    segment(tmp_path / "image.tif", model, plain)
    assert contents(plain) == contents(out)


@pytest.mark.parametrize("kind", ["color", "stack"])
def test_color_is_shown_as_such_and_of_a_stack_the_middle(tmp_path: Path, kind: str) -> None:
    color = kind == "color"
    make_model(tmp_path / "model.safetensors", channels=3 if color else 1)
    pixels = np.random.default_rng(0).integers(0, 255, (300, 200, 3) if color else (5, 300, 200), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", pixels, photometric="rgb" if color else "minisblack")
    result = segment(tmp_path / "image.tif", tmp_path / "model.safetensors", tmp_path / "out.zarr", preview=1)
    picture = Path(result["preview"][0])
    assert box_of(picture).shape == (300, 200)
    np.testing.assert_array_equal(
        read_png(picture), drawn(tmp_path / "out.zarr", box_of(picture), () if color else (2,))
    )


def test_boxes_are_where_something_is_and_far_apart(tmp_path: Path, model: Path) -> None:
    pixels = np.full((4000, 4000), 200, np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (900, 900), dtype=np.uint8)
    corners = [(100, 100), (3000, 3000), (100, 3000)]
    for y, x in corners:
        pixels[y : y + 900, x : x + 900] = noise
    tifffile.imwrite(tmp_path / "image.tif", pixels, tile=(256, 256))
    result = segment(tmp_path / "image.tif", model, tmp_path / "out.zarr", preview_only=True, preview=3)
    boxes = [box_of(Path(p)) for p in result["preview"][:-1]]
    hit = {c for c in corners for b in boxes if b.intersect(Box(c, (c[0] + 900, c[1] + 900))).n_pixels > 100_000}
    assert hit == set(corners)
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("pixel_size", [2.0, 1.3, pytest.param(0.25, marks=pytest.mark.slow)])
def test_an_image_of_another_pixel_size_is_shown_as_the_run_will_see_it(tmp_path: Path, pixel_size: float) -> None:
    make_model(tmp_path / "model.safetensors", pixel_size=(pixel_size, pixel_size))
    make_image(tmp_path / "image.tif", 2500)
    out = tmp_path / "out.zarr"
    options = {"pixel_size": "0.5", "preview": 2, "block": 1280}
    result = segment(tmp_path / "image.tif", tmp_path / "model.safetensors", out, **options)
    for picture in map(Path, result["preview"][:-1]):
        differing = read_png(picture) != drawn(out, box_of(picture))
        assert differing.mean() < 1e-4  # ties: a box of another grid has other tiles than the run


def test_boxes_lie_in_the_area_of_interest(tmp_path: Path, model: Path) -> None:
    make_image(tmp_path / "image.tif", 1300)
    area = Box((700, 300), (1000, 900))
    result = segment(tmp_path / "image.tif", model, tmp_path / "out.zarr", preview=9, box="700:1000,300:900")
    boxes = [box_of(Path(p)) for p in result["preview"][:-1]]
    assert boxes
    assert all(area.contains(b) for b in boxes)
    for picture in result["preview"][:-1]:
        np.testing.assert_array_equal(read_png(picture), drawn(tmp_path / "out.zarr", box_of(Path(picture))))
    mask = np.zeros((1300, 1300), np.uint8)
    mask[1100:, 1100:] = 1
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    options = {"preview_only": True, "preview": 9, "mask": str(tmp_path / "mask.tif")}
    result = segment(tmp_path / "image.tif", model, tmp_path / "masked.zarr", **options)
    masked = [box_of(Path(p)) for p in result["preview"][:-1]]
    assert len(masked) == 1
    assert masked[0].stop == (1300, 1300)


def test_nothing_to_see_is_said_in_one_line(tmp_path: Path, model: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", np.zeros((300, 300), np.uint8))
    with pytest.raises(InputError, match=r"image\.tif: no pixel to predict"):
        segment(tmp_path / "image.tif", model, tmp_path / "out.zarr", preview=2, nodata=0)
    assert not (tmp_path / "out.zarr").exists()


def test_the_command_line_prints_the_paths_and_goes_on_or_stops(tmp_path: Path, model: Path) -> None:
    make_image(tmp_path / "image.tif", 300)
    out, folder = tmp_path / "out.zarr", tmp_path / "out-preview"
    arguments = ["segment", str(tmp_path / "image.tif"), str(model), str(out), "--workers", "0"]
    done = call(*arguments, "--preview-only")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(folder / "box-1_y0_x0.png"), str(folder / "index.png")]
    assert not out.exists()
    (folder / "box-9_y0_x0.png").write_text("of an earlier preview")
    (folder / "mine.txt").write_text("mine")
    done = call(*arguments, "--preview", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [str(folder / "box-1_y0_x0.png"), str(folder / "index.png")]
    assert "blocks" in done.stdout
    assert sorted(p.name for p in folder.iterdir()) == ["box-1_y0_x0.png", "index.png", "mine.txt"]
