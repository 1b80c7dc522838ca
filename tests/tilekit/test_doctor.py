"""The doctor's word against the readers that are installed here."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import tilekit
from tilekit.doctor import Reader, readers
from tilekit.errors import InputError
from tilekit.georeference import ControlPoint, Georeference
from tilekit.sources import open_image

UTM = (
    'PROJCS["UTM 33N",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
    'PARAMETER["central_meridian",15],PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],'
    'PARAMETER["false_northing",0],UNIT["metre",1],AUTHORITY["EPSG","32633"]]'
)
STRAIGHT = Georeference(UTM, (10.0, 0.0, 500000.0, 0.0, -10.0, 6000000.0))
ROTATED = Georeference(UTM, (10.0, 3.0, 500000.0, 4.0, -10.0, 6000000.0))
POINTS = Georeference(UTM, None, (ControlPoint(0, 0, 1, 2), ControlPoint(9, 0, 1, 3), ControlPoint(0, 9, 2, 2)))
PLACES = {"straight": STRAIGHT, "rotated": ROTATED, "points": POINTS, "nowhere": None}
PIXELS = np.random.default_rng(0).integers(1, 200, (2, 600, 700)).astype("uint16")
FORMATS: dict[str, dict[str, Any]] = {
    "0.4": {"ngff": "0.4"},
    "0.5 unsharded": {"shards": False},
    "0.5 sharded": {"shards": True, "block": 512, "chunk": 128},
}


def make(out: Path, place: Georeference | None, form: str, pixels: np.ndarray = PIXELS) -> Path:
    tilekit.ingest(replace(open_image(pixels), georeference=place), out, **FORMATS[form])
    return out


def by_name(out: Path) -> dict[str, Reader]:
    return {reader.name: reader for reader in readers(out)}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("place", PLACES)
def test_the_doctor_is_right_about_what_is_installed_here(tmp_path: Path, place: str, form: str) -> None:
    out = make(tmp_path / "out.zarr", PLACES[place], form)
    said = by_name(out)
    assert gdal_copes(out, PLACES[place]) == said[_installed_gdal()].copes
    assert said["rioxarray"].copes
    call = said["rioxarray"].why.partition(";")[0]
    assert (rioxarray_reads(out, call) == PIXELS).all()
    assert said["ome-zarr-py"].copes
    assert said["napari (napari-ome-zarr)"].copes
    assert (ome_zarr_py_reads(out) == PIXELS).all()


def _installed_gdal() -> str:
    rasterio = pytest.importorskip("rasterio")
    minor = int(rasterio.__gdal_version__.split(".")[1])
    ages = {10: "3.10 or older", 12: "3.11 or 3.12", 99: "3.13 or newer"}
    return f"QGIS with GDAL {ages[min(newest for newest in ages if minor <= newest)]}"


def gdal_copes(out: Path, place: Georeference | None) -> bool:
    """True where GDAL reads the pixels, and puts an image on the ground where it lies."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            with rasterio.open(f'ZARR:"{out}":/0') as dataset:
                if not (dataset.read() == PIXELS).all():
                    return False
                return place is None or tuple(dataset.transform)[:6] == place.transform
        except rasterio.errors.RasterioError:
            return False


def rioxarray_reads(out: Path, call: str) -> np.ndarray:
    """What the call that the doctor names gives."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("rioxarray")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Object at .tilekit is not recognized")
        return np.asarray(eval(call, {"xarray": xarray, "out": str(out)}))


def ome_zarr_py_reads(out: Path) -> np.ndarray:
    io, reader = pytest.importorskip("ome_zarr.io"), pytest.importorskip("ome_zarr.reader")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*version mismatch.*")
        return np.asarray(next(iter(reader.Reader(io.parse_url(str(out)))())).data[0].compute(scheduler="sync"))


@pytest.mark.parametrize(
    ("place", "form", "copes"),
    [  # GDAL 3.10, 3.12, 3.13
        ("straight", "0.4", (True, True, True)),
        ("straight", "0.5 unsharded", (False, True, True)),
        ("straight", "0.5 sharded", (False, False, True)),
        ("rotated", "0.4", (False, False, False)),
        ("rotated", "0.5 unsharded", (False, False, True)),
        ("points", "0.4", (False, False, False)),
        ("points", "0.5 unsharded", (False, False, False)),
        ("nowhere", "0.5 unsharded", (False, True, True)),
    ],
)
def test_gdal_by_version(tmp_path: Path, place: str, form: str, copes: tuple[bool, ...]) -> None:
    said = readers(make(tmp_path / "out.zarr", PLACES[place], form))
    assert tuple(reader.copes for reader in said if "GDAL" in reader.name) == copes
    assert all(reader.why and "\n" not in reader.why for reader in said)


def test_what_neuroglancer_does_not_show(tmp_path: Path) -> None:
    assert by_name(make(tmp_path / "a.zarr", None, "0.4"))["neuroglancer"].copes
    wide = by_name(make(tmp_path / "b.zarr", None, "0.4", PIXELS.astype("float64")))["neuroglancer"]
    assert not wide.copes
    assert "float64" in wide.why


def test_an_array_of_others(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=PIXELS, chunks=(1, 64, 64), zarr_format=2)
    said = by_name(tmp_path / "a.zarr")
    assert not said["napari (napari-ome-zarr)"].copes
    assert not said["rioxarray"].copes
    assert said["QGIS with GDAL 3.10 or older"].copes


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        readers(tmp_path / "out.zarr")
