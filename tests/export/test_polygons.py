"""Exported polygons: each has exactly the area of its pixels, and drawn again they are the label map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.export.stores import UTM, blobs, make_store
from tests.test_label import comb, spiral
from tilekit.jobs.export import export_store
from tilekit.jobs.label import label_image
from tilekit.run import SerialRunner
from tilekit.sources import open_image

shapely = pytest.importorskip("shapely")
pytest.importorskip("rasterio")
Array = NDArray[Any]
SHAPES = {
    "spiral": spiral(90),
    "comb": comb(90),
    "checkerboard": (np.indices((40, 40)).sum(0) % 2).astype(np.uint8),
    "rings": (np.hypot(*(np.indices((91, 91)) - 45)) // 4 % 3).astype(np.uint8),
    "one": np.ones((90, 70), np.uint8),
    "noise": np.random.default_rng(1).integers(0, 3, (48, 50)).astype(np.uint8),
    "blobs": blobs((200, 230)),
}


def label(classes: Array, out: Path) -> Array:
    label_image(open_image(classes), out, SerialRunner(), block=32)
    return open_image(out / "labels/objects", as_labels=True).read([(0, n) for n in classes.shape])


def features(path: Path) -> dict[int, Any]:
    found = json.loads(path.read_text())["features"]
    return {int(f["properties"].get("name") or f["id"]): shapely.geometry.shape(f["geometry"]) for f in found}


def assert_areas(found: dict[int, Any], ids: Array, pixel: float = 1.0) -> None:
    counts = dict(enumerate(np.bincount(ids.ravel()).tolist()))
    counts.pop(0)
    assert {number: outline.area for number, outline in found.items()} == {i: n * pixel for i, n in counts.items()}
    assert all(outline.is_valid for outline in found.values())


@pytest.mark.parametrize("block", [19, 4096])
@pytest.mark.parametrize("name", SHAPES)
def test_areas_in_pixels_are_exact_across_seams_and_holes(name: str, block: int, tmp_path: Path) -> None:
    ids = label(SHAPES[name], tmp_path / "o.zarr")
    export_store(tmp_path / "o.zarr", tmp_path / "a.geojson", SerialRunner(), block=block)
    assert_areas(features(tmp_path / "a.geojson"), ids)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 40), width=st.integers(1, 40), block=st.integers(4, 50))
def test_areas_of_anything_are_exact(
    seed: int, height: int, width: int, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    ids = label(np.random.default_rng(seed).integers(0, 3, (height, width)).astype(np.uint8), folder / "o.zarr")
    export_store(folder / "o.zarr", folder / "a.qupath.geojson", SerialRunner(), block=block)
    assert_areas(features(folder / "a.qupath.geojson"), ids)


@pytest.mark.parametrize("place", ["EPSG:32633", "rotated", None])
def test_geoparquet_has_the_areas_of_the_ground(place: str | None, tmp_path: Path) -> None:
    ids = make_store(tmp_path / "o.zarr", blobs((300, 280)), place)
    said = export_store(tmp_path / "o.zarr", tmp_path / "a.parquet", SerialRunner(), block=64)
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert (said["format"], said["objects"], len(rows)) == ("geoparquet", ids.max(), ids.max())
    pixel = {"EPSG:32633": UTM[0] * -UTM[4], "rotated": 82.0, None: 1.0}[place]
    assert_areas({row["id"]: shapely.from_wkb(row["geometry"]) for row in rows}, ids, pixel)
    assert not (tmp_path / "o.zarr/tables/objects.geo.parquet").exists()  # the store is only read


def test_what_label_writes_is_what_export_writes(tmp_path: Path) -> None:
    make_store(tmp_path / "o.zarr", blobs((300, 280)), "EPSG:4326")
    for kind, name in (("geojson", "objects.geojson"), ("qupath", "objects.qupath.geojson")):
        label_image(
            open_image(tmp_path / "o.zarr/labels/classes", as_labels=True),
            tmp_path / "o.zarr",
            SerialRunner(),
            block=256,
            polygons=kind,
        )
        export_store(tmp_path / "o.zarr", tmp_path / name, SerialRunner(), block=256)
        assert (tmp_path / name).read_bytes() == (tmp_path / "o.zarr/tables" / name).read_bytes()
