"""One image of each kind that users have, segmented as a user does it, and read back by the programs that others use.

Each goes two ways: `segment IMAGE MODEL OUT` (OME-NGFF 0.5), and `ingest IMAGE OUT --ngff 0.4`, then labels in place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from flows.main import app
from models import load, save
from tests.oracles import random_network
from tilekit import verify
from tilekit.doctor import readers

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("rioxarray")
import xarray  # noqa: E402  # after the check that its accessor is installed

from benchmarks.format_oracles import quiet  # noqa: E402  # needs rasterio
from tests.kinds import GEO, KINDS, S1F, SLOW, Truth, found, geographic_truth, punched  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:Object at .tilekit is not recognized"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),  # rioxarray's use of affine
]

VOID = 255
NAMES = ("", "labels/classes")


def tilekit(*arguments: Any) -> dict[str, Any]:
    """The command line, in this process; what it prints as JSON."""
    printed = StringIO()
    with redirect_stdout(printed), quiet():
        app([*map(str, arguments), "--json"], standalone_mode=False)
    return dict(json.loads(printed.getvalue()))


def make_network(truth: Truth, path: Path) -> Path:
    """A checkpoint for an image: random weights, values brought to 0..1 by mean and deviation of each channel."""
    values = [channel[..., truth.valid].astype(np.float64) for channel in truth.seen]
    mean, std = ([float(f(v)) for v in values] for f in (np.mean, np.std))
    std = [s or 1.0 for s in std]
    low = [m - 2 * s for m, s in zip(mean, std, strict=True)]
    net = random_network(in_channels=len(values), n_classes=3, base=4, depth=2)
    normalization = {"kind": "mean_std", "mean": low, "std": [4 * s for s in std]}
    save(net, path, class_names=["a", "b", "c"], normalization=normalization)
    return path


@dataclass(frozen=True)
class Output:
    """A store, and what must be in it."""

    path: Path
    version: str
    truth: Truth
    model: Path


def make_output(kind: str, version: str, folder: Path) -> Output:
    image, truth = KINDS[kind](folder)
    model, out = make_network(truth, folder / "model.safetensors"), folder / "out.zarr"
    serial = ("--workers", "0")
    if version == "0.5":
        tilekit("segment", image, model, out, *serial, *truth.options)
    else:
        tilekit("ingest", image, out, "--ngff", "0.4", *serial, *truth.options)
        tilekit("segment", out, model, out, *serial)
    return Output(out, version, truth, model)


def marked(kind: str, version: str) -> Any:
    return pytest.param((kind, version), id=f"{kind} | {version}", marks=[pytest.mark.slow] if kind in SLOW else [])


@pytest.fixture(scope="module", params=[marked(kind, version) for kind in KINDS for version in ("0.5", "0.4")])
def output(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Output:
    return make_output(*request.param, tmp_path_factory.mktemp("kind"))


def array_of(out: Path, name: str, level: int = 0) -> np.ndarray:
    return np.asarray(zarr.open_array(out / name / str(level), mode="r")[...])


def n_levels(folder: Path) -> int:
    return sum(child.name.isdecimal() for child in folder.iterdir())


def test_pixels_are_those_of_the_file_and_void_is_where_it_has_none(output: Output) -> None:
    truth, classes = output.truth, array_of(output.path, "labels/classes")
    pixels = array_of(output.path, "")
    np.testing.assert_array_equal(pixels.reshape(truth.pixels.shape), truth.pixels)
    check_void(classes, truth.valid)
    assert classes.size < 10_000 or len(np.unique(classes[classes != VOID])) > 1


def check_void(classes: np.ndarray, valid: np.ndarray) -> None:
    np.testing.assert_array_equal(classes == VOID, np.broadcast_to(~valid, classes.shape))
    assert classes[classes != VOID].max() < 3


@pytest.mark.parametrize("name", NAMES)
def test_metadata_of_ngff_say_the_pixel_size_of_every_level(output: Output, name: str) -> None:
    attributes = dict(zarr.open_group(output.path / name, mode="r").attrs)
    image = attributes.get("ome", attributes)["multiscales"][0]
    size = output.truth.pixel_size
    units = {axis.get("unit") for axis in image["axes"] if axis["name"] in "yx"}
    assert units == ({None} if size is None else {"micrometer"})
    assert len(image["datasets"]) == n_levels(output.path / name)
    for k, dataset in enumerate(image["datasets"]):
        scale = dataset["coordinateTransformations"][0]["scale"]
        assert scale[-2:] == pytest.approx([2**k * n for n in size or (1, 1)], rel=1e-9)
        if "z" in output.truth.axes:
            assert scale[-3] == (output.truth.slice_spacing or 1)


def test_napari_shows_image_and_labels_at_their_size(output: Output) -> None:
    npe2 = pytest.importorskip("npe2")
    pytest.importorskip("napari_ome_zarr")
    from npe2.io_utils import read

    npe2.PluginManager.instance().discover()
    with quiet(), redirect_stdout(StringIO()):
        layers = read([str(output.path)], plugin_name="napari-ome-zarr", stack=False)
    shown = {"image": "", "labels": "labels/classes"}
    assert {kind for _, _, kind in layers} == {*shown}
    for data, meta, kind in layers:
        if kind == "labels" and meta["name"] != "classes":  # labels/valid, the file's mask
            continue
        levels = data if isinstance(data, list) else [data]
        stored = array_of(output.path, shown[kind])
        np.testing.assert_array_equal(np.asarray(levels[0]).reshape(stored.shape), stored)
        assert list(meta["scale"])[-2:] == pytest.approx(list(output.truth.pixel_size or (1, 1)), rel=1e-9)
        if "z" in output.truth.axes:
            assert list(meta["scale"])[-3] == (output.truth.slice_spacing or 1)


def nodata_of(output: Output, name: str) -> Any:
    """What programs are told: floats that name no value have NaN."""
    if name:
        return VOID
    told = output.truth.nodata
    told = math.nan if told is None and output.truth.pixels.dtype.kind == "f" else told
    return None if told is None else pytest.approx(told, nan_ok=True)


def scaled(transform: Sequence[float], level: int) -> list[float]:
    a, b, c, d, e, f = transform
    return [2**level * a, 2**level * b, c, 2**level * d, 2**level * e, f]


@pytest.mark.parametrize("name", NAMES)
def test_rioxarray_places_every_level(output: Output, name: str) -> None:
    truth, n = output.truth, n_levels(output.path / name)
    for k in range(n):
        others = [str(j) for j in range(n) if j != k]
        dropped = [*others, "x", "y"] if k and output.version == "0.5" else others
        with quiet():
            opened = xarray.open_zarr(
                output.path / name,
                consolidated=False,
                decode_coords="all",
                mask_and_scale=False,
                drop_variables=dropped,
                chunks=None,
            )
        pixels = opened[str(k)]
        assert pixels.rio.nodata == nodata_of(output, name)
        assert pixels.rio.crs == truth.crs
        if truth.transform is not None:
            assert list(pixels.rio.transform())[:6] == pytest.approx(scaled(truth.transform, k), rel=1e-12)
        if truth.gcps:
            found = [(p.row, p.col, p.x, p.y) for p in pixels.rio.get_gcps()]
            assert found == [(row / 2**k, col / 2**k, x, y) for row, col, x, y in truth.gcps]


@pytest.mark.parametrize("name", NAMES)
def test_rasterio_places_every_level_of_zarr_2(output: Output, name: str) -> None:
    """All that GDAL can be told; a rotated transform and control points are named by the doctor instead."""
    truth = output.truth
    if output.version == "0.5":
        return
    for k in range(n_levels(output.path / name)):
        stored = array_of(output.path, name, k)
        if stored.ndim > 3:  # GDAL presents planes of these one by one
            return
        array = f"{name}/{k}" if name else str(k)
        for place in (f'ZARR:"{output.path}":/{array}', output.path / array):
            with quiet(), rasterio.open(place) as data:
                np.testing.assert_array_equal(data.read().reshape(stored.shape), stored)
                assert data.nodata == nodata_of(output, name)
                assert data.crs == truth.crs
                placed = truth.transform is not None and not truth.transform[1]
                assert data.transform.is_identity != placed
                if placed and truth.transform is not None:
                    assert list(data.transform)[:6] == pytest.approx(scaled(truth.transform, k), rel=1e-12)


def test_the_doctor_names_what_gdal_cannot_be_told(output: Output) -> None:
    told = {reader.name: reader for reader in readers(output.path)}
    assert told["napari (napari-ome-zarr)"].copes
    assert told["rioxarray"].copes
    if output.version == "0.4":
        gdal = told["QGIS with GDAL 3.10 or older"]
        rotated = bool(output.truth.transform and output.truth.transform[1])
        assert gdal.copes == (not rotated and not output.truth.gcps)
        assert ("rotated" in gdal.why, "control points" in gdal.why) == (rotated, bool(output.truth.gcps))


def test_boxes_predicted_again_are_what_is_stored(output: Output) -> None:
    assert verify(output.path, load(output.model), boxes=3, side=64)["differing_pixels"] == 0


@pytest.mark.slow
def test_a_box_of_a_large_slide(tmp_path: Path) -> None:
    """The whole image is brought in, one box of it labelled."""
    path = found("large-crc-wsi/CRC01_Hoechst_level2_17408x14336.ome.tif")
    box = np.s_[6000:7200, 9000:10500]
    with tifffile.imread(path, aszarr=True, level=0) as store:
        pixels = np.asarray(zarr.open_array(store, mode="r")[box])
    truth = Truth(np.moveaxis(pixels, -1, 0), "cyx", np.ones((1200, 1500), bool), (0.65, 0.65))
    model, out = make_network(truth, tmp_path / "model.safetensors"), tmp_path / "out.zarr"
    tilekit("segment", path, model, out, "--workers", 0, "--pixel-size", 0.65, "--box", "6000:7200,9000:10500")
    for name in NAMES:
        test_metadata_of_ngff_say_the_pixel_size_of_every_level(Output(out, "0.5", truth, model), name)
    image, classes = (zarr.open_array(out / name / "0", mode="r") for name in NAMES)
    assert (image.shape, classes.shape) == ((3, 14336, 17408), (14336, 17408))
    np.testing.assert_array_equal(image[(slice(None), *box)], truth.pixels)
    valid = np.zeros(classes.shape, bool)
    valid[box] = True
    check_void(np.asarray(classes), valid)
    assert verify(out, load(model), boxes=3, side=64)["differing_pixels"] == 0


@pytest.mark.parametrize("name", [f"{GEO}/rasterio/RGB.byte.tif", f"{S1F}_S1.tif"], ids=["value", "NaN"])
def test_a_hole_changes_nothing_beyond_its_halo(name: str, tmp_path: Path) -> None:
    """In real images; at other nodata too the network sees another mean, as fewer pixels are valid.

    There a channel may be nodata by itself: its mean is shown, though the pixel is no void.
    """
    hole = np.s_[300:340, 380:440]
    whole = geographic_truth(found(name), None)
    model = make_network(whole, tmp_path / "model.safetensors")
    classes = {}
    for label, holes in (("whole", []), ("hole", [hole])):
        image = punched(found(name), tmp_path / f"{label}.tif", holes)
        tilekit("segment", image, model, tmp_path / label, "--workers", 0, "--tile", 64, "--block", 256)
        classes[label] = array_of(tmp_path / label, "labels/classes")
        truth = geographic_truth(image, None)
        check_void(classes[label], truth.valid)
    assert (classes["hole"][hole] == VOID).all()
    absent = ~truth.valid | (truth.pixels == truth.nodata).any(0)
    near = grown(absent, load(model).halo)
    changed = classes["hole"] != classes["whole"]
    assert (changed & near & (classes["hole"] != VOID)).any()
    assert not (changed & ~near).any()
    assert near.mean() < 0.8


def grown(where: np.ndarray, halo: Any) -> np.ndarray:
    """All pixels that see one of these."""
    out = where.copy()
    for axis in (0, 1):  # a pixel sees `before` pixels back, so what is there reaches as far forward
        seen, out = out, out.copy()
        for step in range(1, halo.before[axis] + 1):
            out |= shifted(seen, step, axis)
        for step in range(1, halo.after[axis] + 1):
            out |= shifted(seen, -step, axis)
    return out


def shifted(where: np.ndarray, step: int, axis: int) -> np.ndarray:
    """Moved along an axis, False coming in."""
    moved = np.roll(where, step, axis)
    moved[(slice(None),) * axis + (slice(0, step) if step > 0 else slice(step, None),)] = False
    return moved


# The checks can fail.


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Output:
    return make_output("UTM, nodata 0", "0.4", tmp_path_factory.mktemp("placed"))


def fails(check: Callable[..., None], *arguments: Any) -> bool:
    try:
        check(*arguments)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"crs": rasterio.crs.CRS.from_epsg(32619)}, test_rioxarray_places_every_level),
        ({"crs": rasterio.crs.CRS.from_epsg(32619)}, test_rasterio_places_every_level_of_zarr_2),
        ({"transform": (300.0, 0, 0, 0, -300.0, 0)}, test_rioxarray_places_every_level),
        ({"transform": (300.0, 0, 0, 0, -300.0, 0)}, test_rasterio_places_every_level_of_zarr_2),
        ({"pixel_size": (3e8, 3e8)}, test_metadata_of_ngff_say_the_pixel_size_of_every_level),
    ],
)
def test_each_check_sees_what_is_wrong(placed: Output, changes: dict[str, Any], check: Callable[..., None]) -> None:
    wrong = replace(placed, truth=replace(placed.truth, **changes))
    for name in NAMES:
        assert not fails(check, placed, name)
        assert fails(check, wrong, name)


def test_the_other_checks_see_what_is_wrong(placed: Output) -> None:
    valid = placed.truth.valid.copy()
    valid[0, 0] ^= True
    pixels = placed.truth.pixels.copy()
    pixels[0, 300, 300] += 1
    for changes in ({"valid": valid}, {"pixels": pixels}):
        wrong = replace(placed, truth=replace(placed.truth, **changes))
        assert fails(test_pixels_are_those_of_the_file_and_void_is_where_it_has_none, wrong)
    wrong = replace(placed, truth=replace(placed.truth, nodata=1, pixel_size=(3e8, 3e8)))
    assert fails(test_rioxarray_places_every_level, wrong, "")
    assert fails(test_rasterio_places_every_level_of_zarr_2, wrong, "")
    assert fails(test_napari_shows_image_and_labels_at_their_size, wrong)
