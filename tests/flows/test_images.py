"""Which images a folder, a glob or a CSV means, where their outputs go, and what is refused before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from flows.images import is_several, list_images
from flows.params import SegmentParameters
from tests.faults.harness import make_image
from tilekit import ingest
from tilekit.errors import InputError

PLAIN = SegmentParameters()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, a store, and what lies beside images."""
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    for name in ("b.ome.tif", "a.tif", "c", "more/d.tif", ".hidden.tif"):
        make_image(images / name, 32)
    ingest(np.zeros((32, 32), np.uint8), images / "e.ome.zarr")
    (images / "notes.txt").write_text("mine")
    return images


def write_csv(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8-sig")  # as spreadsheets do
    return path


def test_a_folder_a_glob_and_a_csv_are_several_images_and_a_store_and_a_file_are_one(folder: Path) -> None:
    odd = folder / "scan[1].tif"
    make_image(odd, 32)
    assert is_several(folder)
    assert is_several(folder / "*.tif")
    assert is_several(folder / "list.CSV")
    for one in (folder / "e.ome.zarr", folder / "e.ome.zarr" / "0", folder / "a.tif", folder / "absent.tif", odd):
        assert not is_several(one)


def test_a_folder_gives_its_files_and_stores_in_order_and_says_what_it_leaves_out(folder: Path, tmp_path: Path) -> None:
    items = list_images(folder, tmp_path / "out", PLAIN)
    taken = {i.image.name: i.out.name for i in items if not i.left_out}
    assert list(taken.items()) == [
        ("a.tif", "a.zarr"),
        ("b.ome.tif", "b.zarr"),
        ("c", "c.zarr"),
        ("e.ome.zarr", "e.zarr"),
    ]
    left_out = {i.image.name: i.left_out for i in items if i.left_out}
    assert left_out == {
        "more": f"a folder; name its images by a glob such as '{folder / 'more'}/*.tif'",
        "notes.txt": "no image by its name (.txt)",
    }


def test_a_glob_goes_through_folders(folder: Path, tmp_path: Path) -> None:
    found = list_images(folder / "**" / "*.tif", tmp_path / "out", PLAIN)
    assert [i.image.relative_to(folder).as_posix() for i in found] == ["a.tif", "b.ome.tif", "more/d.tif"]
    assert not any(i.left_out for i in found)


def test_a_csv_replaces_options_for_its_rows_alone(folder: Path, tmp_path: Path) -> None:
    rows = 'a.tif,first.zarr,"0.5,0.4","DAPI,2",nan,auto\nmore/d.tif,,,,,more/mask.tif\n'
    table = write_csv(folder, f"image,out,pixel_size,channels,nodata,mask\n{rows}")
    first, second = list_images(table, tmp_path / "out", SegmentParameters(channels="0", tile=64))
    assert (first.image, first.out) == (folder / "a.tif", tmp_path / "out" / "first.zarr")
    assert (second.image, second.out) == (folder / "more" / "d.tif", tmp_path / "out" / "d.zarr")
    assert (first.parameters.pixel_size, first.parameters.channels) == ("0.5,0.4", "DAPI,2")
    assert np.isnan(first.parameters.nodata or 0)
    assert first.parameters.mask == "auto"
    assert second.parameters == SegmentParameters(channels="0", tile=64, mask=str(folder / "more" / "mask.tif"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "columns are"),
        ("picture\na.tif\n", "columns are picture; give image"),
        ("image,colour\na.tif,red\n", "columns are image, colour"),
        ("image,image\na.tif,b\n", "columns are image, image"),
        ("image,out\na.tif\n", "list.csv line 2: does not fit the 2 columns"),
        ("image,out\na.tif,x.zarr,y\n", "list.csv line 2: does not fit"),
        ("image,out\n,x.zarr\n", "list.csv line 2: does not fit"),
        ("image,nodata\na.tif,0\nc,none\n", "list.csv line 3: --nodata none"),
        ("image,pixel_size\na.tif,wide\n", "list.csv line 2: --pixel-size wide"),
        ('image,channels\na.tif,"0,"\n', "list.csv line 2: --channels 0,"),
        ('image\n"a.tif\n', "list.csv: is no CSV after line 1"),
        ("image\n", "no image there"),
        ("image\na.tif\nmore/a.tif\n", "would both become"),
        ("image,out\na.tif,x.zarr\nc,x.zarr\n", "would both become"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused_with_its_line(folder: Path, tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)) as refused:
        list_images(write_csv(folder, text), tmp_path / "out", PLAIN)
    assert "\n" not in str(refused.value)


def test_two_images_of_one_name_are_refused(folder: Path, tmp_path: Path) -> None:
    make_image(folder / "a.png", 32)
    with pytest.raises(InputError, match=r"a\.png and .*a\.tif would both become .*a\.zarr; rename one"):
        list_images(folder, tmp_path / "out", PLAIN)


@pytest.mark.parametrize("name", ["absent.csv", "*.nothing", "empty"])
def test_where_there_is_no_image_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=r"no image|no such file"):
        list_images(folder / name, tmp_path / "out", PLAIN)


def test_an_output_that_is_no_folder_of_stores_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "out.zarr", tmp_path / "file", folder / "e.ome.zarr"):
        with pytest.raises(InputError, match="several images; give a folder"):
            list_images(folder, out, PLAIN)
    with pytest.raises(InputError, match="is the folder of the images"):
        list_images(folder, folder, PLAIN)


def test_stores_may_be_labeled_where_they_lie(tmp_path: Path) -> None:
    ingest(np.zeros((32, 32), np.uint8), tmp_path / "a.zarr")
    (item,) = list_images(tmp_path, tmp_path, PLAIN)
    assert item.image == item.out
