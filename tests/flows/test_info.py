"""What `tilekit info` says: every fact of a source, for programs under stable keys, for people with units."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from flows.info import crs_name, epsg_code, facts_for_people, image_facts
from tests.faults.harness import call
from tilekit import ingest, open_image
from tilekit.georeference import ControlPoint, Georeference

WKT1 = 'PROJCS["WGS 84 / UTM 33N",GEOGCS["WGS 84",AUTHORITY["EPSG","4326"]],UNIT["metre",1],AUTHORITY["EPSG","32633"]]'
WKT2 = 'GEOGCRS["WGS 84",DATUM["World Geodetic System 1984",ELLIPSOID["WGS 84",6378137,298.25]],ID["EPSG",4326]]'
OWN = 'PROJCS["local grid",GEOGCS["WGS 84",AUTHORITY["EPSG","4326"]],UNIT["metre",1,AUTHORITY["EPSG","9001"]]]'


def test_a_crs_is_told_by_name_and_by_the_code_of_itself_not_of_its_parts() -> None:
    assert [(crs_name(w), epsg_code(w)) for w in (WKT1, WKT2, OWN, "EPSG:3857")] == [
        ("WGS 84 / UTM 33N", 32633),
        ("WGS 84", 4326),
        ("local grid", None),
        ("EPSG:3857", 3857),
    ]


@pytest.mark.parametrize("version", ["WKT1_GDAL", "WKT2_2019"])
@pytest.mark.parametrize("code", [4326, 32633, 3035, 2056])
def test_the_code_is_the_one_that_proj_wrote(version: str, code: int) -> None:
    pyproj = pytest.importorskip("pyproj")
    crs = pyproj.CRS.from_epsg(code)
    wkt = crs.to_wkt(version=version)
    assert epsg_code(wkt) == code
    assert crs_name(wkt) == crs.name


def test_every_fact_of_a_source_is_told() -> None:
    plain = open_image(np.zeros((2, 30, 40), np.uint16), pixel_size=(0.5, 0.25), nodata=0)
    full = replace(
        plain,
        channel_names=("DAPI", "mask"),
        wavelengths=(461.0, None),
        value_scale=((0.1, -5.0), (1.0, 0.0)),
        color_table=((0, 0, 0, 255),) * 7,
        alpha=1,
        mask=open_image(np.ones((30, 40), np.uint8)),
        georeference=Georeference(WKT1, (10.0, 0.0, 5e5, 0.0, -10.0, 6e6), (ControlPoint(0, 0, 1, 2),) * 4),
        translation=(1.0, 2.0),
    )
    facts = json.loads(json.dumps(image_facts("scan.tif", full)))
    assert {k: v for k, v in facts.items() if k != "tiling"} == {
        "image": "scan.tif",
        "shape": [2, 30, 40],
        "axes": "cyx",
        "dtype": "uint16",
        "level": 0,
        "levels": [[2, 30, 40]],
        "pixel_size": [0.5, 0.25],
        "translation": [1.0, 2.0],
        "channels": ["DAPI", "mask"],
        "wavelengths": [461.0, None],
        "value_scale": [[0.1, -5.0], [1.0, 0.0]],
        "color_table": 7,
        "nodata": 0,
        "alpha": 1,
        "mask": [30, 40],
        "crs": "WGS 84 / UTM 33N",
        "epsg": 32633,
        "wkt": WKT1,
        "transform": [10.0, 0.0, 5e5, 0.0, -10.0, 6e6],
        "gcps": 4,
        "readers": None,
    }
    shown = facts_for_people(facts)
    assert "wkt" not in shown
    assert (shown["nodata"], shown["alpha"], shown["pixel_size"]) == (0, "channel 1", "0.5 x 0.25 µm (y, x)")
    assert shown["value_scale"] == ["0.1 · pixel + -5", "1 · pixel + 0"]
    bare = image_facts("bare.npy", open_image(np.zeros((3, 4), np.uint8)))
    assert bare.keys() == facts.keys()
    assert list(facts_for_people(bare)) == [
        "image", "shape", "axes", "dtype", "levels", "pixel_size", "channels", "nodata", "crs", "tiling",
    ]  # fmt: skip


def test_options_say_what_the_file_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((5, 32, 48), np.float32), photometric="minisblack")
    given = ["--axes", "tyx", "--t", "2", "--pixel-size", "0.5,0.4", "--nodata", "nan"]
    facts = json.loads(call("info", str(path), *given, "--json").stdout)
    assert (facts["axes"], facts["shape"], facts["pixel_size"], facts["nodata"]) == ("yx", [32, 48], [0.5, 0.4], "nan")
    refused = call("info", str(path), "--axes", "tyx", "--t", "5")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    lines = call("info", str(path), *given).stdout.splitlines()
    assert "pixel size  0.5 x 0.4 µm (y, x)" in lines
    assert "nodata      nan" in lines


def test_of_a_store_of_its_own_it_says_who_can_read_it(tmp_path: Path) -> None:
    store = tmp_path / "out.zarr"
    ingest(np.zeros((32, 32), np.uint16), store)
    facts = json.loads(call("info", str(store), "--json").stdout)
    told = {r["name"]: (r["copes"], r["why"]) for r in facts["readers"]}
    assert told["neuroglancer"][0] is True
    assert told["QGIS with GDAL 3.10 or older"][0] is False
    lines = call("info", str(store)).stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("readers"))
    assert [line.split(maxsplit=1)[0] for line in lines[first + 1 :]] == [name.split()[0] for name in told]
