"""Attributes of a place on the ground: written as the conventions have them, and read back in every dialect."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tilekit import geozarr
from tilekit.georeference import ControlPoint, Georeference
from tilekit.jobs.ingest import image_pyramid
from tilekit.jobs.output import lay_levels
from tilekit.sources import open_image
from tilekit.tiling import check_single_writer

UTM_1 = 'PROJCS["UTM",GEOGCS["WGS 84",AUTHORITY["EPSG","4326"]],UNIT["metre",1],AUTHORITY["EPSG","32633"]]'
UTM_2 = 'PROJCRS["UTM",BASEGEOGCRS["WGS 84"],CS[Cartesian,2],LENGTHUNIT["metre",1],ID["EPSG",32633]]'
FEET = 'PROJCS["Texas",GEOGCS["NAD83",UNIT["degree",0.017]],UNIT["US survey foot",0.3048]]'
DEGREES_1 = 'GEOGCS["WGS 84",AUTHORITY["EPSG","4326"]]'
DEGREES_2 = 'GEOGCRS["Moon",DATUM["Moon"],CS[ellipsoidal,2],ANGLEUNIT["degree",0.017]]'
BOUND = 'BOUNDCRS[SOURCECRS[GEOGCRS["x"]],TARGETCRS[GEOGCRS["WGS 84"]]]'
COMPOUND = 'COMPD_CS["x + height",PROJCS["UTM",GEOGCS["WGS 84"]],VERT_CS["height"]]'
TRANSFORM = (10.0, 0.1, 500000.0, 0.2, -10.0, 6000000.0)


@pytest.mark.parametrize(
    ("crs", "geographic"),
    [(UTM_1, False), (UTM_2, False), (DEGREES_1, True), (DEGREES_2, True), (BOUND, True), (COMPOUND, False)],
)
def test_angles_or_lengths(crs: str, geographic: bool) -> None:
    assert geozarr.is_geographic(crs) == geographic


@pytest.mark.parametrize(
    ("crs", "code", "wkt2"),
    [(UTM_1, "EPSG:32633", None), (UTM_2, "EPSG:32633", UTM_2), (FEET, None, None), (DEGREES_2, None, DEGREES_2)],
)
def test_proj_says_only_what_its_convention_allows(crs: str, code: str | None, wkt2: str | None) -> None:
    """WKT 1 may not stand for WKT 2; a convention that says nothing is not announced."""
    attributes = geozarr.array_attributes(Georeference(crs, TRANSFORM), 0, (3, 4), "0.5")
    assert (attributes.get("proj:code"), attributes.get("proj:wkt2")) == (code, wkt2)
    assert attributes["_CRS"] == {"wkt": crs}
    names = [convention["name"] for convention in attributes["zarr_conventions"]]
    assert names == (["proj:", "spatial:"] if code or wkt2 else ["spatial:"])


def test_conventions_of_a_pyramid() -> None:
    attributes = geozarr.group_attributes(Georeference(UTM_2, TRANSFORM), [(5, 9), (3, 5)])
    for convention in attributes["zarr_conventions"]:
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", convention["uuid"])
        assert {"name", "schema_url", "spec_url", "description"} < convention.keys()
    assert attributes["spatial:dimensions"] == ["y", "x"]
    assert attributes["multiscales"]["layout"] == [
        {"asset": "0", "spatial:shape": [5, 9], "spatial:transform": [10.0, 0.1, 500000.0, 0.2, -10.0, 6000000.0]},
        {
            "asset": "1",
            "derived_from": "0",
            "transform": {"scale": [2.0, 2.0], "translation": [0.0, 0.0]},
            "spatial:shape": [3, 5],
            "spatial:transform": [20.0, 0.2, 500000.0, 0.4, -20.0, 6000000.0],
        },
    ]
    assert json.loads(json.dumps(attributes)) == attributes


@pytest.mark.parametrize(
    ("crs", "name", "units"),
    [
        (UTM_1, "projection_x_coordinate", "m"),
        (UTM_2, "projection_x_coordinate", "m"),
        (FEET, "projection_x_coordinate", "US_survey_foot"),
        (DEGREES_1, "longitude", "degrees_east"),
        (None, None, None),
    ],
)
def test_coordinates_are_pixel_centers(crs: str | None, name: str | None, units: str | None) -> None:
    place = Georeference(crs, (10.0, 0.0, 500000.0, 0.0, -5.0, 6000000.0))
    coordinates = geozarr.coordinates(place, (2, 3))
    assert coordinates["x"][0].tolist() == [500005.0, 500015.0, 500025.0]
    assert coordinates["y"][0].tolist() == [5999997.5, 5999992.5]
    told = coordinates["x"][1]
    assert (told["axis"], told.get("standard_name"), told.get("units")) == ("X", name, units)


def test_askew_images_have_no_coordinates() -> None:
    assert geozarr.coordinates(Georeference(UTM_1, TRANSFORM), (2, 3)) == {}


def test_gdals_order_of_the_transform() -> None:
    mapping = geozarr.grid_mapping_attributes(Georeference(UTM_1, TRANSFORM))
    assert mapping["GeoTransform"] == "500000.0 10.0 0.1 6000000.0 0.2 -10.0"


@pytest.mark.parametrize(
    "place",
    [
        Georeference(UTM_1, TRANSFORM),
        Georeference(None, (1 / 3, 0.0, 1e-9, 0.0, -1 / 7, 0.1)),
        Georeference(UTM_2, None, (ControlPoint(0.5, 1.25, 2, 3), ControlPoint(7, 8, 9, 10, 11))),
        Georeference(UTM_2),
    ],
)
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_written_and_read(place: Georeference, version: str) -> None:
    array = geozarr.array_attributes(place, 2, (3, 4), version)
    assert array["grid_mapping"] == "spatial_ref_2"
    mapping = json.loads(json.dumps(geozarr.grid_mapping_attributes(place)))
    assert geozarr.parse_georeference(array, {}, mapping, None) == place


def test_each_dialect_alone_is_enough() -> None:
    straight = (10.0, 0.0, 500000.0, 0.0, -10.0, 6000000.0)
    parse = geozarr.parse_georeference
    assert parse({"_CRS": {"wkt": UTM_1}}, {}, {}, straight) == Georeference(UTM_1, straight)
    geo = {"proj:wkt2": UTM_2, "spatial:transform": list(TRANSFORM)}
    assert parse(geo, {}, {}, None) == Georeference(UTM_2, TRANSFORM)
    assert parse({"spatial:transform": list(TRANSFORM)}, {"proj:code": "EPSG:4326"}, {}, None) == Georeference(
        "EPSG:4326", TRANSFORM
    )
    assert parse({}, {}, {}, None) is None


@pytest.mark.parametrize("broken", [{"GeoTransform": "1 2 3"}, {"GeoTransform": "a b c d e f"}, {"gcps": "{"}])
def test_what_cannot_be_read_is_left_out(broken: dict[str, str]) -> None:
    assert geozarr.parse_georeference({"_CRS": 5, "spatial:transform": "?"}, {}, broken, None) is None


def test_transform_of_centers() -> None:
    y, x = 6e6 - 5 - 10 * np.arange(4), 5e5 + 5 + 10 * np.arange(5)
    assert geozarr.transform_of_centers(y, x) == (10.0, 0.0, 5e5, 0.0, -10.0, 6e6)
    assert geozarr.transform_of_centers(y, 5e5 + np.arange(5.0) ** 2) is None  # uneven
    assert geozarr.transform_of_centers(y[:1], x) is None  # no step


@pytest.mark.parametrize(
    ("side", "planes", "chunk", "sharded", "expected"),
    [
        (20_000, 3, None, False, 512),  # 6 * 10^3 files
        (100_000, 3, None, False, 1024),  # 1.5 * 10^5 at 512
        (1_000_000, 1, None, False, 2048),  # 5 * 10^6 at 512, and no larger than a viewer likes
        (1_000_000, 1, None, True, 512),
        (1_000_000, 1, 256, False, 256),  # as asked for
    ],
)
def test_chunks_grow_where_files_would_be_too_many(
    side: int, planes: int, chunk: int | None, sharded: bool, expected: int
) -> None:
    levels, passes = lay_levels((side, side), 4096, planes, chunk=chunk, sharded=sharded)
    assert levels[0].chunk == expected
    assert (levels[0].shard == expected) == (not sharded)
    check_single_writer(levels, passes)


@pytest.mark.parametrize(("asked", "place", "sharded"), [(None, None, True), (None, 1, False), (True, 1, True)])
def test_an_image_on_the_ground_has_no_shards_unless_asked_for(
    tmp_path: Path, asked: bool | None, place: int | None, sharded: bool
) -> None:
    source = replace(open_image(np.zeros((5000, 5000), "uint8")), georeference=Georeference(UTM_1) if place else None)
    pyramid = image_pyramid(source, tmp_path, block=None, version="0.5", sharded=asked)
    assert (pyramid.levels[0].shard != pyramid.levels[0].chunk) == sharded
