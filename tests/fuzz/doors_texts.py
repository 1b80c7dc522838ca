"""Texts and tables that people write or export: the TOML of a training, CSV, GeoJSON, GeoPackage, scores."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from functools import cache
from pathlib import Path

import numpy as np

from flows.images import list_images
from flows.looking.report import _scores, find_scores
from flows.params import SegmentParameters
from flows.training.config import Config, commented, read_config
from flows.training.files import list_files
from tests.flows.training.test_truth import write_geopackage
from tests.fuzz.doors import Door, room
from tests.fuzz.seeds import N, geotiff, pixels
from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.jobs.area import open_area
from tilekit.jobs.drawing import open_vector
from tilekit.sources import Source, open_image


@cache
def image(placed: bool = False) -> Source:
    """48 x 48 pixels; `placed`: with a CRS."""
    if not placed:
        return open_image(pixels(N, N))
    path = room() / "placed.tif"
    path.write_bytes(geotiff())
    return open_image(path)


def _at(name: str, data: bytes) -> Path:
    path = room() / name
    path.write_bytes(data)
    return path


def read_area(data: bytes) -> int:
    """As --mask, on an image with and without a place: where it lies in one, it seldom does in the other."""
    path, found, refusal = str(_at("area.geojson", data)), [], None
    for source in (image(), image(placed=True)):
        try:
            area = open_area(path, source)
        except InputError as error:
            refusal = error
        else:
            assert area is not None
            found.append(np.count_nonzero(area.where(Box((0, 0), (N, N)))))
    if refusal is not None and not found:
        raise refusal
    return sum(found)


def read_truth(name: str, data: bytes) -> str:
    """As the truth of a training, and as that of a score."""
    vector = open_vector(_at(name, data))
    if vector is None:
        return "no vectors"
    found = vector.kinds(None)
    for names in (None, ["background", "cell"]):
        shapes = vector.shapes(image(), names)
        shapes.read(Box((0, 0), (N, N)))
        shapes.objects(Box((0, 0), (N, N)))
    return f"{found}"


def read_training(data: bytes) -> str:
    return repr(read_config(_at("training.toml", data)))


def read_batch(data: bytes) -> int:
    return len(list_images(_at("images.csv", data), room() / "outputs", SegmentParameters()))


def read_pairs(data: bytes) -> int:
    path = _at("pairs.csv", data)
    config = Config.model_validate({"data": {"images": str(path)}, "file": room() / "training.toml"})
    return len(list_files(config))


def read_scores(data: bytes) -> str:
    """Beside a store, as its report reads them."""
    folder = room() / "store-scores"
    folder.mkdir(exist_ok=True)
    (folder / "scores.json").write_bytes(data)
    return str([_scores(found, {}) for found in find_scores(room() / "store.zarr")])


def _geopackage() -> list[bytes]:
    path = room() / "seed.gpkg"
    write_geopackage(path)
    return [path.read_bytes()]


def endless_geopackage() -> bytes:
    """Whose layer is a view with rows without end."""
    path = room() / "endless.gpkg"
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE gpkg_geometry_columns (table_name, column_name, srs_id)")
        file.execute("INSERT INTO gpkg_geometry_columns VALUES ('a', 'geom', 0)")
        file.execute(
            "CREATE VIEW a AS WITH RECURSIVE c(rowid) AS (SELECT 1 UNION ALL SELECT rowid + 1 FROM c) "
            "SELECT rowid, zeroblob(1000) AS geom FROM c"
        )
        file.commit()
    return path.read_bytes()


SQUARE = [[4, 4], [20, 4], [20, 20], [4, 20], [4, 4]]
AREA = {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"class": "cell"}}]}
AREA["features"][0]["geometry"] = {"type": "MultiPolygon", "coordinates": [[SQUARE, [[6, 6], [9, 6], [9, 9]]]]}  # type: ignore[index]
PLACED = {"type": "Polygon", "coordinates": [[[15.0, 54.14], [15.01, 54.14], [15.01, 54.15]]]}
QUPATH = [{"type": "Feature", "geometry": AREA["features"][0]["geometry"]}]  # type: ignore[index]
QUPATH[0]["properties"] = {"objectType": "annotation", "classification": {"name": "cell", "color": [1, 2, 3]}}
SCORES = {"kind": "classes", "miou": 0.5, "confusion": [[3, 1], [0, 4]], "unpredicted": [0, 0]}
SCORES |= {"iou": [0.7, 0.8], "dice": [0.8, 0.9], "precision": [1.0, None], "recall": [0.7, 1.0]}


def _json(*documents: object) -> list[bytes]:
    return [json.dumps(d, separators=(",", ":")).encode() for d in documents]


TRAINING = b"""[data]
images = "a/*.tif"
truth = "b/*.tif"
kind = "classes"
map = "0=0,255=1,-1=void"
class_names = ["background", "cell"]
pixel_size = 0.5
[network]
base = 16
[augment]
[training]
steps = 100
"""
DOORS = (
    Door("training", lambda: [TRAINING, commented().encode()[:6000]], read_training),
    Door("batch", lambda: [b'image,pixel_size,channels,mask\na.tif,0.5,"0,1",\nb.tif,10m,,auto\n'], read_batch),
    Door("pairs", lambda: [b"image,truth,group\na.tif,b.tif,g\ns3://bucket/a.tif,c.tif,h\n"], read_pairs),
    Door("area", lambda: _json(AREA, PLACED), read_area),
    Door("geojson", lambda: _json(AREA, QUPATH), lambda data: read_truth("truth.geojson", data)),
    Door("geopackage", _geopackage, lambda data: read_truth("truth.gpkg", data)),
    Door("scores", lambda: _json(SCORES, {"first": SCORES}), read_scores),
)
