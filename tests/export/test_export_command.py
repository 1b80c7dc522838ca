"""The command: names that say the format, figures as JSON, refusals in one line, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from flows.main import main
from tests.export.stores import blobs, make_store
from tilekit import label_objects
from tilekit.errors import InputError
from tilekit.jobs.export import export_store
from tilekit.lock import lock
from tilekit.run import SerialRunner
from tilekit.sources import open_image

pytest.importorskip("rasterio")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stores")
    make_store(folder / "placed.zarr", blobs((200, 220)), "EPSG:32633", probabilities="uint8")
    make_store(folder / "plain.zarr", blobs((200, 220)))
    make_store(folder / "unlabeled.zarr", blobs((200, 220)), objects=False)
    label_objects(blobs((200, 220)), folder / "objects.zarr")
    label_objects(np.zeros((20, 20), np.uint8), folder / "empty.zarr")
    label_objects(blobs((3, 60, 70)), folder / "stack.zarr")
    return {path.stem: path for path in folder.iterdir()}


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, Any]:
    monkeypatch.setattr(sys, "argv", ["tilekit", "export", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out or captured.err


@pytest.mark.parametrize(
    ("store", "name", "options", "format", "what"),
    [
        ("placed", "a.tif", [], "cog", "classes"),
        ("plain", "a.tif", [], "ome-tiff", "classes"),
        ("plain", "a.tif", ["--format", "cog"], "cog", "classes"),
        ("placed", "a.ome.tif", ["--what", "objects"], "ome-tiff", "objects"),
        ("placed", "a.tiff", ["--what", "probabilities"], "cog", "probabilities"),
        ("placed", "a.geojson", [], "geojson", "objects"),
        ("placed", "a.qupath.geojson", [], "qupath", "objects"),
        ("plain", "a.geojson", [], "qupath", "objects"),
        ("plain", "a.parquet", [], "geoparquet", "objects"),
        ("objects", "a.json", [], "qupath", "objects"),
        ("stack", "a.geojson", [], "qupath", "objects"),
        ("stack", "a.tif", ["--what", "objects"], "ome-tiff", "objects"),
        ("placed", "deep/er/a.tif", ["--what", "image"], "cog", "image"),
    ],
)
def test_the_format_follows_from_the_name(
    stores: dict[str, Path],
    store: str,
    name: str,
    options: list[str],
    format: str,
    what: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, said = call(capsys, monkeypatch, str(stores[store]), str(tmp_path / name), *options, "--json")
    assert code == 0, said
    facts = json.loads(said)
    assert (facts["format"], facts["what"], facts["output"]) == (format, what, str(tmp_path / name))
    assert facts["bytes"] == (tmp_path / name).stat().st_size
    assert not list((tmp_path / name).parent.glob("*.exporting"))


def test_without_a_name_the_file_lies_beside_the_store(
    stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(stores["plain"], tmp_path / "scan.zarr")
    for options, name in (([], "scan-classes.ome.tif"), (["--format", "geoparquet"], "scan-objects.parquet")):
        assert call(capsys, monkeypatch, str(tmp_path / "scan.zarr"), *options)[0] == 0
        assert (tmp_path / name).exists()


REFUSED: list[tuple[str, str, list[str], str]] = [
    ("unlabeled", "a.geojson", [], "has no labels/objects; run tilekit label first"),
    ("objects", "a.tif", [], "has no labels/classes; run tilekit segment first"),
    ("plain", "a.tif", ["--what", "probabilities"], "has no probabilities; segment it with --probabilities"),
    ("objects", "a.tif", ["--what", "image"], "has no image; name a store with an image"),
    ("plain", "a.xyz", [], "a.xyz: its name says of no format; end it with .tif, .geojson or .parquet, or"),
    ("plain", "a.geojson", ["--format", "geojson"], "has no CRS and transform"),
    ("plain", "a.geojson", ["--what", "classes"], "polygons are those of objects, not of classes; leave --what out"),
    ("plain", "a.tif", ["--z", "1"], "z 1 asked for, the image has 0 positions along z; leave it out"),
    ("stack", "a.geojson", ["--z", "1"], "polygons are written of all planes"),
    ("stack", "a.tif", ["--what", "objects", "--format", "cog"], "has 3 positions along z, a GeoTIFF is of one"),
    ("empty", "a.parquet", [], "has no object, and GeoParquet takes its columns from one; choose geojson"),
    ("plain", ".", ["--format", "cog"], "exists and is a folder; name a file"),
    ("plain", "a.tif", ["--what", "cells"], "--what cells: input should be 'classes', 'objects'"),
    ("plain", "a.tif", ["--format", "shp"], "--format shp: input should be 'cog', 'ome-tiff'"),
]


@pytest.mark.parametrize(("store", "name", "options", "told"), REFUSED)
def test_what_cannot_be_exported_is_one_line_and_status_2(
    stores: dict[str, Path],
    store: str,
    name: str,
    options: list[str],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, said = call(capsys, monkeypatch, str(stores[store]), str(tmp_path / name), *options)
    assert (code, said.count("\n")) == (2, 1), said
    assert told in said
    assert not list(tmp_path.iterdir())


def test_no_store_and_an_incomplete_store_are_refused(stores: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no Zarr store; name an output of tilekit"):
        export_store(tmp_path, tmp_path / "a.tif", SerialRunner())
    out = tmp_path / "cut.zarr"
    shutil.copytree(stores["plain"], out)
    (out / ".tilekit/predict/ledger.jsonl").write_text("")
    with pytest.raises(InputError, match="classes not complete; run the command that makes them again first"):
        export_store(out, tmp_path / "a.tif", SerialRunner())
    (out / ".tilekit/label-work").mkdir()
    with pytest.raises(InputError, match="objects not complete"):
        export_store(out, tmp_path / "a.geojson", SerialRunner())


def test_ids_of_64_bits_are_refused_but_as_polygons(stores: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "big.zarr"
    shutil.copytree(stores["objects"], out)
    place = str(out / "labels/objects/0")
    old = zarr.open_array(place, mode="r")
    ids, options = np.asarray(old[:]), {"chunks": old.chunks, "dimension_names": ["y", "x"], "fill_value": 0}
    zarr.create_array(place, data=ids.astype(np.uint64), overwrite=True, **options)
    for format in ("cog", "ome-tiff"):
        with pytest.raises(InputError, match="ids of 64 bits, which few programs read in a TIFF"):
            export_store(out, tmp_path / "a.tif", SerialRunner(), what="objects", format=format)
    export_store(out, tmp_path / "a.geojson", SerialRunner())
    assert len(json.loads((tmp_path / "a.geojson").read_text())["features"]) == ids.max()


def test_an_empty_map_is_an_empty_collection(stores: dict[str, Path], tmp_path: Path) -> None:
    export_store(stores["empty"], tmp_path / "a.geojson", SerialRunner())
    assert json.loads((tmp_path / "a.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


def test_two_exports_of_one_file_exclude_each_other(stores: dict[str, Path], tmp_path: Path) -> None:
    with lock(tmp_path / "a.tif.exporting"), pytest.raises(InputError, match="another run is writing it"):
        export_store(stores["plain"], tmp_path / "a.tif", SerialRunner())


@pytest.mark.parametrize("ending", ["tif", "ome.tif"])
def test_a_killed_export_leaves_no_file_and_the_next_one_cleans_up(ending: str, tmp_path: Path) -> None:
    out, path = tmp_path / "o.zarr", tmp_path / f"a.{ending}"
    tiles = np.tile(blobs((1024, 1024)), (3, 3))
    tiles[tiles == 255] = 0
    label_objects(open_image(tiles), out)
    command = [sys.executable, "-m", "flows.main", "export", str(out), str(path), "--what", "objects"]
    command += ["--format", "cog"] if ending == "tif" else []
    running = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not [p for p in tmp_path.glob("*.exporting/**/*") if p.is_file() and p.stat().st_size > 1000]:
        assert running.poll() is None, "it was over before it could be killed"
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not path.exists()
    assert list(tmp_path.glob("*.exporting"))
    export_store(out, path, SerialRunner(), what="objects", format="cog" if ending == "tif" else None)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "o.zarr"]


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from flows.main import main
main()
"""


@pytest.mark.parametrize(("format", "missing"), [("cog", 1), ("ome-tiff", 20_000)])
def test_a_full_disk_is_a_failed_run_and_no_file(format: str, missing: int, tmp_path: Path) -> None:
    """GDAL tells of nothing that fails when it closes a file: the last bytes are those that matter."""
    label_objects(np.where((tiles := blobs((700, 800))) == 255, 0, tiles), tmp_path / "o.zarr")
    options: dict[str, Any] = {"what": "objects", "format": format}
    whole = export_store(tmp_path / "o.zarr", tmp_path / "whole.tif", SerialRunner(), **options)["bytes"]
    arguments = [str(whole - missing), "export", str(tmp_path / "o.zarr"), str(tmp_path / "a.tif"), "--what", "objects"]
    run = subprocess.run(
        [sys.executable, "-c", FULL, *arguments, "--format", format], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1, run.stderr
    assert "a.tif" in run.stderr
    assert "Traceback" not in run.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.zarr", "whole.tif"]
