"""What the values of a truth mean, and polygons drawn on the image's grid."""

from __future__ import annotations

import json
import sqlite3
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from flows.training.meaning import Meaning
from flows.training.pairs import list_examples
from flows.training.sections import Data
from tests.flows.training.specimens import blobs, configured, noise
from tilekit import ingest, label_objects
from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.outlines import to_wkb, trace


def read(values: list[int], dtype: str = "int16", **data: Any) -> list[int]:
    return Meaning.of(Data(**data)).read(np.array(values, dtype), "a.tif").tolist()


def test_values_mean_what_the_map_says_and_void_is_unknown() -> None:
    assert read([0, 255, 3], "uint8", kind="classes") == [0, -1, 3]
    assert read([0, 255, -1, 9], kind="classes", map="0=0,255=1,-1=void,9=255") == [0, 1, -1, -1]
    assert read([0, 7, 255], kind="classes", void=7, map="0=0,7=7,255=1") == [0, -1, 1]
    assert read([0, 7, 255]) == [0, 7, 255]
    assert read([0, 7, 65535], "uint16", map="65535=void") == [0, 7, -1]
    assert read([0, 2**32 - 1], "uint32", void=0) == [-1, 2**32 - 1]


@pytest.mark.parametrize(
    ("values", "data", "told"),
    [
        ([0, -1], {}, "the truth holds -1, object ids are 0 or more; add -1=void to .data. map"),
        (
            [0, 3, 9],
            {"kind": "classes", "map": "0=0"},
            r"the truth holds 3, 9, which \[data\] map does not cover; add 3=",
        ),
        (
            [0, 2],
            {"kind": "classes", "class_names": ("a", "b")},
            "the truth holds 2, classes are 0 to 1 as class_names",
        ),
        ([0, 254], {"kind": "classes"}, "the truth holds 254, classes are 0 to 253; say what it means"),
        (list(range(300)), {"kind": "classes", "map": "0=0"}, r"the truth holds 1, 2, 3, 4, 5, 6, 7, 8, \.\.\., which"),
    ],
)
def test_a_value_that_means_nothing_is_refused(values: list[int], data: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=f"a.tif: {told}"):
        read(values, **data)


def test_a_map_to_a_class_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="means class 2, class_names has 2; name all"):
        Data(kind="classes", map="0=0,1=2", class_names=("a", "b"))
    with pytest.raises(ValueError, match="class_names has 3, ids have two classes"):
        Data(class_names=("a", "b", "c"))


SQUARES = [((2, 3, 6, 9), "Tumor"), ((4, 6, 12, 12), "Stroma"), ((14, 14, 18, 18), "Ignore*")]
"""Boxes (y, x, y, x) of one polygon each, the second on the first, and their classes."""


def ring(y0: float, x0: float, y1: float, x1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def geojson(classes: bool = True, shift: float = 0) -> str:
    features = [
        {
            "type": "Feature",
            "properties": {"objectType": "annotation", **({"classification": {"name": name}} if classes else {})},
            "geometry": {"type": "Polygon", "coordinates": [ring(*(n + shift for n in box))]},
        }
        for box, name in SQUARES
    ]
    return json.dumps(features)  # as QuPath writes them: without a collection around


def drawn(values: tuple[int, int, int], outside: int = 0) -> Any:
    out = np.full((20, 20), outside)
    for ((y0, x0, y1, x1), _), value in zip(SQUARES, values, strict=True):
        out[y0:y1, x0:x1] = value
    return out


def write(folder: Path, truth: str, text: str | bytes) -> dict[str, Any]:
    tifffile.imwrite(folder / "image.tif", noise((20, 20)))
    (folder / truth).write_bytes(text if isinstance(text, bytes) else text.encode())
    return {"images": "image.tif", "truth": truth}


def test_polygons_of_qupath_are_classes_by_their_names_and_what_it_ignores_is_void(tmp_path: Path) -> None:
    data = write(tmp_path, "truth.geojson", geojson())
    (example,), names = list_examples(configured(tmp_path, data={**data, "kind": "classes"}))
    assert names == ("background", "Stroma", "Tumor")
    np.testing.assert_array_equal(example.truth.read(example.box), drawn((2, 1, -1)))
    np.testing.assert_array_equal(example.truth.objects(example.box), drawn((1, 2, 0)))
    for box in (Box((3, 4), (5, 8)), Box((0, 0), (1, 1)), Box((11, 11), (15, 20))):
        np.testing.assert_array_equal(example.truth.read(box), drawn((2, 1, -1))[box.slices])


def test_polygons_are_objects_or_one_class_where_they_have_none_and_void_is_outside_where_asked(tmp_path: Path) -> None:
    data = write(tmp_path, "truth.geojson", geojson(classes=False))
    (example,), names = list_examples(configured(tmp_path, data=data))
    assert names == ("background", "object")
    np.testing.assert_array_equal(example.truth.read(example.box), drawn((1, 2, 3)))
    (example,), names = list_examples(configured(tmp_path, data={**data, "kind": "classes", "outside": "void"}))
    assert names == ("background", "class 1")
    np.testing.assert_array_equal(example.truth.read(example.box), drawn((1, 1, 1), outside=-1))


def test_polygons_of_an_image_without_crs_are_in_pixels_of_level_0(tmp_path: Path) -> None:
    ingest(noise((1200, 1200)), tmp_path / "image.zarr", block=512)
    (tmp_path / "truth.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring(100, 200, 300, 600)]}))
    data = {"images": "image.zarr", "truth": "truth.geojson", "level": 1}
    (example,), _ = list_examples(configured(tmp_path, data=data))
    truth = example.truth.read(example.box)
    assert truth.sum() == 100 * 200
    assert truth[50:150, 100:300].all()


@pytest.mark.parametrize("property_name", ["name", "number"])
def test_a_geopackage_gives_classes_by_a_property(tmp_path: Path, property_name: str) -> None:
    write_geopackage(tmp_path / "truth.gpkg")
    data = write(tmp_path, "other.txt", "") | {
        "truth": "truth.gpkg",
        "kind": "classes",
        "class_property": property_name,
    }
    names = None if property_name == "name" else ("background", "Stroma", "Tumor", "Ignore")
    (example,), found = list_examples(configured(tmp_path, data={**data, "class_names": names}))
    values = (2, 1, -1) if property_name == "name" else (1, 2, 3)
    assert found == (("background", "Stroma", "Tumor") if names is None else names)
    np.testing.assert_array_equal(example.truth.read(example.box), drawn(values))


def write_geopackage(path: Path, layers: int = 1, crs: int = -1, kind: int = 3, scale: float = 1) -> None:
    """SQUARES as a GeoPackage: big-endian, little-endian and multi-polygons with z."""
    file = sqlite3.connect(path)
    file.execute("CREATE TABLE gpkg_geometry_columns (table_name, column_name, geometry_type_name, srs_id, z, m)")
    file.execute("CREATE TABLE gpkg_spatial_ref_sys (srs_id, organization, organization_coordsys_id, definition)")
    file.execute("INSERT INTO gpkg_spatial_ref_sys VALUES (-1, 'NONE', -1, 'undefined'), (32633, 'EPSG', 32633, '')")
    for k in range(layers):
        file.execute("INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'GEOMETRY', ?, 0, 0)", (f"a{k}", crs))
        file.execute(f"CREATE TABLE a{k} (fid INTEGER PRIMARY KEY, geom BLOB, name TEXT, number INTEGER)")
        for i, (box, name) in enumerate(SQUARES):
            order, points = "><<"[i], [[x * scale, y * scale] for x, y in ring(*box)]
            if i < 2:
                blob = struct.pack(f"{order}BII", order == "<", kind, 1) + struct.pack(f"{order}I", 5)
                blob += b"".join(struct.pack(f"{order}2d", *p) for p in points)
            else:
                blob = struct.pack("<BII", 1, 1006, 1) + struct.pack("<BIII", 1, 1003, 1, 5)
                blob += b"".join(struct.pack("<3d", *p, 7.0) for p in points)
            envelope = struct.pack("<4d", 0, 20, 0, 20) if i == 1 else b""
            header = b"GP" + bytes([0, 0b11 if i == 1 else 0b01]) + struct.pack("<i", crs)
            file.execute(f"INSERT INTO a{k} VALUES (?, ?, ?, ?)", (i + 1, header + envelope + blob, name, i + 1))
    file.commit()
    file.close()


def test_a_geopackage_lies_where_its_crs_says(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    profile = {"driver": "GTiff", "width": 20, "height": 20, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(tmp_path / "image.tif", "w", **profile, transform=rasterio.Affine(10, 0, 0, 0, 10, 0)) as file:
        file.write(noise((1, 20, 20)))
    write_geopackage(tmp_path / "truth.gpkg", crs=32633, scale=10)
    (example,), _ = list_examples(configured(tmp_path, data={"images": "image.tif", "truth": "truth.gpkg"}))
    np.testing.assert_array_equal(example.truth.read(example.box), drawn((1, 2, 3)))


def test_outlines_that_tilekit_wrote_are_the_objects_again(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    ids = blobs((200, 300), 30)
    label_objects((ids > 0).astype(np.uint8), tmp_path / "out.zarr", polygons="qupath")
    tifffile.imwrite(tmp_path / "image.tif", noise(ids.shape))
    data = {"images": "image.tif", "truth": "out.zarr/tables/objects.qupath.geojson"}
    (example,), _ = list_examples(configured(tmp_path, data=data))
    found = example.truth.read(example.box)
    np.testing.assert_array_equal(found > 0, ids > 0)
    shapes = trace(found.astype(np.int32), (0, 0))
    assert len(shapes) == found.max()
    assert to_wkb(shapes[1])


@pytest.mark.parametrize(
    ("name", "text", "data", "told"),
    [
        ("a.geojson", '{"type": "Point", "coordinates": [1, 2]}', {}, "a.geojson: is no GeoJSON of polygons"),
        ("a.geojson", "[]", {}, "a.geojson: holds no polygon"),
        (
            "a.geojson",
            geojson(),
            {"kind": "classes", "class_names": ("a", "Tumor")},
            "feature 2 is 'Stroma', the classes",
        ),
        (
            "a.geojson",
            geojson(),
            {"class_property": "x"},
            r"feature 1 has no x .*objectType, classification.*give it one",
        ),
        (
            "a.geojson",
            geojson(shift=-99),
            {},
            "none of its 3 polygons",
        ),
        (
            "a.gpkg",
            b"SQLite format 3\0 and no more",
            {},
            r"a.gpkg: is no GeoPackage of polygons \(.*\); export polygons",
        ),
    ],
)
def test_what_is_no_truth_is_refused(
    tmp_path: Path, name: str, text: str | bytes, data: dict[str, Any], told: str
) -> None:
    files = write(tmp_path, name, text)
    with pytest.raises(InputError, match=told) as refused:
        list_examples(configured(tmp_path, data={**files, **data}))
    assert "\n" not in str(refused.value)


def test_a_geopackage_of_several_layers_or_of_lines_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path, "other.txt", "") | {"truth": "a.gpkg"}
    write_geopackage(tmp_path / "a.gpkg", layers=2)
    with pytest.raises(InputError, match=r"has 2 layers of features \(a0, a1\), must have one"):
        list_examples(configured(tmp_path, data=files))
    (tmp_path / "a.gpkg").unlink()
    write_geopackage(tmp_path / "a.gpkg", kind=2)
    with pytest.raises(InputError, match="it holds geometries of type 2"):
        list_examples(configured(tmp_path, data=files))


def test_polygons_of_a_stack_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.geojson", geojson())
    tifffile.imwrite(tmp_path / "image.tif", noise((3, 20, 20)), photometric="minisblack")
    with pytest.raises(InputError, match=r"polygons do not say of which of the planes of image.tif"):
        list_examples(configured(tmp_path, data={"images": "image.tif", "truth": "a.geojson"}))
