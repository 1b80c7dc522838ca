"""Outputs are read back with the right values, sizes, names and colors by the readers that others use."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

import tilekit
from tests.oracles import PlainFilter, structured_image, whole_image_classes
from tilekit.pyramid import halve_labels, halve_mean

ROOT = Path(__file__).parents[1]
PIXEL_SIZE = (0.5, 0.25)
"""Micrometers (y, x)."""
IMAGES = {
    "grey": ("YX", (1040, 700), "uint16", None),
    "color": ("CYX", (3, 700, 1040), "uint8", ["DAPI", "GFP", "RFP"]),
    "series": ("TCZYX", (2, 2, 3, 560, 531), "uint8", ["nuclei", "membranes"]),
}
FORMATS = {
    "0.5 sharded": {"ngff": "0.5", "shards": True},
    "0.5 unsharded": {"ngff": "0.5", "shards": False},
    "0.4": {"ngff": "0.4"},
}


@dataclass(frozen=True)
class Output:
    """A store and what must be in it."""

    path: Path
    version: str
    sharded: bool
    axes: str
    channels: list[str] | None
    image: list[np.ndarray]
    """All levels."""
    labels: list[np.ndarray]
    n_classes: int

    @property
    def image_scales(self) -> list[list[float]]:
        lead = [1.0] * (len(self.axes) - 2)
        return [[*lead, PIXEL_SIZE[0] * 2**k, PIXEL_SIZE[1] * 2**k] for k in range(len(self.image))]

    @property
    def label_scales(self) -> list[list[float]]:
        lead = [1.0] * (self.labels[0].ndim - 2)
        return [[*lead, PIXEL_SIZE[0] * 2**k, PIXEL_SIZE[1] * 2**k] for k in range(len(self.labels))]


def levels_of(pixels: np.ndarray, halve: Callable[[np.ndarray], np.ndarray], n: int) -> list[np.ndarray]:
    levels = [pixels]
    while len(levels) < n:
        levels.append(halve(levels[-1]))
    return levels


def make_output(kind: str, form: str, folder: Path) -> Output:
    """An OME-TIFF ingested in one of the formats, and labelled in place."""
    axes, shape, dtype, names = IMAGES[kind]
    pixels = structured_image(shape, dtype, seed=len(kind))
    metadata: dict[str, Any] = {"axes": axes}
    metadata |= {f"PhysicalSize{a}": size for a, size in zip("YX", PIXEL_SIZE, strict=True)}
    metadata |= {f"PhysicalSize{a}Unit": "µm" for a in "YX"}
    if names:
        metadata["Channel"] = {"Name": names}
    file = folder / "image.ome.tif"
    tifffile.imwrite(file, pixels, ome=True, metadata=metadata, photometric="minisblack", tile=(256, 256))
    out = folder / "out.zarr"
    tilekit.ingest(file, out, **FORMATS[form])
    c = axes.find("C")
    predictor = PlainFilter(stride=(8, 8), in_channels=shape[c] if c >= 0 else 1, n_classes=4)
    tilekit.predict(out, predictor, out, tile=120, block=256)
    by_plane = np.moveaxis(pixels, c, -3) if c >= 0 else pixels[..., None, :, :]
    classes = np.empty((*by_plane.shape[:-3], *shape[-2:]), np.uint8)
    for plane in np.ndindex(*by_plane.shape[:-3]):
        classes[plane] = whole_image_classes(predictor, by_plane[plane])
    n = 1 + (max(shape[-2:]) > 512) + (max(shape[-2:]) > 1024)
    n_labels = 1
    while -(-max(shape[-2:]) // 2 ** (n_labels - 1)) > 512:
        n_labels += 1
    return Output(
        path=out,
        version=FORMATS[form]["ngff"],
        sharded=FORMATS[form].get("shards", False),
        axes=axes.lower(),
        channels=names,
        image=levels_of(pixels, halve_mean, n),
        labels=levels_of(classes, halve_labels, n_labels),
        n_classes=4,
    )


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Output]:
    """Outputs by kind and format, each made once."""
    return lru_cache(maxsize=None)(lambda kind, form: make_output(kind, form, tmp_path_factory.mktemp("output")))


@pytest.fixture(scope="module", params=[f"{kind}, {form}" for kind in IMAGES for form in FORMATS])
def output(request: pytest.FixtureRequest, make: Callable[[str, str], Output]) -> Output:
    kind, form = request.param.split(", ")
    return make(kind, form)


def assert_equal(found: list[Any], wanted: list[np.ndarray]) -> None:
    """The same levels, value by value."""
    assert [tuple(f.shape) for f in found] == [w.shape for w in wanted]
    for f, w in zip(found, wanted, strict=True):
        pixels = np.asarray(f)
        assert pixels.dtype == w.dtype
        assert (pixels == w).all()


def label_colors(output: Output) -> dict[int, list[int]]:
    attributes = dict(zarr.open_group(str(output.path / "labels/classes"), mode="r").attrs)
    label = attributes.get("ome", attributes)["image-label"]
    return {c["label-value"]: c["rgba"] for c in label["colors"]}


def scales(datasets: list[Any]) -> list[list[float]]:
    """The scale of each level, from pydantic models of whichever reader."""
    return [list(next(t.scale for t in d.coordinateTransformations if t.type == "scale")) for d in datasets]


def test_zarr_reads_image_and_labels(output: Output) -> None:
    for name, wanted in (("", output.image), ("labels/classes", output.labels)):
        group = zarr.open_group(str(output.path / name), mode="r")
        arrays = [group[str(k)] for k in range(len(wanted))]
        assert_equal([a[:] for a in arrays], wanted)
        assert {a.metadata.zarr_format for a in arrays} == {2 if output.version == "0.4" else 3}
        if output.version == "0.5":
            assert all(a.metadata.dimension_names is not None for a in arrays)
        if not name:
            assert any(a.shards is not None for a in arrays) == output.sharded or max(arrays[0].shape) <= 1024
            assert output.sharded or all(a.shards is None for a in arrays)
    assert str(len(output.image)) not in group


def test_dask_reads_image_and_labels(output: Output) -> None:
    import dask.array as da

    for name, wanted in (("", output.image), ("labels/classes/", output.labels)):
        lazy = [da.from_zarr(str(output.path), component=f"{name}{k}") for k in range(len(wanted))]
        assert_equal([a.compute(scheduler="sync") for a in lazy], wanted)


def test_ome_zarr_py_reads_values_sizes_names_and_colors(output: Output) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*version mismatch.*")
        location = parse_url(str(output.path))
        assert location is not None
        image, _, classes = list(Reader(location)())
    for node, wanted, sizes in (
        (image, output.image, output.image_scales),
        (classes, output.labels, output.label_scales),
    ):
        assert_equal([level.compute(scheduler="sync") for level in node.data], wanted)
        found = [
            next(t["scale"] for t in level if t["type"] == "scale")
            for level in node.metadata["coordinateTransformations"]
        ]
        assert found == sizes
        assert {a.get("unit") for a in node.metadata["axes"] if a["type"] == "space" and a["name"] != "z"} == {
            "micrometer"
        }
    assert "".join(a["name"] for a in image.metadata["axes"]) == output.axes
    if output.channels:
        assert image.metadata["channel_names"] == output.channels
    colors = {int(k): np.round(np.multiply(v, 255)).astype(int).tolist() for k, v in classes.metadata["color"].items()}
    assert colors == label_colors(output)
    assert {int(k): v["class"] for k, v in classes.metadata["properties"].items()} == {
        **{i: f"class {i}" for i in range(output.n_classes)},
        255: "void",
    }


def test_ome_zarr_models_reads_image_labels_and_label(output: Output) -> None:
    import ome_zarr_models

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Object at .* is not recognized")
        root = zarr.open_group(str(output.path), mode="r")
        image, labels, classes = (
            ome_zarr_models.open_ome_zarr(group) for group in (root, root["labels"], root["labels/classes"])
        )
    assert [type(m).__name__ for m in (image, labels, classes)] == ["Image", "Labels", "ImageLabel"]
    assert {m.ome_zarr_version for m in (image, labels, classes)} == {output.version}
    assert (
        labels.ome_attributes.labels == ["classes"]
        if output.version == "0.5"
        else labels.attributes.labels == ["classes"]
    )
    for model, sizes in ((image, output.image_scales), (classes, output.label_scales)):
        attributes = model.ome_attributes if output.version == "0.5" else model.attributes
        assert scales(attributes.multiscales[0].datasets) == sizes
    attributes = classes.ome_attributes if output.version == "0.5" else classes.attributes
    colors = {int(c.label_value): list(c.rgba) for c in attributes.image_label.colors}
    assert colors == label_colors(output)


def test_yaozarrs_validates_and_reads(output: Output) -> None:
    import yaozarrs

    for name in ("", "labels/classes"):  # in 0.4 the group of all labels has no version to go by
        yaozarrs.validate_zarr_store(str(output.path / name))
    group = yaozarrs.open_group(str(output.path))
    assert group.ome_version() == output.version
    image = group.ome_metadata()
    assert scales(image.multiscales[0].datasets) == output.image_scales
    if output.channels:
        assert [c.label for c in image.omero.channels] == output.channels
    classes = yaozarrs.open_group(str(output.path / "labels/classes"))
    found = classes.ome_metadata()
    assert scales(found.multiscales[0].datasets) == output.label_scales
    assert {int(c.label_value): list(c.rgba) for c in found.image_label.colors} == label_colors(output)
    for opened, wanted in ((group, output.image), (classes, output.labels)):
        assert_equal([opened[str(k)].to_zarr_python()[:] for k in range(len(wanted))], wanted)


def test_tilekit_reads_its_own_output(output: Output) -> None:
    for k, wanted in enumerate(output.image):
        source = tilekit.open_image(output.path, level=k)
        assert source.axes == output.axes
        assert source.pixel_size == tuple(s * 2**k for s in PIXEL_SIZE)
        assert list(source.channel_names or []) == (output.channels or [])
        assert (source.read([(0, n) for n in wanted.shape]) == wanted).all()
    labels = tilekit.open_image(output.path / "labels/classes")
    assert (labels.read([(0, n) for n in output.labels[0].shape]) == output.labels[0]).all()


def test_levels_lie_over_each_other(output: Output) -> None:
    """The center of a coarse cell is that of the pixels which it stands for."""
    for name, n in (("", len(output.image)), ("labels/classes", len(output.labels))):
        attributes = dict(zarr.open_group(str(output.path / name), mode="r").attrs)
        datasets = attributes.get("ome", attributes)["multiscales"][0]["datasets"]
        assert len(datasets) == n
        for k, dataset in enumerate(datasets):
            moved = [t["translation"][-2:] for t in dataset["coordinateTransformations"] if t["type"] == "translation"]
            assert (moved or [[0.0, 0.0]]) == [[s * (2**k - 1) / 2 for s in PIXEL_SIZE]]


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("npe2", "napari_ome_zarr")),
    reason="no reader of napari here",
)
def test_naparis_reader_shows_image_and_labels(make: Callable[[str, str], Output]) -> None:
    """In a process of its own, through napari's plugin manager."""
    outputs = [make(kind, form) for kind in IMAGES for form in FORMATS]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/napari_reader.py"), *(str(output.path) for output in outputs)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": 0 pixels differ") == len(outputs)
    assert done.stdout.count("'kind': 'labels'") == len(outputs)
    assert done.stdout.count(str([*PIXEL_SIZE])[1:-1]) >= 2 * len(outputs)
    for name in {name for output in outputs for name in output.channels or []}:
        assert name in done.stdout
