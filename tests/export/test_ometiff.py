"""Exported OME-TIFFs, as tifffile and tilekit read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

import tilekit
from tests.export.stores import NAMES, blobs, make_store
from tilekit.jobs.export import export_store
from tilekit.run import SerialRunner
from tilekit.sources import open_image


def levels_in(group: Path, n: int) -> list[np.ndarray]:
    return [np.asarray(zarr.open_array(str(group / str(k)), mode="r")[:]) for k in range(n)]


@pytest.mark.parametrize("what", ["classes", "objects"])
@pytest.mark.parametrize("shape", [(1100, 1301), (2, 530, 600)], ids=str)
def test_labels_are_a_pyramid_with_sizes_and_names(what: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    out, path = tmp_path / "out.zarr", tmp_path / "labels.ome.tif"
    make_store(out, blobs(shape))
    said = export_store(out, path, SerialRunner(), what=what)
    wanted = levels_in(out / "labels" / what, said["levels"])
    assert (said["format"], said["levels"]) == ("ome-tiff", 3 if len(shape) == 2 else 2)
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
        assert not file.is_bigtiff
        (series,) = file.series
        assert (series.axes, len(series.levels)) == ("YX" if len(shape) == 2 else "ZYX", len(wanted))
        for level, pixels in zip(series.levels, wanted, strict=True):
            np.testing.assert_array_equal(level.asarray(), pixels)
            assert level.keyframe.tile == (512, 512)
        image = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
    pixels = image["Pixels"]
    assert (pixels["PhysicalSizeY"], pixels["PhysicalSizeX"], pixels["Channel"]["Name"]) == (0.5, 0.25, what)
    assert image["Name"] == what
    again = open_image(path, as_labels=True)
    assert (again.pixel_size, again.axes) == ((0.5, 0.25), "yx" if len(shape) == 2 else "zyx")
    np.testing.assert_array_equal(again.read([(0, n) for n in shape]), wanted[0])
    last = open_image(path, as_labels=True, level=len(wanted) - 1)
    np.testing.assert_array_equal(last.read([(0, n) for n in last.shape]), wanted[-1])


def test_class_names_are_a_map_annotation(tmp_path: Path) -> None:
    make_store(tmp_path / "out.zarr", blobs((60, 70)), objects=False)
    export_store(tmp_path / "out.zarr", tmp_path / "c.ome.tif", SerialRunner())
    with tifffile.TiffFile(tmp_path / "c.ome.tif") as file:
        said = tifffile.xml2dict(file.ome_metadata)["OME"]["StructuredAnnotations"]["MapAnnotation"]["Value"]["M"]
    assert [entry["value"] for entry in said] == [*NAMES, "void"]
    assert [int(entry["K"]) for entry in said] == [0, 1, 2, 255]


@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (2, np.uint16), (3, np.float32)])
def test_an_image_is_colors_or_channels_and_comes_back(channels: int, dtype: type, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 250, (channels, 700, 600)).astype(dtype)
    names = ("red", "green", "blue")[:channels]
    tilekit.ingest(replace(open_image(pixels, pixel_size=(0.5, 0.5)), channel_names=names), tmp_path / "i.zarr")
    said = export_store(tmp_path / "i.zarr", tmp_path / "i.ome.tif", SerialRunner(), what="image")
    again = open_image(tmp_path / "i.ome.tif")
    assert (again.axes, again.pixel_size, len(again.levels)) == ("cyx", (0.5, 0.5), said["levels"])
    np.testing.assert_array_equal(again.read([(0, n) for n in pixels.shape]), pixels)
    coarse = open_image(tmp_path / "i.ome.tif", level=1)
    wanted = zarr.open_array(str(tmp_path / "i.zarr/1"), mode="r")[:]
    np.testing.assert_array_equal(coarse.read([(0, n) for n in coarse.shape]), wanted)
    is_rgb = (channels, dtype) == (3, np.uint8)
    with tifffile.TiffFile(tmp_path / "i.ome.tif") as file:
        assert file.pages.first.photometric.name == ("RGB" if is_rgb else "MINISBLACK")
    assert again.channel_names == (again.channel_names if is_rgb else names)
