"""Exported GeoTIFFs, as rasterio, rioxarray, rio-cogeo's validator and tilekit read them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.export.stores import NAMES, PLACES, blobs, make_store
from tilekit.errors import InputError
from tilekit.jobs.export import export_store
from tilekit.run import SerialRunner
from tilekit.sources import open_image

rasterio = pytest.importorskip("rasterio")
SHAPE = (1030, 1101)
pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]
FORMS = [("EPSG:32633", "0.5"), ("EPSG:4326", "0.4"), ("rotated", "0.5"), (None, "0.5")]


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: "-".join(map(str, form)))
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str | None]:
    place, ngff = request.param
    out = tmp_path_factory.mktemp("store") / "out.zarr"
    make_store(out, blobs(SHAPE), place, ngff=ngff)
    return out, place


def levels_of(group: Path) -> list[np.ndarray]:
    shapes = [SHAPE]
    while max(shapes[-1]) > 512:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    found = [np.asarray(zarr.open_array(str(group / str(k)), mode="r")[:]) for k in range(len(shapes))]
    assert [level.shape for level in found] == shapes
    return found


@pytest.mark.parametrize("what", ["classes", "objects"])
def test_labels_are_a_valid_cog_of_equal_pixels_on_every_level(
    store: tuple[Path, str | None], what: str, tmp_path: Path
) -> None:
    from rio_cogeo import cog_validate

    out, place = store
    path = tmp_path / "labels.tif"
    said = export_store(out, path, SerialRunner(), what=what, format="cog")
    levels = levels_of(out / "labels" / what)
    assert (said["format"], said["levels"], said["dtype"]) == ("cog", len(levels), levels[0].dtype.name)
    assert cog_validate(path, strict=True) == (True, [], [])
    with rasterio.open(path) as file:
        assert (file.crs, file.nodata) == (crs_of(place), 255 if what == "classes" else 0)
        assert tuple(file.transform)[:6] == pytest.approx(PLACES[place] if place else (1, 0, 0, 0, 1, 0), rel=1e-15)
        assert (file.block_shapes, file.compression.name) == ([(512, 512)], "deflate")
        assert file.overviews(1) == [2, 4]
        np.testing.assert_array_equal(file.read(1), levels[0])
        window = ((300, 700), (500, 1101))
        np.testing.assert_array_equal(file.read(1, window=window), levels[0][300:700, 500:])
    for k, wanted in enumerate(levels[1:]):
        with rasterio.open(path, overview_level=k) as file:
            np.testing.assert_array_equal(file.read(1), wanted)
    again = open_image(path, as_labels=True)
    np.testing.assert_array_equal(again.read([(0, n) for n in SHAPE]), levels[0])
    assert not list(tmp_path.glob("*.exporting"))


def crs_of(place: str | None) -> Any:
    return None if place is None else rasterio.crs.CRS.from_user_input("EPSG:32633" if place == "rotated" else place)


def test_the_class_map_has_the_stores_colors_and_names(store: tuple[Path, str | None], tmp_path: Path) -> None:
    out, _ = store
    export_store(out, tmp_path / "classes.tif", SerialRunner(), format="cog")
    attributes = dict(zarr.open_group(str(out / "labels/classes"), mode="r").attrs)
    label: Any = attributes.get("ome", attributes)["image-label"]
    with rasterio.open(tmp_path / "classes.tif") as file:
        colors, tags = file.colormap(1), file.tags(1)
        assert file.colorinterp[0].name == "palette"
    for entry in label["colors"]:
        assert list(colors[entry["label-value"]][:3]) == entry["rgba"][:3]
    assert [tags[f"class_{i}"] for i in range(3)] == NAMES
    beside = (tmp_path / "classes.tif.aux.xml").read_text()
    assert all(f"<Category>{name}</Category>" for name in NAMES)
    assert beside.index(NAMES[0]) < beside.index(NAMES[1]) < beside.index(NAMES[2])


def test_rioxarray_reads_the_same_at_full_size_and_overview(store: tuple[Path, str | None], tmp_path: Path) -> None:
    rioxarray = pytest.importorskip("rioxarray")
    out, place = store
    export_store(out, tmp_path / "objects.tif", SerialRunner(), what="objects", format="cog")
    levels = levels_of(out / "labels/objects")
    for level in range(-1, 2):
        options = {} if level < 0 else {"overview_level": level}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            with rioxarray.open_rasterio(tmp_path / "objects.tif", **options) as pixels:
                np.testing.assert_array_equal(pixels.values[0], levels[level + 1])
                assert pixels.rio.crs == crs_of(place)


def test_an_image_keeps_bands_names_nodata_and_means(tmp_path: Path) -> None:
    from dataclasses import replace

    from rio_cogeo import cog_validate

    import tilekit
    from tilekit.georeference import Georeference

    pixels = np.random.default_rng(0).integers(0, 1000, (4, 700, 900)).astype(np.uint16)
    pixels[:, :100, :100] = 0
    crs = str(rasterio.crs.CRS.from_epsg(32633).to_wkt())
    source = replace(
        open_image(pixels, nodata=0), georeference=Georeference(crs, PLACES["EPSG:32633"]), channel_names=tuple("BGRN")
    )
    tilekit.ingest(source, tmp_path / "i.zarr")
    export_store(tmp_path / "i.zarr", tmp_path / "i.tif", SerialRunner(), what="image")
    assert cog_validate(tmp_path / "i.tif", strict=True)[0]
    with rasterio.open(tmp_path / "i.tif") as file:
        np.testing.assert_array_equal(file.read(), pixels)
        assert (file.descriptions, file.nodata) == (tuple("BGRN"), 0)
    with rasterio.open(tmp_path / "i.tif", overview_level=0) as file:
        np.testing.assert_array_equal(file.read(), zarr.open_array(str(tmp_path / "i.zarr/1"), mode="r")[:])


def test_half_floats_become_floats_and_planes_are_chosen(tmp_path: Path) -> None:
    out = tmp_path / "p.zarr"
    make_store(out, blobs((2, 300, 400)), objects=False, probabilities="float16")
    wanted = np.asarray(zarr.open_array(str(out / "probabilities/0"), mode="r")[:])
    with pytest.raises(InputError, match="has 2 positions along z, a GeoTIFF is of one; choose it with --z"):
        export_store(out, tmp_path / "p.tif", SerialRunner(), what="probabilities", format="cog")
    export_store(out, tmp_path / "p.tif", SerialRunner(), what="probabilities", format="cog", z=1)
    with rasterio.open(tmp_path / "p.tif") as file:
        assert (file.dtypes[0], file.descriptions) == ("float32", ("background", "cell", "Tumor"))
        np.testing.assert_array_equal(file.read(), wanted[:, 1].astype(np.float32))


def test_what_the_file_before_had_beside_it_goes(tmp_path: Path) -> None:
    out, path = tmp_path / "out.zarr", tmp_path / "a.tif"
    make_store(out, blobs((60, 70)))
    export_store(out, path, SerialRunner(), format="cog")
    assert (tmp_path / "a.tif.aux.xml").exists()
    with pytest.raises(InputError, match=r"a\.tif: exists; use --overwrite"):
        export_store(out, path, SerialRunner(), what="objects", format="cog")
    export_store(out, path, SerialRunner(), what="objects", format="cog", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "out.zarr"]
