"""Inputs that broke something once, by what they broke: group, door, bytes."""

from __future__ import annotations

import io
import json
import struct
from zipfile import ZipFile

from tests.fuzz.doors_networks import LAUGHS
from tests.fuzz.doors_texts import endless_geopackage
from tests.fuzz.doors_zarr import shard_of

DEEP = b'{"a":' * 50000
LONG = b"9" * 5000
FEATURE = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9]]]}}


def _ledger(**changes: object) -> bytes:
    line = {"blocks": {"0": [["labels/classes/0/c/0/0", 9, "00000000"]]}, "summary": {}, "requests": 1, "each": {}}
    return json.dumps(line | changes).encode()


def _features(**changes: object) -> bytes:
    return json.dumps({"type": "FeatureCollection", "features": [FEATURE | changes]}).encode()


def _dataset(path: str, size: float = 1) -> bytes:
    axes = [{"name": a, "type": "space"} for a in "yx"]
    scale = {"type": "scale", "scale": [1, size]}
    image = {"axes": axes, "datasets": [{"path": path, "coordinateTransformations": [scale]}]}
    return json.dumps({"ome": {"version": "0.5", "multiscales": [image]}}).encode()


def _zip_of_no_text() -> bytes:
    """An archive with a name that claims to be UTF-8 and is none."""
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        archive.writestr("é", b"")
    return buffer.getvalue().replace("é".encode(), b"\xff\xff")


FOUND: dict[str, tuple[str, str, bytes]] = {
    "a document nested too deep": ("zarr", "array-3", DEEP),
    "an attribute nested too deep": ("ngff", "0.5-labels", DEEP),
    "a pixel of no size": ("ngff", "0.5-root", _dataset("0", 0)),
    "a number for a group": ("zarr", "group-2", b"127"),
    "a number for consolidated metadata": ("zarr", "consolidated-2", b'{"metadata":{"0/.zarray":3}}'),
    "a group that says it is an array": ("zarr", "consolidated-3", b'{"zarr_format":3,"node_type":"array"}'),
    "a chunk of a shard that is longer than memory": ("zarr", "shard", shard_of(0, 1 << 60)),
    "a chunk behind the end of its shard": ("zarr", "shard", shard_of(1 << 62, 9)),
    "a chunk of a shard read by zarr, likewise": ("zarr", "shard-by-zarr", shard_of(0, 1 << 60)),
    "a level with a name that no disk takes": ("ngff", "0.5-root", _dataset("1" * 400)),
    "a level outside of the store": ("ngff", "0.5-root", _dataset("../finished.zarr/0")),
    "a scale that is no float": ("ngff", "0.5-root", _dataset("0").replace(b"[1, 1]", b"[1, 1%s]" % (b"0" * 400))),
    "a scene of scores that is none": ("texts", "scores", b'{"first":16}'),
    "scores without their numbers": ("texts", "scores", b'{"kind":"classes","confusion":[[1]]}'),
    "a column whose name is a page": ("texts", "pairs", bytes(1000)),
    "scores nested too deep": ("texts", "scores", DEEP),
    "properties that are a number": ("texts", "geojson", _features(properties=16)),
    "a point of one number": ("texts", "area", _features(geometry={"type": "Polygon", "coordinates": [[[1], [2]]]})),
    "a coordinate that is no float": ("texts", "geojson", _features().replace(b"[9, 9]", b"[9, 1%s]" % (b"0" * 400))),
    "a GeoPackage that never ends": ("texts", "geopackage", endless_geopackage()),
    "a number of 5000 digits in a TOML": ("texts", "training", b"[data]\ntruth = " + LONG),
    "a column of 5000 digits": ("texts", "batch", b"image," + LONG + b"\na,b\n"),
    "a channel of 5000 digits": ("texts", "batch", b"image,channels\na.tif," + LONG + b"\n"),
    "a URL that is no URL": ("texts", "pairs", b"image,truth\ns3://[/a.tif,b.tif\n"),
    "a home that nobody has": ("options", "place", b"~nobody\xe5/a.tif"),
    "a name that no disk takes": ("options", "place", b"a" * 300),
    "an origin that is no URL": ("options", "small", b"https://[["),
    "bytes without end": ("options", "small", LONG),
    "boxes that are no boxes": ("outputs", "boxes", b"[[[0,0],3],1e300]"),
    "boxes that are no JSON": ("outputs", "boxes", b"[[[0,\xe5"),
    "boxes nested too deep": ("outputs", "boxes", b"[" * 100000),
    "a lock nested too deep": ("outputs", "lock", DEEP),
    "a summary that is no sum": ("outputs", "ledger", _ledger(each={"0": {"classes": 3}})),
    "a request that is no number": ("outputs", "ledger", _ledger(requests="1")),
    "shards that are no record": ("outputs", "ledger", _ledger(blocks={"0": [["a"]]})),
    "a shard that never ends": ("outputs", "ledger", _ledger(blocks={"0": [["/dev/zero", 0, "0"]]})),
    "a shard below a shard": ("outputs", "ledger", _ledger(blocks={"0": [["labels/classes/0/c/0/0/0", 9, "0"]]})),
    "blocks that are no number": ("outputs", "arguments", b'{"blocks":null}'),
    "more blocks than memory": ("outputs", "arguments", b'{"blocks":4611686018427387904}'),
    "a core that is none": ("outputs", "core", b"3"),
    "a table that is torn": ("outputs", "table", b"PAR1" + b"\0" * 60 + struct.pack("<I", 50) + b"PAR1"),
    "a description of 10^9 references": ("networks", "yaml", LAUGHS),
    "a description nested too deep": ("networks", "yaml", b"type: " + b"[" * 5000),
    "a gain of zero": (
        "networks",
        "yaml",
        b"inputs: [{axes: bcyx, preprocessing: [{name: scale_linear, kwargs: {gain: 0}}]}]\n"
        b"outputs: [{axes: bcyx}]\nweights: {onnx: {source: a}}",
    ),
    "a package with a name that is no text": ("networks", "zip", _zip_of_no_text()),
    "weights that never end": ("networks", "toml", b'onnx = "/dev/zero"'),
    "weights outside of the package": (
        "networks",
        "yaml",
        b"inputs: [{axes: bcyx}]\noutputs: [{axes: bcyx}]\nweights: {onnx: {source: ../../etc/passwd}}",
    ),
    "a name in two lines": ("networks", "toml", b'onnx = "a\\nb"'),
    "a name with a zero": ("networks", "toml", b'onnx = "\\u0000"'),
    "a TOML nested too deep": ("networks", "toml", b"import = " + b"[" * 100000),
    "measurements nested too deep": ("networks", "probe", DEEP),
}
