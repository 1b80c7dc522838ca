"""What the viewer is told to show: all channels, all labels, all axes, of each kind of store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import tilekit
from flows.looking.shown import channels_of, open_store, read_plane
from flows.looking.state import class_properties, viewer_state
from flows.view_command import ways_to_look
from tests.looking.specimen import CLASS_NAMES, SHAPE, ByValue, make_store
from tilekit.errors import InputError
from tilekit.ngff import class_colors

BASE = "http://127.0.0.1:1/t/store.zarr/"


def ingested(tmp_path: Path, pixels: Any, axes: str, **options: Any) -> Path:
    """A store of an image given as an array."""
    tilekit.ingest(tilekit.open_image(pixels, axes=axes), tmp_path / "image.zarr", **options)
    return tmp_path / "image.zarr"


def test_a_gray_image_with_classes_and_objects(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out.zarr")
    state = viewer_state(store, BASE)
    gray, classes, objects = state["layers"]
    assert state["dimensions"] == {"x": [5e-7, "m"], "y": [5e-7, "m"]}
    assert state["position"] == [(SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2]
    assert (gray["type"], gray["source"], gray["blend"]) == ("image", f"{BASE}|zarr3:", "additive")
    assert gray["shaderControls"] == {"contrast": {"range": [20, 200], "window": [20, 200]}, "color": "#ffffff"}
    assert "localPosition" not in gray
    assert [layer["type"] for layer in (classes, objects)] == ["segmentation"] * 2
    assert classes["source"] == [
        f"{BASE}labels/classes/|zarr3:",
        "http://127.0.0.1:1/t/store.zarr-names/classes/|neuroglancer-precomputed:",
    ]
    colors = {str(i): "#" + bytes(c[:3]).hex() for i, c in enumerate(class_colors(3)) if i}
    assert (classes["segments"], classes["segmentColors"]) == (["1", "2"], colors)  # neither background nor void
    assert (classes["visible"], objects["visible"]) == (True, False)
    assert 0 < classes["selectedAlpha"] < 1
    assert 0 < objects["notSelectedAlpha"] < 1
    inline = class_properties(open_store(store)[1][0])["inline"]
    assert inline["ids"] == ["0", "1", "2", "255"]
    assert inline["properties"][0]["values"] == [*CLASS_NAMES, "void"]


def test_red_green_and_blue_have_one_contrast(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = np.stack([rng.integers(low, 255, (64, 64)) for low in (0, 100, 200)], -1).astype(np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", pixels, photometric="rgb")
    tilekit.ingest(tmp_path / "rgb.tif", tmp_path / "rgb.zarr")
    layers = viewer_state(tmp_path / "rgb.zarr", BASE)["layers"]
    assert [layer["shaderControls"]["color"] for layer in layers] == ["#ff0000", "#00ff00", "#0000ff"]
    assert len({str(layer["shaderControls"]["contrast"]) for layer in layers}) == 1
    assert [layer["localPosition"] for layer in layers] == [[0], [1], [2]]
    assert all(layer["visible"] for layer in layers)


@pytest.mark.parametrize(("n", "colors"), [(2, ["#00ff00", "#ff00ff"]), (5, ["#ff0000", "#00ff00", "#0000ff"])])
def test_channels_of_one_color_are_told_apart(tmp_path: Path, n: int, colors: list[str]) -> None:
    pixels = np.arange(n * 48 * 48, dtype=np.float32).reshape(n, 48, 48)
    layers = viewer_state(ingested(tmp_path, pixels, "cyx", ngff="0.4"), BASE)["layers"]
    assert [layer["shaderControls"]["color"] for layer in layers][:3] == colors
    assert [layer["visible"] for layer in layers] == [True, True, True, False, False][:n]
    for i, layer in enumerate(layers):
        low, high = layer["shaderControls"]["contrast"]["range"]
        assert pixels[i].min() <= low < pixels[i].mean() < high <= pixels[i].max()
        assert layer["source"] == f"{BASE}|zarr2:"


def test_time_and_depth_are_dimensions(tmp_path: Path) -> None:
    pixels = np.zeros((3, 2, 4, 40, 56), np.uint16)
    file = tmp_path / "stack.ome.tif"
    sizes = {f"PhysicalSize{a}": s for a, s in (("Y", 0.5), ("X", 0.25), ("Z", 2.0))}
    tifffile.imwrite(file, pixels, ome=True, metadata={"axes": "TCZYX", **sizes}, photometric="minisblack")
    tilekit.ingest(file, tmp_path / "stack.zarr")
    state = viewer_state(tmp_path / "stack.zarr", BASE)
    assert list(state["dimensions"]) == ["x", "y", "z", "t"]
    assert [state["dimensions"][a][0] for a in "xyz"] == pytest.approx([2.5e-7, 5e-7, 2e-6])
    assert state["dimensions"]["t"] == [1.0, ""]
    assert state["position"] == [27.5, 19.5, 2, 1]


def test_objects_alone_are_shown(tmp_path: Path) -> None:
    ids = np.zeros((64, 64), np.uint32)
    ids[8:16, 8:16] = 7
    tilekit.label_objects(np.minimum(ids, 1).astype(np.uint8), tmp_path / "objects.zarr")
    state = viewer_state(tmp_path / "objects.zarr", BASE)
    assert [layer["name"] for layer in state["layers"]] == ["objects"]
    assert state["layers"][0]["visible"]
    assert (
        f'ZARR:"{tmp_path / "objects.zarr/labels/objects"}":/0' in ways_to_look(tmp_path / "objects.zarr", "")["QGIS"]
    )


def test_layers_of_one_name_are_told_apart(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "two.ome.tif",
        np.zeros((2, 32, 32), np.uint8),
        ome=True,
        metadata={"axes": "CYX", "Channel": {"Name": ["classes", "classes"]}},
        photometric="minisblack",
    )
    store = tmp_path / "two.zarr"
    tilekit.ingest(tmp_path / "two.ome.tif", store)
    tilekit.predict(store, ByValue(in_channels=2), store, tile=32, block=32)
    names = [layer["name"] for layer in viewer_state(store, BASE)["layers"]]
    assert names == ["classes", "classes (2)", "classes (3)"]


def test_other_images_of_a_store_are_thinned_as_they_are_read(tmp_path: Path) -> None:
    pixels = np.arange(3 * 70 * 90, dtype=np.uint16).reshape(3, 70, 90)
    image = tilekit.open_image(ingested(tmp_path, pixels, "cyx"))
    assert (read_plane(image, 0) == pixels).all()
    assert (read_plane(image, 0, side=20) == pixels[:, ::5, ::5]).all()
    assert (read_plane(image, 0, box=(slice(3, 64), slice(7, 20)), side=11) == pixels[:, 3:64:6, 7:20:6]).all()


def test_contrast_without_metadata_comes_from_the_pixels(tmp_path: Path) -> None:
    pixels = np.full((40, 40), np.nan, np.float32)
    pixels[:20] = np.linspace(5, 6, 40, dtype=np.float32)
    store = ingested(tmp_path, pixels, "yx")
    import zarr

    group = zarr.open_group(str(store))
    group.attrs["tilekit"] = {"status": "complete"}
    (channel,) = channels_of(tilekit.open_image(store), store)
    assert 5 <= channel.low < channel.high <= 6


def test_what_neuroglancer_cannot_show_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neuroglancer does not show float64; store float32"):
        viewer_state(ingested(tmp_path, np.zeros((32, 32)), "yx"), BASE)
    import zarr

    zarr.create_array(str(tmp_path / "plain.zarr"), shape=(8, 8), dtype="u1", chunks=(8, 8))
    with pytest.raises(InputError, match=r"plain\.zarr: is no OME-Zarr 0.4 or 0.5; make it one with tilekit ingest"):
        viewer_state(tmp_path / "plain.zarr", BASE)


def test_labels_outside_the_store_are_left_alone(tmp_path: Path) -> None:
    import zarr

    store = make_store(tmp_path / "out.zarr")
    make_store(tmp_path / "other.zarr")
    group = zarr.open_group(str(store / "labels"))
    group.attrs["ome"] = {
        **group.attrs["ome"],
        "labels": ["../../other.zarr/labels/classes", "/etc", "objects", 3, "no"],
    }  # type: ignore[dict-item]
    assert [labels.name for labels in open_store(store)[1]] == ["objects"]


def test_other_viewers_are_told_how(tmp_path: Path) -> None:
    address = "http://127.0.0.1:1/t/"
    sharded = ways_to_look(make_store(tmp_path / "new.zarr"), address)
    assert sharded["viewer"] == address
    assert sharded["napari"] == f"napari --plugin napari-ome-zarr '{tmp_path / 'new.zarr'}'"
    assert sharded["neuroglancer"].startswith(f"{address}store.zarr/|zarr3:")
    assert sharded["QGIS"].endswith(f'source ZARR:"{tmp_path / "new.zarr"}":/0, by GDAL 3.13 or newer')
    old = ways_to_look(make_store(tmp_path / "old.zarr", ngff="0.4"), address)
    assert "zarr2:" in old["neuroglancer"]
    assert "GDAL 3.10 or older" in old["QGIS"]


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        ("neuroglancer/simple_0.4", ["x", "y"]),
        ("neuroglancer/simple_0.5", ["x", "y"]),
    ],
)
def test_stores_of_others(shared_data: Path, name: str, dimensions: list[str]) -> None:
    state = viewer_state(shared_data / "ome-zarr" / name, BASE)
    assert list(state["dimensions"]) == dimensions
    contrast = state["layers"][0]["shaderControls"]["contrast"]
    assert contrast["window"][0] <= contrast["range"][0] < contrast["range"][1] <= contrast["window"][1]


def test_units_that_neuroglancer_does_not_know_are_refused(shared_data: Path, tmp_path: Path) -> None:
    stack = shared_data / "ome-zarr/mobie-viewer-fiji/mri-stack.ome.zarr"
    with pytest.raises(
        InputError, match="has axes in 'pixel', which neuroglancer does not know; convert it with tilek"
    ):
        viewer_state(stack, BASE)
    tilekit.ingest(stack, tmp_path / "stack.zarr")
    assert list(viewer_state(tmp_path / "stack.zarr", BASE)["dimensions"]) == ["x", "y", "z"]
