"""A level that is halved on the fly is the one that ingest writes, box by box."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows import halved as module
from flows.halved import halved
from tests.oracles import structured_image
from tilekit import ingest, open_image
from tilekit.box import Box


@pytest.mark.parametrize("nodata", [None, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_boxes_of_a_level_are_those_that_ingest_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any, nodata: int | None
) -> None:
    monkeypatch.setattr(module, "BAND", 64)  # so that a box has several
    pixels = structured_image((2, 1301, 1103), np.uint16).astype(dtype)
    pixels[:, 300:500, 200:600] = 7
    source = open_image(pixels, nodata=nodata)
    ingest(source, tmp_path / "out.zarr")
    for level in (1, 2):
        stored = open_image(tmp_path / "out.zarr", level=level)
        here = pickle.loads(pickle.dumps(halved(source, level)))  # as a worker gets it
        assert here.shape == stored.shape
        for box in (((0, 2), (0, 9), (0, 13)), ((1, 2), (70, 250), (3, 275)), ((0, 1), (100, 325), (200, 275))):
            np.testing.assert_array_equal(here.read(box), stored.read(box))


def test_a_mask_is_halved_as_ingest_does(tmp_path: Path) -> None:
    seen = open_image(np.random.default_rng(0).integers(0, 3, (1101, 1203), dtype=np.uint8))
    ingest(replace(open_image(np.ones((1101, 1203), np.uint8)), mask=seen), tmp_path / "out.zarr")
    stored = open_image(tmp_path / "out.zarr", level=1).mask
    assert stored is not None
    here = pickle.loads(pickle.dumps(halved(seen, 1, is_mask=True)))
    box = Box((13, 0), (551, 602))
    np.testing.assert_array_equal(here.read(box) != 0, stored.read(box) != 0)
