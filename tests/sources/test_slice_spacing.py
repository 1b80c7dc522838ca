"""Micrometers from one slice to the next, as each format says them, and as an output keeps them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

import tilekit
from tilekit.sources import open_image

PIXELS = np.random.default_rng(0).integers(0, 9, (3, 40, 50)).astype("uint8")


def write(kind: str, folder: Path) -> Path:
    """A stack whose slices are 1.5 micrometers apart."""
    path = folder / f"stack.{'h5' if kind == 'hdf5' else 'ome.tif' if kind == 'ome' else 'tif'}"
    if kind == "hdf5":
        with h5py.File(path, "w") as file:
            file["raw"] = PIXELS
            file["raw"].attrs["element_size_um"] = (1.5, 0.5, 0.5)
            for axis, label in enumerate("zyx"):
                file["raw"].dims[axis].label = label
    elif kind == "ome":
        told = {"axes": "ZYX", "PhysicalSizeZ": 1500, "PhysicalSizeZUnit": "nm"}
        tifffile.imwrite(path, PIXELS, ome=True, metadata=told)
    elif kind == "ImageJ":
        tifffile.imwrite(path, PIXELS, imagej=True, metadata={"axes": "ZYX", "unit": "mm", "spacing": 0.0015})
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("kind", ["ome", "ImageJ", "hdf5"])
def test_a_stack_keeps_the_spacing_of_its_slices(kind: str, version: str, tmp_path: Path) -> None:
    source = open_image(write(kind, tmp_path))
    assert (source.axes, source.slice_spacing) == ("zyx", pytest.approx(1.5))
    tilekit.ingest(source, tmp_path / "out.zarr", ngff=version)
    assert open_image(tmp_path / "out.zarr").slice_spacing == pytest.approx(1.5)


def test_one_slice_and_another_axis_have_no_spacing(tmp_path: Path) -> None:
    path = write("ome", tmp_path)
    assert open_image(path, z=1).slice_spacing is None
    assert open_image(path, axes="tyx").slice_spacing is None
    assert open_image(path, axes="zxy").slice_spacing == pytest.approx(1.5)


@pytest.mark.parametrize("told", [{"axes": "ZYX"}, {"axes": "ZYX", "unit": "pixel", "spacing": 2.0}])
def test_a_stack_that_does_not_say_has_none(told: dict[str, object], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", PIXELS, imagej=True, metadata=told)
    assert open_image(tmp_path / "stack.tif").slice_spacing is None
