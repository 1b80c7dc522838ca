"""The real sets, as a training would be told of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.training.survey import Survey, survey
from tests.flows.training.specimens import configured
from tilekit.errors import InputError
from tilekit.sources import open_image

HALO = 92


def surveyed(folder: Path, tmp_path: Path, **sections: Any) -> Survey:
    return survey(configured(folder, **sections), HALO, tmp_path)


def counts(found: Survey) -> list[int]:
    return [len(found.samples[part]) for part in ("train", "validation", "test")]


def test_membranes_by_slices(shared_data: Path, tmp_path: Path) -> None:
    data = {"images": "image", "truth": "label", "kind": "classes", "map": "0=0,255=1", "connectivity": 4}
    split = {"by": "order", "validation": ("19-23",), "test": ("24-29",)}
    found = surveyed(shared_data / "isbi2012-em", tmp_path, data=data, split=split)
    assert counts(found) == [19, 5, 6]
    assert [s.name for s in found.samples["test"]] == ["24", "25", "26", "27", "28", "29"]
    whole = np.array([row.pixels for row in found.rows]).sum(0)
    assert whole[0] / whole.sum() == pytest.approx(0.22, abs=0.001)  # as the set's own page has it
    assert all(130 <= row.objects <= 137 for row in found.rows[:6] if row.objects)


def test_cells_by_time(shared_data: Path, tmp_path: Path) -> None:
    data = {"images": "01/t*.png", "truth": "01_ST/SEG/man_seg*.tif"}
    split = {"by": "order", "train": ("36-83",), "validation": ("28-30",), "test": ("0-24",)}
    found = surveyed(shared_data / "ctc-dic-hela", tmp_path, data=data, split=split)
    numbers = {part: [int(s.name[1:]) for s in samples] for part, samples in found.samples.items()}
    assert min(numbers["train"]) >= 36
    assert max(numbers["test"]) <= 24
    assert set(numbers["validation"]) <= {28, 29, 30}
    assert all(9 <= row.objects <= 17 for row in found.rows if row.objects)
    for sample in found.samples["train"][:3]:
        assert sample.weights(sample.box).max() > found.class_weights[0] + 5  # cells touch


def test_nuclei_by_kind_of_image(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "dsb2018-nuclei"
    with (folder / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["set"] == "fluorescence"]
    lines = [
        f"{folder}/fluorescence/images/{row['file']},{folder}/fluorescence/labels/{row['file']},{row['height']}x{row['width']}"
        for row in rows
    ]
    (tmp_path / "list.csv").write_text("\n".join(["image,truth,group", *lines]))
    found = surveyed(tmp_path, tmp_path, data={"images": "list.csv"}, split={"validation": 0.15, "test": 0.15})
    groups = {part: {row.group for row in found.rows if row.part == part} for part in ("train", "validation", "test")}
    assert sum(len(g) for g in groups.values()) == len(set.union(*groups.values())) == 8
    names = {row["file"].removesuffix(".png"): int(row["n_masks"]) for row in rows}
    assert sum(row.objects or 0 for row in found.rows) >= sum(names.values()) - 5  # a ridge may take a nucleus whole
    assert len(found.rows) == 75


def test_axons_whose_masks_are_odd(shared_data: Path, tmp_path: Path) -> None:
    data = {
        "images": "sub-*/micr/*_SEM.png",
        "truth": "derivatives/labels/sub-*/micr/*_SEM_seg-axonmyelin-manual.png",
        "kind": "classes",
        "class_names": ("background", "myelin", "axon"),
    }
    split = {"group": r"(sub-rat\d)", "validation": ("sub-rat3",)}
    folder, plain = shared_data / "axondeepseg-sem", "0=0,127=1,255=2"
    with pytest.raises(InputError, match=r"data5.*: the truth holds 128, 130, 233, which \[data\] map does not cover"):
        surveyed(folder, tmp_path, data={**data, "map": plain}, split=split)
    found = surveyed(folder, tmp_path, data={**data, "map": f"{plain},128=1,130=1,233=2"}, split=split)
    assert counts(found) == [7, 3, 0]
    assert found.channels == 1
    assert {row.group for row in found.rows if row.part == "validation"} == {"sub-rat3"}


def test_land_cover_of_four_bands(shared_data: Path, tmp_path: Path) -> None:
    data = {"images": "images_rgbn", "truth": "label_hr6", "kind": "classes", "map": "2=0,3=1,5=void,6=void"}
    split = {"group": "/(train|val)_", "validation": ("val",)}
    found = surveyed(shared_data / "chesapeake-landcover", tmp_path, data=data, split=split)
    assert counts(found) == [8, 8, 0]
    assert found.channels == 4
    files = sorted((shared_data / "chesapeake-landcover" / "images_rgbn").glob("train*.tif"))
    pixels = np.concatenate([open_image(file).read([]).reshape(4, -1) for file in files], axis=1)
    np.testing.assert_allclose(found.normalization["mean"], pixels.mean(1))
    np.testing.assert_allclose(found.normalization["std"], pixels.std(1))
    assert sum(row.void for row in found.rows) > 0
