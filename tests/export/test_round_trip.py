"""What is edited elsewhere comes back as truth, pixel for pixel: an object removed, one moved, one of another class."""

from __future__ import annotations

import json
import sqlite3
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import tilekit
from flows.training.pairs import list_examples
from tests.export.stores import NAMES, blobs, make_store
from tests.flows.training.specimens import configured
from tilekit.errors import InputError
from tilekit.jobs.drawing import draw_labels
from tilekit.jobs.export import export_store
from tilekit.run import SerialRunner
from tilekit.sources import open_image

rasterio = pytest.importorskip("rasterio")
shapely = pytest.importorskip("shapely")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
Array = NDArray[Any]
SHIFT = (7, -4)
"""By which one object is moved, y and x, in pixels."""
KINDS = {"qupath.geojson": None, "geojson": "EPSG:32633", "gpkg": "EPSG:32633"}


@pytest.fixture(scope="module", params=KINDS)
def edited(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store, its edited polygons, and the classes and ids that they should be."""
    folder = tmp_path_factory.mktemp("edited")
    classes = blobs((260, 300))
    ids = make_store(folder / "o.zarr", classes, KINDS[request.param])
    name = "a.geojson" if request.param == "gpkg" else f"a.{request.param}"
    export_store(folder / "o.zarr", folder / name, SerialRunner(), block=64)
    document = json.loads((folder / name).read_text())
    removed, moved, renamed = chosen(ids)
    document["features"] = edit(document["features"], removed, moved, renamed)
    path = folder / name
    if request.param == "gpkg":
        path = folder / "a.gpkg"
        write_geopackage(path, document["features"])
    else:
        path.write_text(json.dumps(document))
    known = np.where(classes == 255, 0, classes)  # what no polygon covers is background
    return folder, path, expected(known, ids, removed, moved, renamed), number(document["features"], ids, moved)


def chosen(ids: Array) -> tuple[int, int, int]:
    """Three objects that stay inside when they are moved."""
    inside = [i for i in range(1, int(ids.max()) + 1) if (ids == i).sum() > 60 and is_inside(ids == i)]
    return inside[0], inside[1], inside[2]


def is_inside(where: Array) -> bool:
    y, x = np.nonzero(where)
    return bool(y.min() > 10 and x.min() > 10 and y.max() < where.shape[0] - 10 and x.max() < where.shape[1] - 10)


def edit(features: list[Any], removed: int, moved: int, renamed: int) -> list[Any]:
    """As a person does it; what was moved is drawn last, on the others."""
    kept = {number_of(f): f for f in features if number_of(f) != removed}
    is_placed = "id" in features[0]
    last = kept.pop(moved)
    last["geometry"] = {**last["geometry"], "coordinates": shifted(last["geometry"]["coordinates"], is_placed)}
    properties = kept[renamed]["properties"]
    if is_placed:
        properties["class"] = 3 - properties["class"]
    else:
        name = properties["classification"]["name"]
        properties["classification"] = {"name": "cell" if name == "Tumor" else "Tumor"}
    return [*kept.values(), last]


def number_of(feature: dict[str, Any]) -> int:
    return int(feature.get("id") or feature["properties"]["name"])


def shifted(points: Any, is_placed: bool) -> Any:
    if not isinstance(points[0], float | int):
        return [shifted(part, is_placed) for part in points]
    if not is_placed:
        return [points[0] + SHIFT[1], points[1] + SHIFT[0]]
    move = rasterio.warp.transform
    (x,), (y,) = move("OGC:CRS84", "EPSG:32633", [points[0]], [points[1]])
    (x,), (y,) = move("EPSG:32633", "OGC:CRS84", [x + 10 * SHIFT[1]], [y - 10 * SHIFT[0]])
    return [x, y]


def expected(classes: Array, ids: Array, removed: int, moved: int, renamed: int) -> Array:
    own = classes[ids == moved][0]
    out = classes.copy()
    out[ids == removed] = 0
    out[ids == renamed] = 3 - out[ids == renamed]
    out[ids == moved] = 0
    out[np.roll(ids == moved, SHIFT, (0, 1))] = own
    return out


def number(features: list[Any], ids: Array, moved: int) -> Array:
    """Features by their order in the file, from 1."""
    out = np.zeros(ids.shape, np.int32)
    for i, feature in enumerate(features, start=1):
        where = ids == number_of(feature)
        out[np.roll(where, SHIFT, (0, 1)) if number_of(feature) == moved else where] = i
    return out


def write_geopackage(path: Path, features: list[Any]) -> None:
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE gpkg_geometry_columns (table_name, column_name, geometry_type_name, srs_id, z, m)")
        file.execute("CREATE TABLE gpkg_spatial_ref_sys (srs_id, organization, organization_coordsys_id, definition)")
        file.execute("INSERT INTO gpkg_spatial_ref_sys VALUES (4326, 'EPSG', 4326, '')")
        file.execute("INSERT INTO gpkg_geometry_columns VALUES ('a', 'geom', 'GEOMETRY', 4326, 0, 0)")
        file.execute("CREATE TABLE a (fid INTEGER PRIMARY KEY, geom BLOB, class INTEGER)")
        for i, feature in enumerate(features, start=1):
            wkb = shapely.to_wkb(shapely.geometry.shape(feature["geometry"]))
            blob = b"GP" + bytes([0, 1]) + struct.pack("<i", 4326) + wkb
            file.execute("INSERT INTO a VALUES (?, ?, ?)", (i, blob, feature["properties"]["class"]))
    file.close()


def test_evaluate_takes_the_edited_polygons_as_truth(edited: Any) -> None:
    folder, path, classes, ids = edited
    prediction = open_image(folder / "o.zarr/labels/classes", as_labels=True)
    for kind, wanted in (("classes", classes), ("ids", ids)):
        drawn = draw_labels(path, prediction, kind)
        assert drawn is not None
        np.testing.assert_array_equal(drawn.read([(0, n) for n in wanted.shape]), wanted)
    tifffile.imwrite(folder / "truth.tif", classes)
    found = tilekit.evaluate(folder / "o.zarr", path)
    assert found["confusion"] == tilekit.evaluate(folder / "o.zarr", folder / "truth.tif")["confusion"]
    assert 0.8 < found["miou"] < 1
    assert tilekit.evaluate(folder / "o.zarr", path, kind="ids")["truth_objects"] == len(np.unique(ids)) - 1


def test_train_takes_the_edited_polygons_as_truth(edited: Any) -> None:
    folder, path, classes, ids = edited
    data = {"images": "o.zarr", "truth": path.name, "kind": "classes", "class_names": NAMES, "level": 0}
    (example,), _ = list_examples(configured(folder, data=data))
    np.testing.assert_array_equal(example.truth.read(example.box), classes)
    np.testing.assert_array_equal(example.truth.objects(example.box), ids)


@pytest.mark.parametrize("place", ["EPSG:32633", None])
def test_an_edited_geotiff_is_the_truth_of_evaluate_and_train(place: str | None, tmp_path: Path) -> None:
    classes = blobs((260, 300))
    make_store(tmp_path / "o.zarr", classes, place, objects=False)
    export_store(tmp_path / "o.zarr", tmp_path / "t.tif", SerialRunner(), format="cog")
    wanted = classes.copy()
    wanted[50:90, 40:100], wanted[100:120, 40:70] = 2, 0
    with rasterio.open(tmp_path / "t.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.write(wanted, 1)
    found = tilekit.evaluate(tmp_path / "o.zarr", tmp_path / "t.tif")
    tifffile.imwrite(tmp_path / "plain.tif", wanted)
    assert found["confusion"] == tilekit.evaluate(tmp_path / "o.zarr", tmp_path / "plain.tif")["confusion"]
    assert found["iou"][2] < 1
    data = {"images": "o.zarr", "truth": "t.tif", "kind": "classes", "class_names": NAMES, "level": 0}
    (example,), _ = list_examples(configured(tmp_path, data=data))
    np.testing.assert_array_equal(example.truth.read(example.box), np.where(wanted == 255, -1, wanted.astype(int)))


def test_polygons_that_cannot_be_scored_are_one_line(tmp_path: Path) -> None:
    ring = [[0, 0], [9, 0], [9, 9], [0, 0]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    named = feature | {"properties": {"classification": {"name": "Stroma"}}}
    (tmp_path / "a.geojson").write_text(json.dumps([named]))
    plain = np.zeros((20, 20), np.uint8)
    with pytest.raises(InputError, match=r"a\.geojson: its polygons are called 'Stroma'.*score the store"):
        tilekit.evaluate(plain, tmp_path / "a.geojson")
    with pytest.raises(InputError, match="say which of array's 3 planes they are of; give a label map"):
        tilekit.evaluate(open_image(np.zeros((3, 20, 20), np.uint8), axes="zyx"), tmp_path / "a.geojson", kind="ids")
    with pytest.raises(InputError, match="hold no membranes"):
        tilekit.evaluate(plain, tmp_path / "a.geojson", kind="boundaries")
    void = feature | {"properties": {"classification": {"name": "Ignore*"}}}
    (tmp_path / "b.geojson").write_text(json.dumps([feature | {"properties": {"class": 1}}, void]))
    found = tilekit.evaluate(plain, tmp_path / "b.geojson")
    assert found["pixels"] == 400 - sum(range(10))  # the later one lies on the first
