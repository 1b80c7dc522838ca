"""Outputs with a place on the ground, read by rasterio (0.4), rioxarray (0.4 and 0.5) and the OME readers."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import tilekit
from tests.oracles import PlainFilter, structured_image
from tilekit.georeference import ControlPoint, Georeference
from tilekit.sources import Source, open_image

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("rioxarray")
import xarray  # noqa: E402  # after the check that its accessor is installed

pytestmark = [
    pytest.mark.filterwarnings("ignore:Object at .tilekit is not recognized"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),  # rioxarray's use of affine
]

TRANSFORM = (10.0, 0.0, 500000.0, 0.0, -10.0, 6000000.0)
ROTATED = (10.0, 3.0, 500000.0, 4.0, -10.0, 6000000.0)
DEGREES = (0.001, 0.0, 13.0, 0.0, -0.0005, 52.0)
GCPS = tuple(ControlPoint(r, c, 5e5 + 10 * c, 6e6 - 10 * r, 1.5) for r, c in ((0, 0), (0, 500), (400, 20)))
NODATA = 7


def wkt(code: str) -> str:
    return str(rasterio.crs.CRS.from_user_input(code).to_wkt())


def located(pixels: Any, place: Georeference, **options: Any) -> Source:
    return replace(open_image(pixels, **options), georeference=place)


def satellite(nodata: float | None = NODATA, dtype: str = "uint16") -> np.ndarray:
    pixels = structured_image((3, 700, 1040), dtype, seed=3)
    if nodata is not None:
        pixels[:, :90, :120] = nodata
    return pixels


@pytest.fixture(scope="module", params=["0.4", "0.5"])
def output(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A satellite image in UTM with its class map, unsharded by default."""
    out = tmp_path_factory.mktemp("geo") / "out.zarr"
    place = Georeference(wkt("EPSG:32633"), TRANSFORM)
    tilekit.ingest(located(satellite(), place, nodata=NODATA, pixel_size=(1e7, 1e7)), out, ngff=request.param)
    predictor = PlainFilter(stride=(8, 8), in_channels=3, n_classes=4)
    tilekit.predict(out, predictor, out, tile=120, block=256)
    return out


def n_levels(folder: Path) -> int:
    return sum(child.name.isdecimal() for child in folder.iterdir())


def level_arrays(out: Path, name: str) -> list[tuple[int, np.ndarray]]:
    folder = out / name if name else out
    return [(k, np.asarray(zarr.open_array(folder / str(k), mode="r"))) for k in range(n_levels(folder))]


def is_zarr_2(out: Path) -> bool:
    return (out / ".zgroup").exists()


@pytest.mark.parametrize("name", ["", "labels/classes"])
def test_rasterio_places_every_level_of_zarr_2(output: Path, name: str) -> None:
    if not is_zarr_2(output):
        if rasterio.__gdal_version__.startswith(("3.9", "3.10")):
            with pytest.raises(rasterio.errors.RasterioError, match="codec"):
                rasterio.open(f'ZARR:"{output}":/0')
        return
    for k, wanted in level_arrays(output, name):
        with rasterio.open(f'ZARR:"{output}":/{f"{name}/" if name else ""}{k}') as dataset:
            assert (dataset.read() == wanted.reshape(-1, *wanted.shape[-2:])).all()
            box = dataset.read(1, window=((3, 40), (5, 60)))
            assert (box == wanted.reshape(-1, *wanted.shape[-2:])[0, 3:40, 5:60]).all()
            assert dataset.crs.to_epsg() == 32633
            assert tuple(dataset.transform)[:6] == (10.0 * 2**k, 0.0, 500000.0, 0.0, -10.0 * 2**k, 6000000.0)
            assert dataset.nodata == (255 if name else NODATA)


@pytest.mark.parametrize("name", ["", "labels/classes"])
def test_rioxarray_places_every_level(output: Path, name: str) -> None:
    levels = level_arrays(output, name)
    for k, wanted in levels:
        others = [str(j) for j, _ in levels if j != k]
        dropped = [*others, "x", "y"] if k and not is_zarr_2(output) else others
        dataset = xarray.open_zarr(
            output / name,
            consolidated=False,
            decode_coords="all",
            mask_and_scale=False,
            drop_variables=dropped,
            chunks=None,
        )
        pixels = dataset[str(k)]
        assert (pixels.values == wanted).all()
        assert pixels.rio.crs.to_epsg() == 32633
        assert tuple(pixels.rio.transform())[:6] == (10.0 * 2**k, 0.0, 500000.0, 0.0, -10.0 * 2**k, 6000000.0)
        if k == 0 or is_zarr_2(output):  # from the coordinates alone
            assert tuple(pixels.rio.transform(recalc=True))[:6] == tuple(pixels.rio.transform())[:6]
        assert pixels.rio.nodata == (255 if name else NODATA)


def test_xarray_masks_nodata(output: Path) -> None:
    levels = [str(k) for k in range(1, n_levels(output))]
    dataset = xarray.open_zarr(output, consolidated=False, decode_coords="all", drop_variables=levels, chunks=None)
    stored = level_arrays(output, "")[0][1]
    assert (np.isnan(dataset["0"].values) == (stored == NODATA)).all()
    assert np.isnan(dataset["0"].values).any()


def test_ome_readers_still_read_it(output: Path) -> None:
    import yaozarrs
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    for name in ("", "labels/classes"):
        yaozarrs.validate_zarr_store(str(output / name))
    location = parse_url(str(output))
    assert location is not None
    image, _, classes = list(Reader(location)())
    for node, name in ((image, ""), (classes, "labels/classes")):
        for found, (_, wanted) in zip(node.data, level_arrays(output, name), strict=True):
            assert (found.compute(scheduler="sync") == wanted).all()


def test_naparis_reader_still_reads_it(output: Path) -> None:
    npe2 = pytest.importorskip("npe2")
    pytest.importorskip("napari_ome_zarr")
    from npe2.io_utils import read

    npe2.PluginManager.instance().discover()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = read([str(output)], plugin_name="napari-ome-zarr", stack=False)
    assert {kind for _, _, kind in layers} == {"image", "labels"}
    for data, meta, kind in layers:
        wanted = level_arrays(output, "" if kind == "image" else "labels/classes")
        assert [tuple(level.shape)[-2:] for level in data] == [level.shape[-2:] for _, level in wanted]
        assert (np.asarray(data[0]).reshape(wanted[0][1].shape) == wanted[0][1]).all()
        assert list(meta["scale"])[-2:] == [1e7, 1e7]


def test_tilekit_reads_the_place_of_every_level(output: Path) -> None:
    place = Georeference(wkt("EPSG:32633"), TRANSFORM)
    for name in ("", "labels/classes"):
        for k in range(n_levels(output / name)):
            source = open_image(output / name, level=k)
            assert source.georeference == place.at_scale((2**k, 2**k))
            assert source.nodata == (255 if name else NODATA)
            assert "shards" not in source.tiling


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    "place",
    [
        Georeference(wkt("EPSG:32633"), ROTATED),
        Georeference(wkt("EPSG:4326"), DEGREES),
        Georeference(wkt("EPSG:32633"), None, GCPS),
        Georeference(None, TRANSFORM),
        Georeference(wkt("ESRI:104903"), DEGREES),  # the Moon
        Georeference(wkt("EPSG:32633")),
    ],
    ids=["rotated", "degrees", "control points", "no CRS", "Moon", "no transform"],
)
def test_every_kind_of_place_comes_back(tmp_path: Path, place: Georeference, version: str) -> None:
    out = tmp_path / "out.zarr"
    tilekit.ingest(located(structured_image((530, 600), "uint8", seed=1), place), out, ngff=version)
    for k in range(2):
        assert open_image(out, level=k).georeference == place.at_scale((2**k, 2**k))
    pixels = xarray.open_zarr(out, consolidated=False, decode_coords="all", drop_variables=["1"], chunks=None)["0"]
    if place.crs:
        assert pixels.rio.crs == rasterio.crs.CRS.from_wkt(place.crs)
    if place.transform:
        assert tuple(pixels.rio.transform())[:6] == place.transform
    if place.gcps:
        assert [(p.row, p.col, p.x, p.y, p.z) for p in pixels.rio.get_gcps()] == [
            (p.row, p.column, p.x, p.y, p.z) for p in place.gcps
        ]
    if version == "0.4":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(f'ZARR:"{out}":/0') as dataset:
                assert dataset.crs == (rasterio.crs.CRS.from_wkt(place.crs) if place.crs else None)
                placed = not dataset.transform.is_identity
                assert placed == place.is_rectilinear
                if placed:
                    assert tuple(dataset.transform)[:6] == pytest.approx(place.transform, rel=1e-12)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("dtype", "nodata", "told"),
    [
        ("uint8", None, None),
        ("uint16", 0, 0),
        ("int16", -9999, -9999),
        ("float32", None, float("nan")),
        ("float32", float("nan"), float("nan")),
        ("float32", -9999.0, -9999.0),
        ("float64", -3.4e38, -3.4e38),
    ],
)
def test_nodata_reaches_every_reader(
    tmp_path: Path, dtype: str, nodata: float | None, told: float | None, version: str
) -> None:
    pixels = structured_image((530, 600), "uint8", seed=1).astype(dtype)
    pixels[:50, :50] = 0 if told is None else told
    out = tmp_path / "out.zarr"
    tilekit.ingest(
        located(pixels, Georeference(wkt("EPSG:32633"), TRANSFORM), nodata=nodata), out, ngff=version, chunk=64
    )
    source = open_image(out)
    assert source.nodata == pytest.approx(nodata, nan_ok=True) if nodata is not None else source.nodata is None
    assert np.array_equal(source.read([(0, 530), (0, 600)]), pixels, equal_nan=True)
    levels = [str(k) for k in range(1, n_levels(out))]
    opened = xarray.open_zarr(
        out, consolidated=False, decode_coords="all", drop_variables=levels, chunks=None, mask_and_scale=False
    )["0"]
    assert opened.rio.nodata == (None if told is None else pytest.approx(told, nan_ok=True))
    if version == "0.4":
        with rasterio.open(f'ZARR:"{out}":/0') as dataset:
            assert dataset.nodata == (None if told is None else pytest.approx(told, nan_ok=True))
            assert np.array_equal(dataset.read(1), pixels, equal_nan=True)


DATA = Path(__file__).parents[2] / "shared" / "data"
REAL = [
    *(f"geotiff-multiband/rasterio/{name}.tif" for name in ("RGB.byte", "RGBA.uint16", "rotated", "float_nan")),
    *(f"geotiff-multiband/rio-tiler/{name}.tif" for name in ("cog_gcps", "cog_nonearth", "cog_nodata_nan")),
    *(f"sen1floods11-sample/Spain_7370579_{name}.tif" for name in ("S1", "S2", "LabelHand")),
]


@pytest.mark.skipif(not DATA.exists(), reason="the folder of real images is not there")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("name", REAL)
def test_real_files_keep_their_place(tmp_path: Path, name: str, version: str) -> None:
    """Against what rasterio says of the file itself; rotated transforms and control points by rioxarray alone."""
    out = tmp_path / "out.zarr"
    tilekit.ingest(DATA / name, out, ngff=version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(DATA / name) as file:
            wanted, nodata, transform = file.read(), file.nodata, tuple(file.transform)[:6]
            gcps, crs = file.gcps if file.gcps[0] else ([], file.crs)
    assert_same(open_image(out), open_image(DATA / name))
    levels = [str(k) for k in range(1, n_levels(out))]
    pixels = xarray.open_zarr(
        out, consolidated=False, decode_coords="all", drop_variables=levels, chunks=None, mask_and_scale=False
    )["0"]
    assert np.array_equal(pixels.values.reshape(wanted.shape), wanted, equal_nan=wanted.dtype.kind == "f")
    assert pixels.rio.crs == crs
    if gcps:
        assert [(p.row, p.col, p.x, p.y) for p in pixels.rio.get_gcps()] == [(p.row, p.col, p.x, p.y) for p in gcps]
    else:
        assert tuple(pixels.rio.transform())[:6] == transform
    assert pixels.rio.nodata == (None if nodata is None else pytest.approx(nodata, nan_ok=True))
    if version == "0.4" and not gcps and transform[1] == 0:
        with rasterio.open(f'ZARR:"{out}":/0') as dataset:
            assert np.array_equal(dataset.read(), wanted, equal_nan=wanted.dtype.kind == "f")
            assert dataset.crs == crs
            assert tuple(dataset.transform)[:6] == pytest.approx(transform, rel=1e-12)
            assert dataset.nodata == (None if nodata is None else pytest.approx(nodata, nan_ok=True))


def assert_same(found: Source, wanted: Source) -> None:
    """What an image means, but for how it is stored."""
    names = ("axes", "shape", "dtype", "channel_names", "wavelengths", "value_scale", "alpha", "georeference")
    assert {name: getattr(found, name) for name in names} == {name: getattr(wanted, name) for name in names}
    assert str(found.nodata) == str(wanted.nodata)
    if wanted.pixel_size is None:
        assert found.pixel_size is None
    else:
        assert found.pixel_size == pytest.approx(wanted.pixel_size, rel=1e-12)
