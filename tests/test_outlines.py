"""Outlines of objects: those of the whole image, seams gone, on the ground where the image is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
import zarr
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from rasterio.features import shapes

import tilekit
from tests.test_label import blobs, comb, spiral
from tilekit.errors import InputError

Array = NDArray[Any]
SIDE = 200


def whole_image_outlines(ids: Array) -> dict[int, Any]:
    """Outline of each object of the whole image at once."""
    parts: dict[int, list[Any]] = {}
    for geometry, number in shapes(ids.astype(np.int32), mask=ids > 0, connectivity=4):
        parts.setdefault(int(number), []).append(shapely.make_valid(shapely.geometry.shape(geometry)))
    return {number: shapely.union_all(part) for number, part in parts.items()}


def labeled(classes: Any, out: Path, kind: str, **options: Any) -> Array:
    tilekit.label_objects(classes, out, polygons=kind, **options)
    return np.asarray(zarr.open_array(str(out / "labels/objects/0"), mode="r")[:])


def read_features(path: Path) -> list[dict[str, Any]]:
    document = json.loads(path.read_text())
    assert document["type"] == "FeatureCollection"
    return list(document["features"])


IMAGES = {"spiral": spiral(SIDE), "comb": comb(SIDE), "one": np.ones((SIDE, SIDE), np.uint8), "blobs": blobs(0.4)}


@pytest.mark.parametrize("block", [32, 64, SIDE])
@pytest.mark.parametrize("name", IMAGES)
def test_outlines_are_those_of_the_whole_image(name: str, block: int, tmp_path: Path) -> None:
    out = tmp_path / "o.zarr"
    ids = labeled(IMAGES[name], out, "qupath", block=block)
    expected = whole_image_outlines(ids)
    found = {int(f["properties"]["name"]): f for f in read_features(out / "tables/objects.qupath.geojson")}
    assert found.keys() == expected.keys()
    areas = np.bincount(ids.ravel())
    for number, feature in found.items():
        geometry = shapely.geometry.shape(feature["geometry"])
        assert geometry.is_valid
        assert geometry.area == areas[number] == feature["properties"]["measurements"]["area"]
        assert geometry.equals(expected[number])
        assert shapely.get_num_coordinates(geometry) == shapely.get_num_coordinates(expected[number].simplify(0))
    assert not (out / ".tilekit/label-qupath-parts").exists()


def test_neighbors_share_their_borders_exactly(tmp_path: Path) -> None:
    classes = np.kron(np.random.default_rng(0).integers(1, 6, (20, 20)), np.ones((10, 10), int)).astype(np.uint8)
    out = tmp_path / "o.zarr"
    labeled(classes, out, "qupath", block=48, connectivity=4)
    outlines = [shapely.geometry.shape(f["geometry"]) for f in read_features(out / "tables/objects.qupath.geojson")]
    assert shapely.union_all(outlines).equals(shapely.box(0, 0, SIDE, SIDE))
    assert sum(g.area for g in outlines) == SIDE**2


def class_map(path: Path, crs: str, transform: Any) -> Array:
    classes = blobs(0.2)
    profile = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as file:
        file.write(classes, 1)
    return classes


PLACES = {
    "EPSG:32633": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000),
    "EPSG:4326": rasterio.Affine(1e-3, 0, 15.0, 0, -1e-3, 45.0),
}


@pytest.mark.parametrize("crs", PLACES)
@pytest.mark.parametrize("kind", ["geojson", "geoparquet"])
def test_outlines_lie_where_the_image_lies(crs: str, kind: str, tmp_path: Path) -> None:
    out, transform = tmp_path / "o.zarr", PLACES[crs]
    class_map(tmp_path / "classes.tif", crs, transform)
    ids = labeled(tmp_path / "classes.tif", out, kind, block=64)
    pixels = whole_image_outlines(ids)
    step, corner = (transform.a, transform.e), (transform.c, transform.f)
    ground = {i: shapely.transform(g, lambda p: p * step + corner) for i, g in pixels.items()}
    if kind == "geoparquet":
        table = pq.read_table(out / "tables/objects.geo.parquet")
        geo = json.loads(table.schema.metadata[b"geo"])
        assert CRS.from_json_dict(geo["columns"]["geometry"]["crs"]) == CRS(crs)
        rows = table.to_pylist()
        found = {r["id"]: shapely.from_wkb(r["geometry"]) for r in rows}
        expected, tolerance = ground, 1e-9
    else:
        rows = [f["properties"] for f in read_features(out / "tables/objects.geojson")]
        found = {f["id"]: shapely.geometry.shape(f["geometry"]) for f in read_features(out / "tables/objects.geojson")}
        move = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform
        expected = {i: shapely.transform(g, lambda p: np.stack(move(p[:, 0], p[:, 1]), 1)) for i, g in ground.items()}
        tolerance = 1e-9
    assert sorted(found) == sorted(expected) == sorted(r["id"] for r in rows)
    for number, geometry in found.items():
        assert geometry.symmetric_difference(expected[number]).area <= tolerance * expected[number].area + 1e-15
        assert all(part.exterior.is_ccw for part in shapely.get_parts(geometry))
    for row in rows:
        area = row["area"] * 100.0
        if crs == "EPSG:4326":
            area = abs(Geod(ellps="WGS84").geometry_area_perimeter(ground[row["id"]])[0])
        assert row["area_m2"] == pytest.approx(area)


def test_stacks_and_a_later_request(tmp_path: Path) -> None:
    stack = np.stack([blobs(0.2, seed) for seed in range(2)])
    out = tmp_path / "o.zarr"
    first = tilekit.label_objects(stack, out, block=64)
    again = tilekit.label_objects(stack, out, block=64, polygons="qupath")
    assert again["objects"] == first["objects"] == len(read_features(out / "tables/objects.qupath.geojson"))
    ids = np.asarray(zarr.open_array(str(out / "labels/objects/0"), mode="r")[:])
    for feature in read_features(out / "tables/objects.qupath.geojson"):
        place = shapely.geometry.shape(feature["geometry"]).representative_point()
        plane = feature["geometry"]["plane"]["z"]
        assert ids[plane, int(place.y), int(place.x)] == int(feature["properties"]["name"])
    written = (out / "tables/objects.qupath.geojson").stat().st_mtime_ns
    tilekit.label_objects(stack, out, block=64, polygons="qupath")
    assert (out / "tables/objects.qupath.geojson").stat().st_mtime_ns == written


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no CRS and transform.*choose qupath"):
        tilekit.label_objects(blobs(0.2), tmp_path / "o.zarr", polygons="geojson")
    with pytest.raises(InputError, match="polygons svg: choose one of"):
        tilekit.label_objects(blobs(0.2), tmp_path / "o.zarr", polygons="svg")
    assert not (tmp_path / "o.zarr").exists()
