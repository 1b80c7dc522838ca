"""HDF5 as h5py reads it: which dataset, its axes, its pixel size; and what is refused."""

from __future__ import annotations

import builtins
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tilekit.errors import InputError
from tilekit.sources import open_image

VOLUME = np.random.default_rng(0).integers(0, 65536, (5, 60, 70)).astype("uint16")


def write(path: Path, **datasets: np.ndarray) -> h5py.File:
    file = h5py.File(path, "w")
    for name, pixels in datasets.items():
        file.create_dataset(name.replace("__", "/"), data=pixels, chunks=True, compression="gzip")
    return file


def check_boxes(source: Any, expected: np.ndarray) -> None:
    assert (source.shape, source.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(source.read([]), expected)
    rng = np.random.default_rng(1)
    for _ in range(10):
        starts = [int(rng.integers(0, n)) for n in expected.shape]
        box = [(a, int(rng.integers(a, n + 1))) for a, n in zip(starts, expected.shape, strict=True)]
        np.testing.assert_array_equal(source.read(box), expected[tuple(slice(*pair) for pair in box)])


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "<i4", "float32", "float16", "bool"])
def test_the_only_image_is_opened(tmp_path: Path, dtype: str) -> None:
    pixels = (VOLUME > 30000 if dtype == "bool" else VOLUME % 200).astype(dtype)
    write(tmp_path / "a.h5", raw=pixels, names=np.arange(3), empty=np.zeros((1, 7))).close()
    source = open_image(tmp_path / "a.h5")
    assert (source.axes, source.name) == ("cyx", "a.h5:/raw")
    check_boxes(source, pixels.astype("uint8" if dtype == "bool" else np.dtype(dtype).newbyteorder("=")))


def test_one_of_several_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, volumes__raw=VOLUME, volumes__labels=VOLUME > 9).close()
    with pytest.raises(InputError) as caught:
        open_image(path)
    assert str(caught.value) == (
        f"{path}: holds 2 images (/volumes/labels, /volumes/raw); name one, as {path}:/volumes/labels"
    )
    check_boxes(open_image(f"{path}:/volumes/raw"), VOLUME)
    with pytest.raises(InputError, match="has no image /volumes/other; it has /volumes/labels, /volumes/raw"):
        open_image(f"{path}:/volumes/other")


def test_axes_by_axistags_as_ilastik_writes_them(tmp_path: Path) -> None:
    pixels = VOLUME[None, ..., None].repeat(2, -1) + np.arange(2, dtype="uint16")
    with write(tmp_path / "a.h5", exported_data=pixels) as file:
        tags = {"axes": [{"key": key, "typeFlags": 2, "resolution": 0, "description": ""} for key in "tzyxc"]}
        file["exported_data"].attrs["axistags"] = json.dumps(tags)
        file["exported_data"].attrs["element_size_um"] = [3.0, 0.5, 0.25]
    source = open_image(tmp_path / "a.h5")
    assert (source.axes, source.pixel_size) == ("tczyx", (0.5, 0.25))
    check_boxes(source, np.moveaxis(pixels, -1, 1))
    check_boxes(open_image(tmp_path / "a.h5", channels=(1,)), np.moveaxis(pixels, -1, 1)[:, 1:])
    check_boxes(open_image(tmp_path / "a.h5", channels=(1, 0, 1)), np.moveaxis(pixels, -1, 1)[:, [1, 0, 1]])


@pytest.mark.parametrize("by", ["label", "scale"])
def test_axes_by_names_of_the_dimensions(tmp_path: Path, by: str) -> None:
    with write(tmp_path / "a.h5", raw=VOLUME) as file:
        for i, letter in enumerate("zyx"):
            if by == "label":
                file["raw"].dims[i].label = letter
            else:
                file[letter] = np.arange(VOLUME.shape[i])
                file[letter].make_scale(letter)
                file["raw"].dims[i].attach_scale(file[letter])
    source = open_image(tmp_path / "a.h5")
    assert source.axes == "zyx"
    check_boxes(source, VOLUME)


def test_without_names_axes_are_those_of_an_array(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", color=np.moveaxis(VOLUME[:3], 0, -1)).close()
    source = open_image(tmp_path / "a.h5", pixel_size=0.5, nodata=0)
    assert (source.axes, source.pixel_size, source.nodata) == ("cyx", (0.5, 0.5), 0)
    check_boxes(source, VOLUME[:3])


def test_threads_and_other_processes_read(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", raw=VOLUME).close()
    source = pickle.loads(pickle.dumps(open_image(tmp_path / "a.h5")))
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda y: source.read([(0, 5), (y, y + 1), (0, 70)]), range(60)))
    np.testing.assert_array_equal(np.concatenate(rows, 1), VOLUME)


def test_refuses_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, names=np.arange(3)).close()
    with pytest.raises(InputError, match="without a single dataset of 2 to 5 axes"):
        open_image(path)
    with write(path) as file:
        layout = h5py.VirtualLayout((60, 70), "uint16")
        layout[:] = h5py.VirtualSource("part.h5", "raw", (60, 70))
        file.create_virtual_dataset("raw", layout)
    with pytest.raises(InputError, match=r"is in part in part\.h5, which is missing; copy it"):
        open_image(path)
    write(tmp_path / "part.h5", raw=VOLUME[0]).close()
    check_boxes(open_image(path), VOLUME[0])
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="cannot be opened as HDF5"):
        open_image(path)


def test_a_small_file_that_claims_a_large_image_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", (10**6, 10**6), "uint8", chunks=(512, 512))
    assert (tmp_path / "a.h5").stat().st_size < 5000
    with pytest.raises(InputError, match=r"claims \(1000000, 1000000\) pixels, of which none was ever written"):
        open_image(tmp_path / "a.h5")


def test_names_a_filter_that_is_not_there(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((60, 70))
        creation.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((60, 70))
        h5py.h5d.create(file.id, b"raw", h5py.h5t.NATIVE_UINT8, space, creation)
    with pytest.raises(InputError, match=r"needs the filter 32015.*, which is not there; rewrite it by h5repack"):
        open_image(tmp_path / "a.h5")


def test_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.h5", raw=VOLUME).close()
    imported = builtins.__import__

    def without_h5py(name: str, *args: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return imported(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(InputError, match=r"a\.h5: needs h5py; pip install 'tilekit\[hdf5\]'"):
        open_image(tmp_path / "a.h5")
