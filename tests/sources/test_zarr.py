"""Zarr 2 and 3, plain and OME-NGFF, written by hand with zarr."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.sources import open_image

FAST = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VOLUME = np.random.default_rng(0).integers(0, 60000, (2, 3, 40, 50)).astype("uint16")


def multiscales(n_levels: int, axes: str, unit: str | None = "micrometer") -> list[dict[str, Any]]:
    kinds = {"t": "time", "c": "channel"}
    described = [{"name": a, "type": kinds.get(a, "space")} for a in axes]
    if unit:
        for axis in described[-2:]:
            axis["unit"] = unit
    spatial = [a in "yx" for a in axes]
    datasets = [
        {
            "path": f"s{k}",
            "coordinateTransformations": [
                {"type": "scale", "scale": [0.25 * 2**k if s else 1.0 for s in spatial]},
                {"type": "translation", "translation": [0.125 * (2**k - 1) if s else 0.0 for s in spatial]},
            ],
        }
        for k in range(n_levels)
    ]
    return [{"name": "image", "axes": described, "datasets": datasets}]


def write_ngff(path: Path, pixels: np.ndarray, axes: str, version: int, **extra: Any) -> Path:
    """A pyramid of three levels; version is that of Zarr: 2 for OME-NGFF 0.4, 3 for 0.5."""
    group = zarr.create_group(path, zarr_format=version)
    ome = {"multiscales": multiscales(3, axes, extra.pop("unit", "micrometer"))} | extra.pop("ome", {})
    group.attrs.update({"ome": {"version": "0.5", **ome}} if version == 3 else ome)
    group.attrs.update(extra)
    for k in range(3):
        level = pixels[..., :: 2**k, :: 2**k]
        chunks = (1,) * (level.ndim - 2) + (16, 16)
        encoding = {"name": "v2", "separator": "/"} if version == 2 else None
        group.create_array(f"s{k}", data=level, chunks=chunks, chunk_key_encoding=encoding)
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "<f4", "bool", "int64"])
def test_any_box_of_a_plain_array(tmp_path: Path, version: int, dtype: str) -> None:
    pixels = (VOLUME[0] % 200).astype(dtype)
    sharded = {"shards": (3, 32, 32)} if version == 3 else {}
    zarr.create_array(tmp_path / "a.zarr", data=pixels, chunks=(3, 16, 16), zarr_format=version, **sharded)
    source = open_image(tmp_path / "a.zarr")
    assert source.axes == "cyx"
    assert source.dtype == np.dtype("uint8" if dtype == "bool" else dtype).newbyteorder("=")

    @FAST
    @given(st.tuples(*(st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted) for n in pixels.shape)))
    def compare(pairs: tuple[list[int], ...]) -> None:
        box = Box(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))
        got = source.read(box)
        assert got.dtype.isnative
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, pixels[box.slices])

    compare()


@pytest.mark.parametrize("version", [2, 3])
def test_levels_of_an_ome_zarr(tmp_path: Path, version: int) -> None:
    names = {"omero": {"channels": [{"label": n} for n in ("DAPI", "actin", "tubulin")]}}
    path = write_ngff(tmp_path / "a.zarr", VOLUME, "tcyx", version, ome=names)
    source = open_image(path, level=1)
    assert source.axes == "tcyx"
    assert source.levels == ((2, 3, 40, 50), (2, 3, 20, 25), (2, 3, 10, 13))
    assert (source.level, source.scale) == (1, (2.0, 2.0))
    assert source.pixel_size == pytest.approx((0.5, 0.5))
    assert source.translation == pytest.approx((0.125, 0.125))
    assert source.channel_names == ("DAPI", "actin", "tubulin")
    np.testing.assert_array_equal(source.read([]), VOLUME[..., ::2, ::2])
    by_array = open_image(path / "s1")
    assert (by_array.axes, by_array.level, by_array.pixel_size) == ("tcyx", 1, source.pixel_size)
    with pytest.raises(InputError, match="level 3 asked for, the image has 3; use 0 to 2"):
        open_image(path, level=3)


@pytest.mark.parametrize("chunk", [1, 3])
def test_channels_come_in_the_order_asked_for(tmp_path: Path, chunk: int) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=VOLUME[0], chunks=(chunk, 16, 16))
    source = open_image(tmp_path / "a.zarr", channels=(2, 0))
    np.testing.assert_array_equal(source.read([]), VOLUME[0][[2, 0]])
    np.testing.assert_array_equal(source.read([(1, 2), (0, 9), (8, 50)]), VOLUME[0][[0], 0:9, 8:50])


def test_axes_are_put_in_canonical_order(tmp_path: Path) -> None:
    path = write_ngff(tmp_path / "a.zarr", VOLUME, "ctyx", 3)
    source = open_image(path)
    assert (source.axes, source.shape) == ("tcyx", (3, 2, 40, 50))
    np.testing.assert_array_equal(
        source.read([(1, 3), (0, 1), (0, 9), (3, 8)]), VOLUME.swapaxes(0, 1)[1:3, 0:1, 0:9, 3:8]
    )
    zarr.create_array(tmp_path / "named.zarr", data=VOLUME[0, 0], chunks=(8, 8), dimension_names=["x", "y"])
    np.testing.assert_array_equal(open_image(tmp_path / "named.zarr").read([]), VOLUME[0, 0].T)


def test_without_units_there_is_no_pixel_size(tmp_path: Path) -> None:
    path = write_ngff(tmp_path / "a.zarr", VOLUME, "tcyx", 3, unit=None)
    assert open_image(path).pixel_size is None
    assert open_image(path, level=2, pixel_size=0.5).pixel_size == (2.0, 2.0)


def test_own_nodata_and_labels(tmp_path: Path) -> None:
    path = write_ngff(tmp_path / "a.zarr", VOLUME[0, 0], "yx", 3, tilekit={"nodata": 7})
    zarr.open_group(path).create_group("labels", attributes={"ome": {"version": "0.5", "labels": ["classes"]}})
    write_ngff(path / "labels" / "classes", VOLUME[0, 1], "yx", 3)
    assert open_image(path).nodata == 7
    assert open_image(path / "labels" / "classes").nodata is None
    np.testing.assert_array_equal(open_image(path / "labels/classes").read([]), VOLUME[0, 1])
    with pytest.raises(InputError, match=r"a group of 1 label images; open one, such as .*a\.zarr/labels/classes"):
        open_image(path / "labels")


def test_first_series_of_a_bioformats2raw_store(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "a.zarr", attributes={"ome": {"version": "0.5", "bioformats2raw.layout": 3}})
    write_ngff(tmp_path / "a.zarr" / "0", VOLUME[0, 0], "yx", 3)
    np.testing.assert_array_equal(open_image(tmp_path / "a.zarr").read([]), VOLUME[0, 0])


def test_a_plate_names_its_first_field(tmp_path: Path) -> None:
    plate = {"wells": [{"path": "B/03"}, {"path": "B/04"}]}
    zarr.create_group(tmp_path / "p.zarr", attributes={"ome": {"version": "0.5", "plate": plate}})
    with pytest.raises(InputError, match=r"a plate of 2 wells; open a field of one, such as .*p\.zarr/B/03/0"):
        open_image(tmp_path / "p.zarr")


def test_a_group_without_an_image_names_its_arrays(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "g.zarr")
    with pytest.raises(InputError, match=r"g\.zarr: a Zarr group that says of no image; name an array"):
        open_image(tmp_path / "g.zarr")
    group.create_array("raw", shape=(4, 5), dtype="u1")
    with pytest.raises(InputError, match=r"open one of its arrays, such as .*g\.zarr/raw"):
        open_image(tmp_path / "g.zarr")


def test_missing_chunks_are_fill_and_broken_ones_are_refused(tmp_path: Path) -> None:
    pixels = VOLUME[0, 0] % 100
    zarr.create_array(tmp_path / "a.zarr", data=pixels, chunks=(20, 25), fill_value=9)
    source = open_image(tmp_path / "a.zarr")
    (tmp_path / "a.zarr/c/0/1").unlink()
    expected = pixels.copy()
    expected[:20, 25:] = 9
    np.testing.assert_array_equal(source.read([]), expected)
    (tmp_path / "a.zarr/c/1/0").write_bytes(b"broken")
    np.testing.assert_array_equal(source.read([(0, 20), (0, 50)]), expected[:20])
    with pytest.raises(InputError, match=r"a\.zarr: a chunk in box \(0, 0\) to \(40, 50\) cannot be decoded"):
        source.read([])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"data_type": "complex64", "fill_value": [0, 0]}, "complex64 are not supported"),
        ({"data_type": "wonder"}, "cannot be opened as a Zarr array"),
        ({"codecs": [{"name": "bytes"}, {"name": "marvel"}]}, "marvel"),
        ({"shape": [0, 50]}, r"shape \(0, 50\) holds no image"),
    ],
)
def test_arrays_that_cannot_be_read(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=VOLUME[0, 0], chunks=(20, 25))
    document = json.loads((tmp_path / "a.zarr/zarr.json").read_text()) | change
    (tmp_path / "a.zarr/zarr.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=expected) as caught:
        open_image(tmp_path / "a.zarr")
    assert "a.zarr" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_documents_are_refused(tmp_path: Path) -> None:
    path = write_ngff(tmp_path / "a.zarr", VOLUME, "tcyx", 3)
    group = zarr.open_group(path)
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": []}]}
    with pytest.raises(InputError, match="multiscales metadata are broken"):
        open_image(path)
    group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales(4, "tcyx")}
    with pytest.raises(InputError, match="s3: named by the image's metadata, but no array is there"):
        open_image(path)
    (path / "zarr.json").write_text("{")
    with pytest.raises(InputError, match=r"zarr\.json: cannot be read as JSON"):
        open_image(path)


def test_attributes_may_change_while_a_run_writes_into_the_store(tmp_path: Path) -> None:
    path = write_ngff(tmp_path / "a.zarr", VOLUME, "tcyx", 3)
    before = open_image(path).fingerprint
    zarr.open_group(path).attrs["tilekit"] = {"status": "running"}
    assert open_image(path).fingerprint == before


def geographic(folder: Path, version: int) -> tuple[Path, Any]:
    """A raster that rioxarray wrote, and the same in memory."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("rioxarray")
    coordinates = {"y": 6e6 - 5 - 10 * np.arange(40.0), "x": 5e5 + 5 + 10 * np.arange(50.0)}
    raster = xarray.DataArray(VOLUME[0].astype("float32"), coordinates, ("band", "y", "x"), name="reflectance")
    raster = raster.rio.write_crs("EPSG:32633").rio.write_transform().rio.write_nodata(-9999.0, encoded=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raster.to_zarr(folder / "a.zarr", zarr_format=version, consolidated=False)
    return folder / "a.zarr" / "reflectance", raster


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
@pytest.mark.parametrize("version", [2, 3])
def test_rasters_of_rioxarray_have_their_place(tmp_path: Path, version: int) -> None:
    path, raster = geographic(tmp_path, version)
    source = open_image(path, axes="cyx")
    assert source.georeference is not None
    assert source.georeference.transform == (10.0, 0.0, 500000.0, 0.0, -10.0, 6000000.0)
    assert source.georeference.crs == raster.rio.crs.to_wkt()
    assert source.nodata == (-9999.0 if version == 3 else None)  # in Zarr 2 a fill value says nothing of itself
    assert (source.read([(0, 3), (0, 40), (0, 50)]) == VOLUME[0]).all()


def test_rasters_of_gdal_have_their_place(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    crs, transform = rasterio.crs.CRS.from_epsg(32633), rasterio.Affine(10, 0, 5e5, 0, -20, 6e6)
    options = {"driver": "Zarr", "width": 50, "height": 40, "count": 1, "dtype": "uint16"}
    with rasterio.open(tmp_path / "a.zarr", "w", crs=crs, transform=transform, **options) as dataset:
        dataset.write(VOLUME[0, 0], 1)
    found = [path.parent for path in (tmp_path / "a.zarr").rglob(".zarray") if path.parent.name not in ("X", "Y")]
    assert len(found) == 1
    source = open_image(found[0])
    assert source.georeference is not None
    assert source.georeference.transform == (10.0, 0.0, 500000.0, 0.0, -20.0, 6000000.0)
    assert rasterio.crs.CRS.from_wkt(source.georeference.crs) == crs
    assert (source.read([(0, 40), (0, 50)]) == VOLUME[0, 0]).all()


@pytest.mark.parametrize(
    "image",
    [
        {"value_scale": [1, 2], "wavelengths": "red", "color_table": [[1, 2]], "alpha": 9, "mask": "labels/valid"},
        {"value_scale": {"a": 1}, "wavelengths": [{}], "color_table": 5, "alpha": "x", "mask": "../a.zarr"},
        {"channel_names": [1, 2, 3, 4, 5], "mask": "."},
        [],
    ],
)
def test_notes_that_make_no_sense_are_left_out(tmp_path: Path, image: Any) -> None:
    path = write_ngff(tmp_path / "a.zarr", VOLUME, "tcyx", 3, tilekit={"image": image, "nodata": "?"})
    source = open_image(path)
    told = (source.value_scale, source.color_table, source.alpha, source.mask, source.nodata)
    assert told == (None,) * 5


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    path = write_ngff(tmp_path / "a.zarr", VOLUME[0], "cyx", 3, tilekit={"image": {"mask": "labels/valid"}})
    write_ngff(path / "labels" / "valid", VOLUME[0, 0, :30], "yx", 3)
    with pytest.raises(InputError, match=r"a mask of shape \(30, 50\) for an image of \(40, 50\)"):
        open_image(path)


def test_geozarr_alone_is_no_ome_image(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr", attributes={"multiscales": {"layout": [{"asset": "0"}]}})
    group.create_array("0", data=VOLUME[0, 0])
    with pytest.raises(InputError, match=r"open one of its arrays, such as .*a.zarr/0"):
        open_image(tmp_path / "a.zarr")


def test_levels_that_are_not_one_image_are_refused(tmp_path: Path) -> None:
    path = write_ngff(tmp_path / "a.zarr", VOLUME[0], "cyx", 3)
    zarr.create_array(path / "s1", data=VOLUME[0, :, :30, :10], chunks=(1, 16, 16), overwrite=True)
    with pytest.raises(InputError, match="its levels 0 and 1, 3x40x50 and 3x30x10, are not one image"):
        open_image(path)


@pytest.mark.parametrize(("start", "step"), [(0, 2), (1, 2), (0, 3)])
def test_levels_rounded_up_or_down_or_thinned_along_one_axis_are_one_image(
    tmp_path: Path, start: int, step: int
) -> None:
    path = write_ngff(tmp_path / "a.zarr", VOLUME[0], "cyx", 3)
    level = VOLUME[0, :, start::step, ::step]
    zarr.create_array(path / "s1", data=level, chunks=(1, 16, 16), overwrite=True)
    assert open_image(path, level=1).shape == level.shape
    image = multiscales(3, "cyx")
    image[0]["datasets"][1]["coordinateTransformations"][0]["scale"] = [1.0, 0.25, 0.5]
    group = zarr.open_group(path)
    group.attrs["ome"] = {"version": "0.5", "multiscales": image}
    zarr.create_array(path / "s1", data=VOLUME[0, :, :, ::2], chunks=(1, 16, 16), overwrite=True)
    assert open_image(path, level=1).shape == (3, 40, 25)


def test_a_chunk_too_large_to_decode_is_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(10**6, 10**6), chunks=(10**5, 10**5), dtype="uint8")
    with pytest.raises(InputError, match="a chunk 100000x100000 takes 10 GB"):
        open_image(tmp_path / "a.zarr")


@pytest.mark.parametrize("attributes", [[], [1], 1.5, "text"])
def test_attributes_that_are_no_object_are_refused(tmp_path: Path, attributes: Any) -> None:
    path = write_ngff(tmp_path / "a.zarr", VOLUME[0], "cyx", 3)
    for document in (path / "s0" / "zarr.json", path / "zarr.json"):
        content = json.loads(document.read_text())
        document.write_text(json.dumps({**content, "attributes": attributes}))
        if attributes:
            with pytest.raises(InputError, match="no JSON object"):
                open_image(document.parent)
