"""What an image means survives ingest: names, wavelengths, scale of values, colors, alpha, mask; and its statistics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import tilekit
from tests.oracles import structured_image
from tilekit.errors import InputError
from tilekit.jobs.statistics import block_statistics
from tilekit.pyramid import halve_labels
from tilekit.sources import Source, open_image
from tilekit.store import group_attributes

SHAPE = (3, 700, 1040)
VERSIONS = pytest.mark.parametrize("version", ["0.4", "0.5"])
MEANING: dict[str, Any] = {
    "channel_names": ("DAPI", "GFP", "alpha"),
    "wavelengths": (461.0, 509.5, None),
    "value_scale": ((0.1, -3.0), (1.0, 0.0), (2.0, 1.0)),
    "alpha": 2,
}


def image() -> np.ndarray:
    pixels = structured_image(SHAPE, "uint16", seed=5)
    pixels[2] = np.arange(1040) % 7 != 0
    return pixels


def mask() -> np.ndarray:
    rows, columns = np.mgrid[:700, :1040]
    return (((rows - 300) ** 2 + (columns - 500) ** 2 < 260**2) * 255).astype("uint8")


def described(pixels: np.ndarray, **fields: Any) -> Source:
    return replace(open_image(pixels), **fields)


@VERSIONS
@pytest.mark.parametrize("workers", [0, 2])
def test_all_fields_come_back(tmp_path: Path, version: str, workers: int) -> None:
    out = tmp_path / "out.zarr"
    source = described(image(), **MEANING, mask=open_image(mask()))
    if workers:
        np.save(tmp_path / "mask.npy", mask())
        source = replace(source, mask=open_image(tmp_path / "mask.npy"))
    tilekit.ingest(source, out, ngff=version, block=512, workers=workers)
    for level in range(3):
        found = open_image(out, level=level)
        assert {name: getattr(found, name) for name in MEANING} == MEANING
        assert found.mask is not None
        assert found.mask.shape == found.shape[-2:]
    assert (open_image(out).read([(0, n) for n in SHAPE]) == image()).all()


@VERSIONS
def test_chosen_channels_take_their_meaning_along(tmp_path: Path, version: str) -> None:
    out = tmp_path / "out.zarr"
    tilekit.ingest(described(image(), **MEANING), out, ngff=version)
    found = open_image(out, channels=[2, "DAPI"])
    assert found.channel_names == ("alpha", "DAPI")
    assert found.wavelengths == (None, 461.0)
    assert found.value_scale == ((2.0, 1.0), (0.1, -3.0))
    assert found.alpha == 0
    assert open_image(out, channels=[0, 1]).alpha is None


@VERSIONS
def test_what_an_image_does_not_say_stays_unsaid(tmp_path: Path, version: str) -> None:
    out = tmp_path / "out.zarr"
    tilekit.ingest(image(), out, ngff=version)
    found = open_image(out)
    told = (found.channel_names, found.wavelengths, found.value_scale, found.color_table, found.alpha, found.mask)
    assert told == (None,) * 6
    assert (found.nodata, found.georeference, found.pixel_size) == (None, None, None)
    assert not (out / "labels").exists()


@VERSIONS
def test_values_are_not_scaled_by_others(tmp_path: Path, version: str) -> None:
    """The scale of values is told to tilekit alone: xarray would put it to every pixel without a word."""
    out = tmp_path / "out.zarr"
    tilekit.ingest(described(image(), **MEANING), out, ngff=version)
    assert not {"scale_factor", "add_offset"} & set(zarr.open_array(out / "0", mode="r").attrs)


@VERSIONS
def test_colors_of_a_palette(tmp_path: Path, version: str) -> None:
    table = tuple((i, 255 - i, 7, 255) for i in range(256))
    out = tmp_path / "out.zarr"
    tilekit.ingest(described(structured_image((600, 700), "uint8", seed=1), color_table=table), out, ngff=version)
    assert open_image(out).color_table == table


def test_wavelengths_are_told_to_others(tmp_path: Path) -> None:
    tilekit.ingest(described(image(), **MEANING), tmp_path / "out.zarr")
    channels = group_attributes(tmp_path / "out.zarr")["ome"]["omero"]["channels"]
    assert [c.get("emission_wavelength") for c in channels] == [461.0, 509.5, None]


def test_what_was_chosen_is_in_the_provenance(tmp_path: Path) -> None:
    series = structured_image((3, 2, 1, 600, 620), "uint8", seed=2)
    tilekit.ingest(open_image(series, t=2, channels=[1]), tmp_path / "out.zarr")
    view = group_attributes(tmp_path / "out.zarr")["tilekit"]["view"]
    assert view == {"level": 0, "channels": [1], "t": 2}


@VERSIONS
def test_the_mask_is_a_label_image_with_a_pyramid(tmp_path: Path, version: str) -> None:
    import yaozarrs

    out = tmp_path / "out.zarr"
    tilekit.ingest(described(image(), mask=open_image(mask())), out, ngff=version, block=512)
    wanted = (mask() != 0).astype("uint8")
    for level in range(3):
        found = open_image(out, level=level).mask
        assert found is not None
        assert (found.read([(0, n) for n in wanted.shape]) == wanted).all()
        assert (np.asarray(zarr.open_array(out / f"labels/valid/{level}", mode="r")) == wanted).all()
        wanted = halve_labels(wanted)
    yaozarrs.validate_zarr_store(str(out / "labels/valid"))
    attributes = group_attributes(out / "labels")
    assert attributes.get("ome", attributes)["labels"] == ["valid"]


def test_the_mask_of_a_series_is_written_once(tmp_path: Path) -> None:
    series = structured_image((2, 3, 530, 600), "uint8", seed=2)
    source = described(series, axes="tcyx", mask=open_image(mask()[:530, :600]))
    tilekit.ingest(source, tmp_path / "out.zarr")
    found = open_image(tmp_path / "out.zarr").mask
    assert found is not None
    assert (found.read([(0, 530), (0, 600)]) == (mask()[:530, :600] != 0)).all()


def by_channel(out: Path) -> list[dict[str, Any]]:
    return list(group_attributes(out)["tilekit"]["statistics"])


def test_statistics_leave_out_what_is_masked_or_transparent(tmp_path: Path) -> None:
    pixels, valid = image(), mask() != 0
    out = tmp_path / "out.zarr"
    tilekit.ingest(described(pixels, alpha=2, mask=open_image(mask()), nodata=int(pixels[0, 300, 500])), out)
    found = by_channel(out)
    for channel, shown in ((0, valid & (pixels[2] != 0)), (1, valid & (pixels[2] != 0)), (2, valid)):
        seen = pixels[channel][shown].astype(float)
        seen = seen[seen != pixels[0, 300, 500]]
        assert found[channel]["count"] == seen.size
        assert found[channel]["mean"] == pytest.approx(seen.mean(), rel=1e-12)
        assert (found[channel]["min"], found[channel]["max"]) == (seen.min(), seen.max())
    assert found[0]["count"] < valid.sum() < pixels[0].size


def test_statistics_without_mask_count_every_pixel() -> None:
    pixels = np.arange(24, dtype="uint8").reshape(2, 3, 4)
    assert [block_statistics(pixels, None)[c]["count"] for c in "01"] == [12, 12]
    assert [block_statistics(pixels, None, alpha=0)[c]["count"] for c in "01"] == [12, 11]
    nothing = np.zeros((3, 4), "uint8")
    assert [block_statistics(pixels, None, None, nothing)[c]["count"] for c in "01"] == [0, 0]


@pytest.mark.parametrize(
    "source",
    [
        open_image(np.zeros((40, 50), "uint8"), nodata=0),
        open_image(np.full((2, 40, 50), np.nan, "float32")),
        replace(open_image(np.ones((2, 40, 50), "uint8")), mask=open_image(np.zeros((40, 50), "uint8"))),
        replace(open_image(np.stack([np.ones((40, 50), "uint8"), np.zeros((40, 50), "uint8")])), alpha=1),
    ],
    ids=["nodata", "NaN", "mask", "alpha"],
)
def test_an_image_of_nothing_is_one_clear_line(tmp_path: Path, source: Source) -> None:
    out = tmp_path / "out.zarr"
    for _ in range(2):  # a second run says the same
        with pytest.raises(InputError, match=r"array: not one of its 2000 pixels is valid.*--nodata") as caught:
            tilekit.ingest(source, out)
        assert "\n" not in str(caught.value)
        attributes = group_attributes(out)
        assert attributes["tilekit"]["status"] == "running"
        assert "multiscales" not in json.dumps(attributes)
