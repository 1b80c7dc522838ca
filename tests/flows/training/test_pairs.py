"""Which image belongs to which truth, and what is refused before a pixel is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from flows.training.files import list_files
from flows.training.pairs import list_examples
from tests.flows.training.specimens import blobs, configured, noise, write_pair
from tilekit import ingest, label_objects
from tilekit.box import Box
from tilekit.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pairs and what lies beside them."""
    for k, name in enumerate(("s1_a", "s1_b", "s2_a")):
        write_pair(tmp_path, name, noise((20, 30), k), blobs((20, 30), 3, k))
    (tmp_path / "images" / "s1_a.tfw").write_text("1")
    (tmp_path / "truth" / "notes.md").write_text("mine")
    return tmp_path


def names(folder: Path, **data: Any) -> list[tuple[str, str]]:
    found = list_files(configured(folder, data=data))
    return [(p.image.relative_to(folder).as_posix(), p.truth.relative_to(folder).as_posix()) for p in found]


def test_folders_are_paired_by_the_names_of_their_files(folder: Path) -> None:
    expected = [(f"images/{n}.tif", f"truth/{n}.tif") for n in ("s1_a", "s1_b", "s2_a")]
    assert names(folder) == expected
    assert names(folder, images="images/*.tif", truth="truth") == expected


def test_globs_are_paired_by_what_their_wildcards_stand_for(tmp_path: Path) -> None:
    for s in "12":
        for t in ("03", "04"):
            write_pair(tmp_path / f"s{s}", f"t{t}", noise((9, 9)), blobs((9, 9), 2))
            (tmp_path / f"s{s}" / "truth" / f"t{t}.tif").rename(tmp_path / f"s{s}" / "truth" / f"man_seg{t}_[1].tif")
    found = names(tmp_path, images="s*/images/t*.tif", truth="s*/truth/man_seg*_[[]1].tif")
    assert found[1] == ("s1/images/t04.tif", "s1/truth/man_seg04_[1].tif")
    assert len(found) == 4
    assert names(tmp_path, images="**/images/t*.tif", truth="**/truth/man_seg*_[[]1].tif") == found


def test_one_image_and_one_truth_are_a_pair_whatever_their_names(folder: Path) -> None:
    assert names(folder, images="images/s1_a.tif", truth="truth/s2_a.tif") == [("images/s1_a.tif", "truth/s2_a.tif")]


def test_a_csv_says_pair_group_and_part(folder: Path) -> None:
    text = "image,truth,group,part\nimages/s1_a.tif,truth/s1_a.tif,one,train\nimages/s2_a.tif,truth/s2_a.tif,,test\n"
    (folder / "list.csv").write_text(text)
    examples, _ = list_examples(configured(folder, data={"images": "list.csv"}))
    assert [(e.name, e.group, e.part) for e in examples] == [("s1_a", "one", "train"), ("s2_a", None, "test")]


def test_a_group_is_what_the_expression_finds_in_the_path(folder: Path) -> None:
    examples, _ = list_examples(configured(folder, split={"group": r"images/(s\d)_"}))
    assert [e.group for e in examples] == ["s1", "s1", "s2"]


def test_files_that_differ_in_their_last_number_are_frames_of_one_sequence(tmp_path: Path) -> None:
    for name in ("c1_t007", "c1_t012", "c2_t007"):
        write_pair(tmp_path, name, noise((9, 9)), blobs((9, 9), 2))
    examples, _ = list_examples(configured(tmp_path))
    assert [(e.sequence, e.number) for e in examples] == [("c1_t#", 7), ("c1_t#", 12), ("c2_t#", 7)]


def test_a_stack_gives_an_example_per_plane_and_each_its_own_pixels(tmp_path: Path) -> None:
    image, truth = noise((2, 3, 8, 9)), np.stack([blobs((8, 9), 2, k) for k in range(6)]).reshape(2, 3, 8, 9)
    ingest(tmp_stack(tmp_path / "image.tif", image, "TZYX"), tmp_path / "image.zarr")
    tmp_stack(tmp_path / "truth.tif", truth, "TZYX")
    examples, _ = list_examples(configured(tmp_path, data={"images": "image.zarr", "truth": "truth.tif"}))
    assert [(e.name, e.number) for e in examples[1:4]] == [
        ("image t=0 z=1", 0),
        ("image t=0 z=2", 0),
        ("image t=1 z=0", 1),
    ]
    assert {e.sequence for e in examples} == {"image"}
    for example in examples:
        np.testing.assert_array_equal(example.image.read(example.plane, example.box), image[example.plane][None])
        np.testing.assert_array_equal(example.truth.read(example.box), truth[example.plane])


def tmp_stack(path: Path, pixels: Any, axes: str) -> Path:
    tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": axes})
    return path


def test_the_objects_of_a_store_are_its_truth_and_a_level_of_the_truth_fits_that_of_the_image(tmp_path: Path) -> None:
    image, classes = noise((600, 700)), (blobs((600, 700), 40) > 0).astype(np.uint8)
    ingest(image, tmp_path / "scan.zarr", block=512)
    label_objects(classes, tmp_path / "scan.zarr", block=512)
    (example,), names = list_examples(configured(tmp_path, data={"images": "scan.zarr", "truth": "scan.zarr"}))
    assert names == ("background", "object")
    np.testing.assert_array_equal(example.truth.read(example.box) > 0, classes)
    (example,), _ = list_examples(configured(tmp_path, data={"images": "scan.zarr", "truth": "scan.zarr", "level": 1}))
    assert example.shape == (300, 350)
    assert example.truth.read(example.box).shape == (300, 350)


def test_channels_are_taken_as_they_are_asked_for_and_alpha_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    image = noise((20, 30, 2))
    tifffile.imwrite(tmp_path / "images" / "a.tif", image, photometric="minisblack", extrasamples=["unassalpha"])
    (tmp_path / "truth").mkdir()
    tifffile.imwrite(tmp_path / "truth" / "a.tif", blobs((20, 30), 3))
    (example,), _ = list_examples(configured(tmp_path))
    assert example.image.channels == (0,)
    (example,), _ = list_examples(configured(tmp_path, data={"channels": (1, 0)}))
    assert example.image.channels == (1, 0)
    np.testing.assert_array_equal(example.image.read((), Box((2, 3), (5, 9))), image[2:5, 3:9].transpose(2, 0, 1)[::-1])


def refusal(folder: Path, **sections: Any) -> str:
    with pytest.raises(InputError) as refused:
        list_examples(configured(folder, **sections))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_an_image_without_truth_and_a_truth_without_image_are_refused(folder: Path) -> None:
    (folder / "truth" / "s1_b.tif").rename(folder / "truth" / "x.tif")
    assert re.search(r"truth: has no truth of s1_b.tif, which is in .*images; 1 such of 3; add or", refusal(folder))
    (folder / "images" / "s1_b.tif").unlink()
    assert re.search(r"images: has no image of the truth x.tif, which is in .*truth; 1 such of 3", refusal(folder))


def test_what_is_empty_or_absent_is_refused(folder: Path) -> None:
    (folder / "empty").mkdir()
    assert "empty: a folder without images; name one" in refusal(folder, data={"images": "empty"})
    assert "absent: no such file or folder" in refusal(folder, data={"truth": "absent"})
    assert "*.png: no file is called so; check the glob" in refusal(folder, data={"images": "images/*.png"})
    (folder / "list.csv").write_text("image,truth\n")
    assert "list.csv: has no row below its header" in refusal(folder, data={"images": "list.csv"})
    (folder / "list.csv").write_text("image\n1\n")
    assert "columns are image; give image and truth and, of group, part, any" in refusal(
        folder, data={"images": "list.csv"}
    )


@pytest.mark.parametrize(
    ("image", "truth", "told"),
    [
        (
            (20, 31),
            blobs((20, 30), 3),
            r"b.tif: the truth is 20 x 30 pixels, its image b.tif 20 x 31; give maps of one",
        ),
        ((20, 30), np.zeros((20, 30), np.float32), "the truth is float32, object ids are integers; store them as such"),
        (
            (20, 30),
            np.zeros((3, 20, 30), np.uint8),
            "b.tif: the truth has 3 z, its image b.tif one plane; give as many",
        ),
        ((4, 20, 30), blobs((20, 30), 3), r"b.tif: the truth has one plane, its image b.tif 4 z; give as many"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused(tmp_path: Path, image: Any, truth: Any, told: str) -> None:
    write_pair(tmp_path, "a", noise((20, 30)), blobs((20, 30), 3))
    write_pair(tmp_path, "b", noise(image), truth)
    assert re.search(told, refusal(tmp_path))


def test_images_of_different_channels_or_types_are_refused(folder: Path) -> None:
    tifffile.imwrite(folder / "images" / "s1_b.tif", noise((20, 30, 3)), photometric="rgb")
    assert "s1_b: has 3 channels, s1_a has 1; name those to take in [data] channels" in refusal(folder)
    tifffile.imwrite(folder / "images" / "s1_b.tif", noise((20, 30), dtype=np.uint16))
    assert "s1_b: pixels are uint16, those of s1_a uint8; convert them" in refusal(folder)


def test_a_group_that_is_not_found_is_refused(folder: Path) -> None:
    assert "finds nothing in images/s2_a.tif" in refusal(folder, split={"group": "(s1)"})
