"""Every real image beside the repository opens as other libraries read it, or is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from benchmarks.format_oracles import truths
from benchmarks.formats import DATA, paths, pixels_differ, row_of, rows_of
from tests.faults.harness import call, make_model
from tests.fuzz.seeds import others, pictures, tiffs
from tilekit import ingest, open_image
from tilekit.errors import InputError

LARGE = ("cog_world.tif", "cog_cmap.tif", "CRC01_", "pyramid_v5.zarr")
"""Names of images that take a second and more each."""


def marked(path: Path) -> pytest.param:  # type: ignore[valid-type]
    marks = [pytest.mark.slow] if any(name in str(path) for name in LARGE) else []
    return pytest.param(path, id=str(path.relative_to(DATA)), marks=marks)


@pytest.mark.parametrize("path", [marked(path) for path in paths(DATA)])
def test_a_real_image_reads_as_other_libraries_read_it_or_is_refused(path: Path) -> None:
    for row in rows_of(path, DATA):
        assert row.state in ("equal", "refused"), row


@pytest.mark.parametrize("name", [*(f"{name}.tif" for name in tiffs()), *pictures(), *others()])
def test_a_small_image_of_each_kind_reads_as_other_libraries_read_it(name: str, tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    files = {**{f"{name}.tif": data for name, data in tiffs().items()}, **pictures(), **others()}
    (tmp_path / name).write_bytes(files[name])
    (row,) = rows_of(tmp_path / name, tmp_path)
    assert row.state == "equal", row


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_stored_in_any_orientation_is_seen_upright(orientation: int, tmp_path: Path) -> None:
    pixels = np.arange(40 * 30 * 3, dtype=np.uint8).reshape(40, 30, 3)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(pixels).save(tmp_path / "image.jpg", exif=exif)
    tag = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "image.tif", pixels, photometric="rgb", tile=(16, 16), extratags=tag)
    shape = (3, 30, 40) if orientation >= 5 else (3, 40, 30)
    for name, readers in (("image.jpg", "PIL"), ("image.tif", "tifffile, PIL" if orientation > 1 else "tifffile")):
        (row,) = rows_of(tmp_path / name, tmp_path)
        assert (row.state, row.text, row.shape) == ("equal", readers, shape)


def test_a_mask_in_a_file_beside_the_image_is_that_of_rasterio(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    valid = np.eye(40, 30, dtype=bool)
    where = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)}
    shape = {"driver": "GTiff", "width": 30, "height": 40, "count": 1, "dtype": "uint8"}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False),
        rasterio.open(tmp_path / "image.tif", "w", **shape, **where) as data,
    ):
        data.write(np.ones((1, 40, 30), np.uint8))
        data.write_mask(valid)
    assert (tmp_path / "image.tif.msk").exists()
    mask = open_image(tmp_path / "image.tif").mask
    assert mask is not None
    np.testing.assert_array_equal(mask.read([]) != 0, valid)
    (row,) = rows_of(tmp_path / "image.tif", tmp_path)
    assert row.state == "equal", row
    tifffile.imwrite(tmp_path / "image.tif.msk", np.ones((9, 9), np.uint8))
    with pytest.raises(InputError, match=r"image\.tif\.msk: a mask of shape \(9, 9\) beside an image of \(40, 30\)"):
        open_image(tmp_path / "image.tif")


def test_the_comparison_sees_one_pixel_that_differs(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    pixels[2, 3] += 1
    tifffile.imwrite(tmp_path / "b.tif", pixels)
    source = open_image(tmp_path / "a.tif")
    (same,), (other,) = (truths(tmp_path / name, None) for name in ("a.tif", "b.tif"))
    assert pixels_differ(source, same) == ""
    assert "differs from tifffile by 1.0" in pixels_differ(source, other)
    assert "int8" in pixels_differ(source, replace(same, dtype=np.dtype("int8")))


def test_a_file_that_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("This is not an image.\n")
    row = row_of(tmp_path / "text.tif", None, tmp_path)
    assert (row.state, row.shape) == ("refused", ())
    assert row.text.startswith("text.tif: ")


def refusal(path: Path) -> str:
    """What is said of a file that is refused, in one line."""
    with pytest.raises(InputError) as caught:
        open_image(path)
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text
    return text


def test_pages_of_two_sizes_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "two.tif") as writer:
        writer.write(np.zeros((100, 90), np.uint8))
        writer.write(np.ones((60, 50), np.uint8))
    text = refusal(tmp_path / "two.tif")
    assert "100x90" in text
    assert "60x50" in text
    assert "--series" in text
    assert open_image(tmp_path / "two.tif", series=1).shape == (60, 50)


def test_a_pyramid_whose_levels_do_not_fit_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as writer:
        writer.write(np.zeros((100, 100), np.uint8), subifds=1)
        writer.write(np.zeros((30, 70), np.uint8), subfiletype=1)
    text = refusal(tmp_path / "pyramid.tif")
    assert "100x100" in text
    assert "30x70" in text


def test_a_store_whose_levels_do_not_fit_is_refused(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "pyramid.zarr", [(64, 64), (50, 10)], [1.0, 2.0])
    assert "64" in (text := refusal(tmp_path / "pyramid.zarr"))
    assert "50" in text


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_counts_as_not_stated(scale: float, tmp_path: Path) -> None:
    write_pyramid(tmp_path / "pyramid.zarr", [(64, 64), (32, 32)], [scale, 2.0])
    assert open_image(tmp_path / "pyramid.zarr").pixel_size is None
    assert open_image(tmp_path / "pyramid.zarr", level=1).scale == (2.0, 2.0)


def write_pyramid(path: Path, shapes: list[tuple[int, int]], scales: list[float]) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    datasets = []
    for level, (shape, scale) in enumerate(zip(shapes, scales, strict=True)):
        group.create_array(str(level), shape=shape, chunks=(16, 16), dtype="u1")
        transforms = [{"type": "scale", "scale": [scale] * 2}]
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    text = json.dumps({"multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets}]})
    (path / ".zattrs").write_text(text)


def test_an_ome_set_with_a_missing_file_is_refused_by_its_name(tmp_path: Path) -> None:
    write_ome_set(tmp_path)
    assert open_image(tmp_path / "set-0.ome.tif").read([]).tolist() == [[[1] * 8] * 8, [[2] * 8] * 8]
    (tmp_path / "set-1.ome.tif").unlink()
    assert "set-1.ome.tif" in refusal(tmp_path / "set-0.ome.tif")


def write_ome_set(folder: Path) -> None:
    """Two channels of 8 x 8 pixels, 1 and 2, each in a file of its own."""
    ids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{i}" for i in range(2)]
    files = "".join(
        f'<TiffData FirstC="{i}" IFD="0" PlaneCount="1"><UUID FileName="set-{i}.ome.tif">{ids[i]}</UUID></TiffData>'
        for i in range(2)
    )
    channels = "".join(f'<Channel ID="Channel:0:{i}" SamplesPerPixel="1"/>' for i in range(2))
    size = 'SizeX="8" SizeY="8" SizeZ="1" SizeC="2" SizeT="1"'
    for i in range(2):
        text = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{ids[i]}"><Image ID="Image:0">'
            f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" {size}>{channels}{files}</Pixels></Image></OME>'
        )
        pixels = np.full((8, 8), i + 1, np.uint8)
        tifffile.imwrite(folder / f"set-{i}.ome.tif", pixels, description=text, metadata=None)


def test_a_crs_that_proj_does_not_know_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    keys = (1, 1, 0, 3, 1024, 0, 1, 2, 1025, 0, 1, 1, 2048, 0, 1, 9999)  # geographic, pixels are areas, EPSG:9999
    corner, size = (0.0, 0.0, 0.0, 10.0, 50.0, 0.0), (0.1, 0.1, 0.0)
    tags = [(33550, 12, 3, size, True), (33922, 12, 6, corner, True), (34735, 3, len(keys), keys, True)]
    tifffile.imwrite(tmp_path / "crs.tif", np.zeros((8, 8), np.uint8), extratags=tags)
    assert "EPSG:9999" in refusal(tmp_path / "crs.tif")


def test_an_image_of_nothing_but_nodata_is_refused_once_it_was_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", np.full((70, 90), np.nan, np.float32))
    make_model(tmp_path / "model.safetensors")
    image, options = str(tmp_path / "image.tif"), ["--workers", "0", "--pixel-size", "1"]
    done = call("segment", image, str(tmp_path / "model.safetensors"), str(tmp_path / "out.zarr"), *options)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "image.tif: not one of its 6300 pixels is valid" in line


@pytest.mark.parametrize("value", [7, 8])
def test_ingest_refuses_nothing_but_nodata_and_takes_one_valid_pixel(value: int, tmp_path: Path) -> None:
    pixels = np.full((70, 90), 7, np.uint8)
    pixels[3, 4] = value
    tifffile.imwrite(tmp_path / "image.tif", pixels)
    source = open_image(tmp_path / "image.tif", nodata=7)
    if value == 8:
        ingest(source, tmp_path / "out.zarr")
        return
    with pytest.raises(InputError, match=r"image\.tif: not one of its 6300 pixels is valid \(nodata is 7\)"):
        ingest(source, tmp_path / "out.zarr")
