"""What GDAL reads, as rasterio itself reads it: pixels, levels, CRS, nodata, masks, scales; and what is refused."""

from __future__ import annotations

import builtins
import logging
import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling
from rasterio.shutil import copy
from rasterio.transform import Affine

from tilekit.errors import InputError
from tilekit.sources import Source, open_image

PIXELS = np.random.default_rng(0).integers(1, 4000, (3, 130, 170)).astype("uint16")
UTM = Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 6000000.0)
COS, SIN = math.cos(0.5), math.sin(0.5)
PROFILE = {"crs": "EPSG:32633", "transform": UTM}


@pytest.fixture(autouse=True)
def _no_warnings_of_the_writer() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def write(path: Path, pixels: np.ndarray = PIXELS, driver: str = "ENVI", **options: Any) -> Path:
    """A raster (c, y, x); `after` may change the dataset before it is closed."""
    after = options.pop("after", lambda dataset: None)
    n, height, width = pixels.shape
    profile = {**PROFILE, "driver": driver, "count": n, "height": height, "width": width, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", **{**profile, **options}) as dataset:
        dataset.write(pixels)
        after(dataset)
    return path


def vrt(path: Path, source: str, *, crs: str = "", relative: int = 0, extra: str = "", band: str = "") -> Path:
    path.write_text(
        f'<VRTDataset rasterXSize="170" rasterYSize="130">{crs and f"<SRS>{crs}</SRS>"}{extra}'
        f'<VRTRasterBand dataType="UInt16" band="1">{band}<SimpleSource>'
        f'<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    return path


def check_boxes(source: Source, expected: np.ndarray) -> None:
    assert (source.shape, source.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(source.read([]), expected)
    rng = np.random.default_rng(1)
    for _ in range(10):
        starts = [int(rng.integers(0, n)) for n in expected.shape]
        box = [(a, int(rng.integers(a, n + 1))) for a, n in zip(starts, expected.shape, strict=True)]
        np.testing.assert_array_equal(source.read(box), expected[tuple(slice(*pair) for pair in box)])


@pytest.mark.parametrize(
    ("name", "driver", "options"),
    [
        ("a.jp2", "JP2OpenJPEG", {"QUALITY": 100, "REVERSIBLE": "YES"}),
        ("a.img", "HFA", {}),
        ("a.bin", "ENVI", {}),
        ("a.pix", "PCIDSK", {}),
    ],
)
def test_formats_are_read_as_rasterio_reads_them(tmp_path: Path, name: str, driver: str, options: Any) -> None:
    path = write(tmp_path / name, driver=driver, **options)
    source = open_image(path)
    assert (source.axes, source.name) == ("cyx", name)
    check_boxes(source, PIXELS)
    check_boxes(open_image(path, channels=(2, 0)), PIXELS[[2, 0]])
    assert source.georeference is not None
    assert source.georeference.transform == tuple(UTM[:6])
    assert rasterio.crs.CRS.from_wkt(source.georeference.crs) == rasterio.crs.CRS.from_epsg(32633)
    assert source.pixel_size == (1e7, 1e7)
    assert driver in source.tiling


@pytest.mark.parametrize("netcdf", ["NC", "NC4"])
def test_netcdf_of_one_variable(tmp_path: Path, netcdf: str) -> None:
    pixels = PIXELS[:1].astype("float32")
    copy(write(tmp_path / "a.bin", pixels), tmp_path / "a.nc", driver="netCDF", FORMAT=netcdf)
    source = open_image(tmp_path / "a.nc")
    assert source.axes == "yx"
    check_boxes(source, pixels[0])
    assert source.georeference is not None
    assert source.georeference.transform == tuple(UTM[:6])


def test_netcdf_of_several_variables_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nc"
    with h5py.File(path, "w") as file:
        file.attrs["_NCProperties"] = "version=2"
        file["b4"], file["b8"] = PIXELS[0], PIXELS[1]
    with pytest.raises(InputError, match=rf"{path}: holds no image, or several \(netcdf:{path}:b4, netcdf:{path}:b8\)"):
        open_image(path)
    monkeypatch.chdir(tmp_path)
    for given in (f'NETCDF:"{path}":b8', f"netcdf:{path}:b8", "netcdf:a.nc:b8"):
        source = open_image(given)
        assert str(path) in source.reference.source
        with rasterio.open(given) as dataset:
            check_boxes(pickle.loads(pickle.dumps(source)), dataset.read(1))


def test_levels_are_the_overviews(tmp_path: Path) -> None:
    path = write(tmp_path / "a.img", driver="HFA", after=lambda d: d.build_overviews([2, 4], Resampling.average))
    for level in range(3):
        source = open_image(path, level=level)
        options = {} if level == 0 else {"overview_level": level - 1}
        with rasterio.open(path, **options) as dataset:
            check_boxes(source, dataset.read())
    assert source.levels == ((3, 130, 170), (3, 65, 85), (3, 33, 43))
    assert source.georeference is not None
    assert source.georeference.transform == (40.0, 0.0, 500000.0, 0.0, -40.0, 6000000.0)
    assert (source.scale, source.pixel_size) == ((4.0, 4.0), (4e7, 4e7))
    with pytest.raises(InputError, match="level 3 asked for, the image has 3"):
        open_image(path, level=3)


@pytest.mark.parametrize(
    ("crs", "transform", "size"),
    [
        ("EPSG:32633", Affine(10, 0, 5e5, 0, -20, 6e6), (2e7, 1e7)),
        ("EPSG:32633", Affine(10 * COS, 20 * SIN, 5e5, 10 * SIN, -20 * COS, 6e6), (2e7, 1e7)),
        ("EPSG:2263", Affine(3, 0, 1e6, 0, -3, 2e5), (3 * 12e6 / 39.37, 3 * 12e6 / 39.37)),  # US survey feet
        ("EPSG:4326", Affine(0.1, 0, 8, 0, -0.1, 47), None),
        (None, Affine(10, 0, 5e5, 0, -20, 6e6), None),
    ],
)
def test_pixel_size_of_a_projected_crs(tmp_path: Path, crs: str, transform: Affine, size: Any) -> None:
    path = vrt(
        tmp_path / "a.vrt",
        str(write(tmp_path / "a.bin")),
        crs=crs or "",
        extra=f"<GeoTransform>{','.join(map(str, transform.to_gdal()))}</GeoTransform>",
    )
    source = open_image(path)
    assert source.georeference is not None
    assert source.georeference.transform == pytest.approx(tuple(transform[:6]))
    assert source.georeference.is_rectilinear == (transform.b == 0)
    assert source.pixel_size == (None if size is None else pytest.approx(size))
    assert open_image(path, pixel_size=7).pixel_size == (7, 7)


def test_control_points_keep_their_crs_and_follow_the_level(tmp_path: Path) -> None:
    points = [
        GroundControlPoint(row=r, col=c, x=8 + c / 100, y=47 - r / 100, z=5) for r, c in [(0, 0), (0, 160), (120, 4)]
    ]
    options = {"crs": "EPSG:4326", "transform": None, "gcps": points}
    path = write(tmp_path / "a.tif", driver="GTiff", after=lambda d: d.build_overviews([2]), **options)
    wrapped = tmp_path / "a.vrt"
    copy(path, wrapped, driver="VRT")
    found = open_image(wrapped).georeference
    assert found is not None
    assert found.crs is not None
    assert (found.transform, "4326" in found.crs) == (None, True)
    assert [(p.row, p.column, p.x, p.y, p.z) for p in found.gcps] == [(p.row, p.col, p.x, p.y, p.z) for p in points]
    half = open_image(path, level=1).georeference
    assert half is not None
    assert [(p.row, p.column, p.x) for p in half.gcps] == [(p.row / 2, p.col / 2, p.x) for p in points]


def test_nodata_scales_and_names(tmp_path: Path) -> None:
    def describe(dataset: Any) -> None:
        dataset.scales, dataset.offsets = (0.1, 0.1, 0.5), (-10.0, -10.0, 0.0)
        for band, text in enumerate(("red", "nir", "thermal"), 1):
            dataset.set_band_description(band, text)

    path = tmp_path / "a.vrt"
    copy(write(tmp_path / "a.tif", driver="GTiff", nodata=7, after=describe), path, driver="VRT")
    source = open_image(path, channels=("thermal", "RED"))
    assert (source.channel_names, source.nodata) == (("thermal", "red"), 7)
    assert source.value_scale == ((0.5, 0.0), (0.1, -10.0))
    assert open_image(path, nodata=0).nodata == 0


def test_bands_that_disagree_are_refused_unless_chosen(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.bin"), write(tmp_path / "b.bin")
    path = vrt(tmp_path / "a.vrt", str(a), band="<NoDataValue>1</NoDataValue>")
    other = vrt(tmp_path / "b.vrt", str(b), band="<NoDataValue>2</NoDataValue>").read_text()
    band = other[other.index("<VRTRasterBand") : other.index("</VRTDataset>")].replace('band="1"', 'band="2"')
    path.write_text(path.read_text().replace("</VRTDataset>", f"{band}</VRTDataset>"))
    with pytest.raises(InputError, match=r"different nodata values \(\[1.0, 2.0\]\); give one by --nodata"):
        open_image(path)
    assert open_image(path, nodata=3).nodata == 3
    assert open_image(path, channels=(1,)).nodata == 2
    path.write_text(path.read_text().replace('"UInt16" band="2"', '"Float32" band="2"'))
    with pytest.raises(InputError, match=r"bands of types float32, uint16; choose --channels of one type"):
        open_image(path, nodata=3)
    check_boxes(open_image(path, channels=(0,)), PIXELS[:1])


def test_alpha_and_masks(tmp_path: Path) -> None:
    def set_alpha(dataset: Any) -> None:
        dataset.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.alpha]

    pixels = PIXELS.copy()
    pixels[2] = (pixels[2] > 2000) * 65535
    copy(write(tmp_path / "a.tif", pixels, driver="GTiff", after=set_alpha), tmp_path / "a.vrt", driver="VRT")
    source = open_image(tmp_path / "a.vrt")
    assert (source.alpha, source.mask) == (2, None)
    assert open_image(tmp_path / "a.vrt", channels=(2, 0)).alpha == 0
    bare = open_image(tmp_path / "a.vrt", channels=(0, 1))
    assert bare.alpha is None
    assert bare.mask is not None
    check_boxes(pickle.loads(pickle.dumps(bare.mask)), pixels[2])

    path = write(tmp_path / "b.bin", after=lambda d: d.write_mask(pixels[2] > 0))
    assert (tmp_path / "b.bin.msk").exists()
    source = open_image(path)
    assert (source.alpha, source.nodata) == (None, None)
    assert source.mask is not None
    check_boxes(pickle.loads(pickle.dumps(source.mask)), ((pixels[2] > 0) * 255).astype("uint8"))
    assert len(source.fingerprint["others"]) == 2


@pytest.mark.parametrize("nodata", [None, 2])
def test_a_palette_is_color_to_the_eye_and_indices_to_labels(tmp_path: Path, nodata: int | None) -> None:
    index = (PIXELS[:1] % 4).astype("uint8")
    colors = {0: (1, 2, 3, 255), 1: (40, 50, 60, 255), 2: (70, 80, 90, 255), 3: (7, 8, 9, 255)}
    path = write(tmp_path / "a.img", index, driver="HFA", nodata=nodata, after=lambda d: d.write_colormap(1, colors))
    table = np.array([colors[i] for i in range(4)], "uint8")
    table[2, 3] = 255 if nodata is None else 0
    n = 3 if nodata is None else 4
    source = open_image(path)
    check_boxes(source, np.moveaxis(table[index[0], :n], -1, 0))
    check_boxes(open_image(path, channels=(2, 0)), np.moveaxis(table[index[0]][..., [2, 0]], -1, 0))
    assert (source.alpha, source.nodata) == (None if nodata is None else 3, None)
    labels = open_image(path, as_labels=True)
    check_boxes(labels, index[0])
    assert labels.nodata == nodata
    assert labels.color_table is not None
    np.testing.assert_array_equal(labels.color_table[:4], table)


def test_threads_and_other_processes_read(tmp_path: Path) -> None:
    source = open_image(write(tmp_path / "a.jp2", driver="JP2OpenJPEG", QUALITY=100, REVERSIBLE="YES"))
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda y: source.read([(0, 3), (y, y + 10), (0, 170)]), range(0, 130, 10)))
    np.testing.assert_array_equal(np.concatenate(rows, 1), PIXELS)
    code = "import pickle, sys; print(int(pickle.load(sys.stdin.buffer).read([]).astype(int).sum()))"
    ran = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(source), capture_output=True, check=True)
    assert (int(ran.stdout), ran.stderr) == (int(PIXELS.astype(int).sum()), b"")


def test_a_vrt_reads_files_beside_it_and_sees_them_change(tmp_path: Path) -> None:
    write(tmp_path / "a.bin")
    inner = vrt(tmp_path / "inner.vrt", "a.bin", relative=1)
    source = open_image(vrt(tmp_path / "outer.vrt", str(inner)))
    check_boxes(source, PIXELS[0])
    held = pickle.dumps(source)
    vrt(inner, "a.bin", relative=1, crs="EPSG:32633")
    with pytest.raises(InputError, match=r"outer\.vrt: changed since it was opened \(others"):
        pickle.loads(held).read([])


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("/vsicurl/http://127.0.0.1:9/a.tif", "names /vsicurl/http.*nothing is fetched; copy it here"),
        ("http://127.0.0.1:9/a.tif", "nothing is fetched"),
        ("/vsis3/bucket/a.tif", "nothing is fetched"),
        ("inner.vrt", r"inner\.vrt: names http://127\.0\.0\.1:9/b\.tif, and nothing is fetched"),
        ("service.xml", r"names service\.xml, a description that may fetch others"),
        ("nowhere.tif", r"nowhere\.tif, which is not there; copy it too"),
    ],
)
def test_a_vrt_names_files_of_this_machine_alone(tmp_path: Path, named: str, expected: str) -> None:
    vrt(tmp_path / "inner.vrt", "http://127.0.0.1:9/b.tif")
    (tmp_path / "service.xml").write_text("<GDAL_WMS></GDAL_WMS>")
    with pytest.raises(InputError, match=expected) as caught:
        open_image(vrt(tmp_path / "a.vrt", named, relative=int(named[0] in "ins")))
    assert "\n" not in str(caught.value)


def test_a_service_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(
        '<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:9/${z}/${x}/${y}.png</ServerUrl></Service>'
        "<DataWindow><UpperLeftX>0</UpperLeftX><UpperLeftY>9</UpperLeftY><LowerRightX>9</LowerRightX>"
        "<LowerRightY>0</LowerRightY><TileLevel>2</TileLevel></DataWindow></GDAL_WMS>"
    )
    with rasterio.open(path) as dataset:
        assert dataset.driver == "WMS"
    with pytest.raises(InputError, match="not an image that can be read"):
        open_image(path)


@pytest.mark.parametrize("crs", ["EPSG:99999", "NONSENSE"])
def test_a_crs_unknown_to_proj_is_refused(tmp_path: Path, crs: str, caplog: pytest.LogCaptureFixture) -> None:
    path = vrt(tmp_path / "a.vrt", str(write(tmp_path / "a.bin")), crs=crs)
    caplog.clear()
    with pytest.raises(InputError, match=rf"a\.vrt: its CRS \({crs}\) is not .*; give .* gdal_edit\.py -a_srs"):
        open_image(path)
    assert not [r for r in caplog.records if r.levelno > logging.DEBUG]


def test_refuses_what_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.jp2", driver="JP2OpenJPEG", QUALITY=100, REVERSIBLE="YES")
    data = path.read_bytes()
    caplog.clear()
    path.write_bytes(data[:100])
    with pytest.raises(InputError, match=r"a\.jp2: cannot be opened by GDAL"):
        open_image(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"a\.jp2: .*GDAL"):
        open_image(path).read([])
    path.write_bytes(b"<VRTDataset rasterXSize=")
    with pytest.raises(InputError, match="cannot be read as VRT"):
        open_image(path)
    plain = write(tmp_path / "plain.bin")
    plain.write_bytes(plain.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"plain\.bin: truncated: 132599 bytes, its 3 bands need 132600; copy it"):
        open_image(plain)
    complex_ = write(tmp_path / "c.bin", PIXELS.astype("complex64"))
    with pytest.raises(InputError, match="complex64 are not supported"):
        open_image(complex_)
    assert not [r for r in caplog.records if r.levelno > logging.DEBUG]


def geotiff(path: Path, *keys: tuple[int, int], **options: Any) -> Path:
    """A GeoTIFF whose keys are written by hand, (key, value) each, as GDAL would not write them."""
    directory = [1, 1, 0, len(keys), *(n for key, value in keys for n in (key, 0, 1, value))]
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0)),
        (33922, "d", 6, (0.0, 0.0, 0.0, 500000.0, 6000000.0, 0.0)),
        (34735, "H", len(directory), directory),
    ]
    tifffile.imwrite(path, PIXELS[0], extratags=tags, photometric="minisblack", **options)
    return path


@pytest.mark.parametrize(("registration", "shift"), [(1, 0.0), (2, 5.0)])
def test_a_geotiff_that_registers_points_lies_half_a_pixel_off(tmp_path: Path, registration: int, shift: float) -> None:
    path = geotiff(tmp_path / "a.tif", (1024, 1), (1025, registration), (3072, 32633))
    found = open_image(path).georeference
    assert found is not None
    assert found.transform == (10.0, 0.0, 500000.0 - shift, 0.0, -10.0, 6000000.0 + shift)


def test_a_geotiff_keeps_its_pixels_from_tifffile_and_its_place_from_gdal(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.tif", driver="GTiff")
    path = tmp_path / "a.tif"
    copy(plain, path, driver="COG", BLOCKSIZE=64)
    for level in range(2):
        source = open_image(path, level=level)
        with rasterio.open(path, **({} if level == 0 else {"overview_level": level - 1})) as dataset:
            check_boxes(source, dataset.read())
            assert source.georeference is not None
            assert source.georeference.transform == tuple(dataset.transform[:6])
    assert source.pixel_size == (2e7, 2e7)
    assert source.tiling.startswith("tiled 64x64")


def test_a_geotiff_of_control_points_or_turned(tmp_path: Path) -> None:
    points = [GroundControlPoint(row=r, col=c, x=8 + c, y=47 - r, z=5) for r, c in [(0, 0), (0, 160), (120, 4)]]
    path = write(tmp_path / "a.tif", driver="GTiff", crs="EPSG:4326", transform=None, gcps=points)
    found = open_image(path).georeference
    assert found is not None
    assert [(p.row, p.column, p.x, p.y, p.z) for p in found.gcps] == [(p.row, p.col, p.x, p.y, p.z) for p in points]
    turned = Affine(10 * COS, 20 * SIN, 5e5, 10 * SIN, -20 * COS, 6e6)
    source = open_image(write(tmp_path / "b.tif", driver="GTiff", transform=turned))
    assert source.georeference is not None
    assert source.georeference.transform == tuple(turned[:6])
    assert source.pixel_size == pytest.approx((2e7, 1e7))


def test_a_geotiff_of_a_crs_unknown_to_proj_is_refused(tmp_path: Path) -> None:
    for key in (3072, 2048):
        path = geotiff(tmp_path / "a.tif", (1024, 1 if key == 3072 else 2), (1025, 1), (key, 39))
        with pytest.raises(InputError, match=r"a\.tif: its CRS \(EPSG:39\) is not one that PROJ knows; give it"):
            open_image(path)


def test_the_page_that_is_opened_says_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS[1, :50, :50], photometric="minisblack")
    geotiff(path, (1024, 1), (1025, 1), (3072, 32633), append=True)
    assert open_image(path, series=0).georeference is None
    found = open_image(path, series=1).georeference
    assert found is not None
    assert found.transform == (10.0, 0.0, 500000.0, 0.0, -10.0, 6000000.0)


def test_a_tiff_without_geo_tags_does_not_import_rasterio(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS[0])
    geotiff(tmp_path / "b.tif", (1024, 1), (1025, 1), (3072, 32633))
    code = "import sys, tilekit; tilekit.open_image(sys.argv[1]).read([]); print('rasterio' in sys.modules)"
    for name, imported in [("a.tif", "False"), ("b.tif", "True")]:
        ran = subprocess.run([sys.executable, "-c", code, tmp_path / name], capture_output=True, check=True, text=True)
        assert (ran.stdout.strip(), ran.stderr) == (imported, "")


REAL = ("geotiff-multiband", "sen1floods11-sample")


@pytest.mark.parametrize("folder", REAL)
def test_real_geotiffs_lie_where_rasterio_says(shared_data: Path, folder: str) -> None:
    for path in sorted((shared_data / folder).rglob("*.tif")):
        found = open_image(path).georeference
        assert found is not None, path
        with rasterio.open(path) as dataset:
            points, crs = dataset.gcps
            crs = dataset.crs or crs
            assert (rasterio.crs.CRS.from_wkt(found.crs) if found.crs else None) == (crs or None), path
            assert found.transform == (None if points else tuple(dataset.transform[:6]))
            assert [(p.row, p.column, p.x, p.y) for p in found.gcps] == [(p.row, p.col, p.x, p.y) for p in points]


def test_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jp2", driver="JP2OpenJPEG")
    raw = write(tmp_path / "a.bin")
    tiff = write(tmp_path / "a.tif", driver="GTiff")
    imported = builtins.__import__

    def without_rasterio(name: str, *args: Any) -> Any:
        if name.partition(".")[0] == "rasterio":
            raise ImportError(name)
        return imported(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_rasterio)
    with pytest.raises(InputError, match=r"a\.jp2: needs rasterio; pip install 'tilekit\[geo\]'"):
        open_image(path)
    with pytest.raises(InputError, match=r"a\.tif: needs rasterio; pip install 'tilekit\[geo\]'"):
        open_image(tiff)
    with pytest.raises(InputError, match=r"a\.bin: not an image that can be read .*tilekit\[geo\]"):
        open_image(raw)
