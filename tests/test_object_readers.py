"""labels/objects beside the image and its class map, as other readers see them: values, sizes, place."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

import tilekit
from tests.oracles import PlainFilter, structured_image
from tests.test_label import whole_image
from tilekit.georeference import Georeference
from tilekit.pyramid import halve_labels
from tilekit.sources import open_image

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
TRANSFORM = (10.0, 0.0, 500000.0, 0.0, -10.0, 6000000.0)
FORMS = {
    "0.5 sharded": {"ngff": "0.5", "shards": True},
    "0.5 unsharded": {"ngff": "0.5", "shards": False},
    "0.4": {"ngff": "0.4"},
}


@pytest.fixture(scope="module", params=FORMS)
def output(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image in UTM, its class map and its objects."""
    out = tmp_path_factory.mktemp("objects") / "out.zarr"
    place = Georeference(str(rasterio.crs.CRS.from_epsg(32633).to_wkt()), TRANSFORM)
    image = open_image(structured_image((700, 1040), np.uint8, seed=3), pixel_size=(1e7, 1e7))
    tilekit.ingest(replace(image, georeference=place), out, **FORMS[request.param])
    tilekit.predict(out, PlainFilter(stride=(8, 8), n_classes=4), out, tile=120, block=256)
    tilekit.label_objects(out / "labels/classes", out, block=256)
    return out


@pytest.fixture(scope="module")
def levels(output: Path) -> list[np.ndarray]:
    """All levels as they must be."""
    classes = zarr.open_array(str(output / "labels/classes/0"), mode="r")[:]
    found = [whole_image(np.asarray(classes), 8).astype(np.uint32)]
    while max(found[-1].shape) > 512:
        found.append(halve_labels(found[-1]))
    return found


def test_zarr_reads_every_level(output: Path, levels: list[np.ndarray]) -> None:
    arrays = [zarr.open_array(str(output / f"labels/objects/{k}"), mode="r") for k in range(len(levels))]
    for array, wanted in zip(arrays, levels, strict=True):
        assert array.dtype == wanted.dtype
        np.testing.assert_array_equal(array[:], wanted)
    classes = zarr.open_array(str(output / "labels/classes/0"), mode="r")
    assert (arrays[0].chunks, arrays[0].shards is None) == (classes.chunks, classes.shards is None)


def test_ome_readers_list_image_classes_and_objects(output: Path, levels: list[np.ndarray]) -> None:
    import yaozarrs
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    yaozarrs.validate_zarr_store(str(output / "labels/objects"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*version mismatch.*")
        location = parse_url(str(output))
        assert location is not None
        _, _, classes, objects = list(Reader(location)())
    assert "objects" in objects.metadata["name"]
    np.testing.assert_array_equal(classes.data[0] > 0, objects.data[0] > 0)
    for found, wanted in zip(objects.data, levels, strict=True):
        np.testing.assert_array_equal(found.compute(scheduler="sync"), wanted)
    transformations = objects.metadata["coordinateTransformations"]
    assert [level[0]["scale"] for level in transformations] == [[1e7 * 2**k, 1e7 * 2**k] for k in range(len(levels))]


def test_naparis_reader_shows_the_objects(output: Path, levels: list[np.ndarray]) -> None:
    npe2 = pytest.importorskip("npe2")
    pytest.importorskip("napari_ome_zarr")
    from npe2.io_utils import read

    npe2.PluginManager.instance().discover()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = read([str(output)], plugin_name="napari-ome-zarr", stack=False)
    labels = [(data, meta) for data, meta, kind in layers if kind == "labels"]
    assert len(labels) == 2
    data, meta = next((d, m) for d, m in labels if np.asarray(d[0]).max() == levels[0].max())
    assert "objects" in str(meta["name"])
    np.testing.assert_array_equal(np.asarray(data[0]).reshape(levels[0].shape), levels[0])
    assert list(meta["scale"])[-2:] == [1e7, 1e7]


def test_rioxarray_places_the_objects(output: Path, levels: list[np.ndarray]) -> None:
    pytest.importorskip("rioxarray")
    import xarray

    dropped = [str(k) for k in range(1, len(levels))]
    dataset = xarray.open_zarr(
        output / "labels/objects",
        consolidated=False,
        decode_coords="all",
        mask_and_scale=False,
        drop_variables=dropped,
        chunks=None,
    )
    pixels = dataset["0"]
    np.testing.assert_array_equal(pixels.values, levels[0])
    assert pixels.rio.crs.to_epsg() == 32633
    assert tuple(pixels.rio.transform())[:6] == TRANSFORM
    assert pixels.rio.nodata == 0


def test_the_table_measures_the_image_beside(output: Path, levels: list[np.ndarray]) -> None:
    table = pq.read_table(output / "tables/objects.parquet")
    image = zarr.open_array(str(output / "0"), mode="r")[:]
    sums = np.bincount(levels[0].ravel(), weights=np.asarray(image).ravel())[1:]
    np.testing.assert_allclose(np.array(table["mean_0"]) * np.array(table["area"]), sums)
    np.testing.assert_allclose(table["area_um2"], np.array(table["area"]) * 1e14)
