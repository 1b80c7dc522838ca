"""What every source keeps: refusals, pickling, threads, changed files, arrays and .npy."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from errno import EIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.sources import Source, open_image
from tilekit.sources.reading import of_the_disk, read_exactly

IMAGE = np.random.default_rng(0).integers(0, 60000, (90, 70)).astype("uint16")


@pytest.fixture(params=["tiff", "zarr", "npy", "array"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The same image, held in each way."""
    if request.param == "array":
        return IMAGE
    path = tmp_path / f"image.{request.param}"
    if request.param == "tiff":
        tifffile.imwrite(path, IMAGE, tile=(16, 32), compression="zlib")
    elif request.param == "npy":
        np.save(path, IMAGE)
    else:
        zarr.create_array(path, data=IMAGE, chunks=(20, 30))
    return path


def read(source: Source, box: Box) -> np.ndarray[Any, Any]:
    return source.read(box)


def test_reads_in_a_spawned_process(place: Any) -> None:
    source = open_image(place)
    again = pickle.loads(pickle.dumps(source))
    assert (again.shape, again.axes, again.fingerprint) == (source.shape, source.axes, source.fingerprint)
    box = Box((5, 60), (50, 70))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(read, again, box).result(), IMAGE[box.slices])


def test_pickles_small_unless_the_array_itself_is_the_source(place: Any) -> None:
    if not isinstance(place, np.ndarray):
        assert len(pickle.dumps(open_image(place))) < 3000


def test_many_threads_read_at_once(place: Any) -> None:
    source = pickle.loads(pickle.dumps(open_image(place)))
    boxes = [Box((y, x), (y + 25, x + 30)) for y in range(0, 60, 5) for x in range(0, 40, 7)]
    with ThreadPoolExecutor(8) as pool:
        for box, pixels in zip(boxes, pool.map(source.read, boxes), strict=True):
            np.testing.assert_array_equal(pixels, IMAGE[box.slices])


def test_a_box_outside_is_refused_with_both(place: Any) -> None:
    for pairs in ([(0, 91), (0, 5)], [(-1, 3), (0, 5)]):
        with pytest.raises(ValueError, match=r"is not inside the image \(90, 70\)"):
            open_image(place).read(pairs)
    assert open_image(place).read([(3, 3), (0, 5)]).shape == (0, 5)


def test_boxes_may_be_slices_and_leave_out_leading_axes() -> None:
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    source = open_image(volume)
    assert source.axes == "cyx"
    np.testing.assert_array_equal(source.read((slice(1, 3), slice(None))), volume[:, 1:3])


def test_a_changed_file_is_noticed_where_it_is_opened_again(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGE)
    sent = pickle.dumps(open_image(tmp_path / "a.npy"))
    os.utime(tmp_path / "a.npy", ns=(1, 1))
    with pytest.raises(InputError, match=r"a\.npy: changed since it was opened \(mtime_ns \d+ is now 1\)"):
        pickle.loads(sent).read([])


def test_fingerprints_tell_arrays_apart() -> None:
    other = IMAGE.copy()
    other[3, 4] += 1
    assert open_image(IMAGE).fingerprint == open_image(IMAGE.copy()).fingerprint
    assert open_image(IMAGE).fingerprint != open_image(other).fingerprint
    assert open_image(IMAGE).fingerprint != open_image(IMAGE.reshape(70, 90)).fingerprint


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">u2", "<f4", "bool", ">f8"])
def test_npy_is_native_and_contiguous(tmp_path: Path, dtype: str, order: str) -> None:
    np.save(tmp_path / "a.npy", np.asarray(IMAGE > 30000, dtype=dtype, order=order))
    pixels = open_image(tmp_path / "a.npy").read([(1, 80), (2, 60)])
    assert pixels.dtype.isnative
    assert pixels.flags.c_contiguous
    assert pixels.dtype == np.dtype("uint8" if dtype == "bool" else dtype).newbyteorder("=")
    np.testing.assert_array_equal(pixels, (IMAGE > 30000)[1:80, 2:60])


def test_color_arrays_and_channels() -> None:
    color = np.random.default_rng(1).integers(0, 255, (20, 30, 3)).astype("uint8")
    source = open_image(color, channels=(2, 1))
    assert (source.axes, source.shape) == ("cyx", (2, 20, 30))
    np.testing.assert_array_equal(source.read([]), color.transpose(2, 0, 1)[[2, 1]])
    np.testing.assert_array_equal(source.read([(1, 2), (3, 9), (4, 5)]), color.transpose(2, 0, 1)[[1], 3:9, 4:5])


def test_user_settings_replace_those_of_the_image() -> None:
    source = open_image(IMAGE, pixel_size=(0.5, 0.25), nodata=0)
    assert (source.pixel_size, source.nodata) == ((0.5, 0.25), 0)
    assert open_image(IMAGE.astype("float32"), nodata=float("nan")).nodata != 0
    with pytest.raises(InputError, match="must be positive"):
        open_image(IMAGE, pixel_size=0)


def make(path: Path, content: bytes | None) -> Path:
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.tif", b"", "empty.tif: the file is empty; copy it again"),
        ("text.tif", b"not an image\n", "text.tif: not an image that can be read"),
        ("folder", None, "folder: a folder that is no Zarr store"),
        ("short.tif", b"II*\0\x08", "short.tif: cannot be read as TIFF"),
        ("cut.npy", b"\x93NUMPY\1\0", "cut.npy: cannot be mapped as .npy"),
    ],
)
def test_refuses_in_one_line_that_names_the_file(
    tmp_path: Path, name: str, content: bytes | None, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(InputError) as caught:
        open_image(make(tmp_path / name, content))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not caplog.records


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.tif: no such file"):
        open_image(tmp_path / "nowhere.tif")
    with pytest.raises(InputError, match="is no URL that can be used"):
        open_image("ftp://host/image.tif")
    with pytest.raises(InputError, match="a path or an array, not int"):
        open_image(3)
    for pixels, expected in [
        (np.zeros((0, 5)), r"shape \(0, 5\) holds no image"),
        (np.zeros(5), "holds no image"),
        (np.zeros((2, 2), complex), "complex128 are not supported"),
        (np.full((2, 2), "a"), "are not supported"),
        (np.zeros((1,) * 6), "6 axes, at most 5"),
    ]:
        with pytest.raises(InputError, match=expected):
            open_image(pixels)
    np.save(tmp_path / "o.npy", np.array([[None]]), allow_pickle=True)
    with pytest.raises(InputError, match=r"o\.npy: cannot be mapped"):
        open_image(tmp_path / "o.npy")
    np.save(tmp_path / "t.npy", IMAGE)
    (tmp_path / "t.npy").write_bytes((tmp_path / "t.npy").read_bytes()[:-10])
    with pytest.raises(InputError, match=r"t\.npy: cannot be mapped"):
        open_image(tmp_path / "t.npy")


def test_a_place_that_no_file_has_is_the_files_fault_and_not_the_disks(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with path.open("rb") as file, pytest.raises(OSError, match="Invalid argument") as caught:
        read_exactly(file.fileno(), 2, -1)
    assert of_the_disk(caught.value, path) is None
    assert of_the_disk(OSError(EIO, "Input/output error"), path) is not None
