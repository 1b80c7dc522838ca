"""TIFF as the eye sees it: palettes, white as zero, orientation, alpha, masks, and what the channels are called."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from tilekit.errors import InputError
from tilekit.sources import Source, open_image

pytestmark = pytest.mark.filterwarnings(f"ignore::{NotGeoreferencedWarning.__module__}.NotGeoreferencedWarning")

RNG = np.random.default_rng(0)
TURNED: dict[int, Any] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


def same_boxes(source: Source, whole: np.ndarray) -> None:
    assert (source.shape, source.dtype) == (whole.shape, whole.dtype)
    rng = np.random.default_rng(1)
    for _ in range(10):
        box = [tuple(int(i) for i in np.sort(rng.integers(0, n + 1, 2))) for n in whole.shape]
        np.testing.assert_array_equal(source.read(box), whole[tuple(slice(*pair) for pair in box)])
    np.testing.assert_array_equal(source.read([]), whole)


@pytest.mark.parametrize("options", [{"rowsperstrip": 7}, {"tile": (16, 32), "compression": "zlib"}], ids=str)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int, options: dict[str, Any], tmp_path: Path) -> None:
    image = RNG.integers(0, 9999, (45, 70)).astype("uint16")
    tifffile.imwrite(
        tmp_path / "a.tif", image, extratags=[(274, "H", 1, orientation, True)],
        resolution=(20000, 10000), resolutionunit="CENTIMETER", **options,
    )  # fmt: skip
    source = open_image(tmp_path / "a.tif")
    same_boxes(source, TURNED[orientation](image))
    assert source.pixel_size == pytest.approx((0.5, 1.0) if orientation > 4 else (1.0, 0.5))
    assert source.levels == (source.shape,)


def test_orientation_is_what_pillow_shows(tmp_path: Path) -> None:
    image = RNG.integers(0, 255, (20, 30, 3)).astype("uint8")
    for orientation in range(1, 9):
        tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
        with Image.open(tmp_path / "a.tif") as picture:
            shown = np.asarray(picture).transpose(2, 0, 1)
        same_boxes(open_image(tmp_path / "a.tif"), shown)


def test_geo_tags_keep_rows_and_columns_as_stored(tmp_path: Path) -> None:
    image = RNG.integers(0, 255, (20, 30)).astype("uint8")
    tags = [(274, "H", 1, 6, True), (33550, "d", 3, (10.0, 10.0, 0.0), True), (33922, "d", 6, (0.0,) * 6, True)]
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=tags)
    same_boxes(open_image(tmp_path / "a.tif"), image)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [("bool", {}), ("uint8", {"compression": "zlib"}), ("uint16", {"tile": (16, 16)}), ("uint32", {}), ("uint64", {})],
)
def test_white_as_zero_is_inverted(dtype: str, options: dict[str, Any], tmp_path: Path) -> None:
    image = RNG.integers(0, 2 if dtype == "bool" else 200, (45, 70)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="miniswhite", **options)
    source = open_image(tmp_path / "a.tif")
    shown = (~image).astype("uint8") if dtype == "bool" else ~image
    same_boxes(source, shown)
    assert source.tiling.endswith("inverted, as white was zero")


def test_signed_and_float_white_as_zero_is_left_and_said(tmp_path: Path) -> None:
    for dtype in ("int16", "float32"):
        image = RNG.integers(-50, 50, (20, 30)).astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", image, photometric="miniswhite")
        source = open_image(tmp_path / "a.tif")
        same_boxes(source, image)
        assert source.tiling.endswith("white is zero")


def test_alpha_and_nodata_beside_white_as_zero(tmp_path: Path) -> None:
    image = RNG.integers(0, 255, (20, 30, 2)).astype("uint8")
    tifffile.imwrite(
        tmp_path / "a.tif", image, photometric="miniswhite", planarconfig="contig", extrasamples=["unassalpha"],
        extratags=[(42113, "s", 0, "3", True)],
    )  # fmt: skip
    source = open_image(tmp_path / "a.tif")
    same_boxes(source, np.stack([255 - image[..., 0], image[..., 1]]))
    assert (source.channel_names, source.alpha, source.nodata) == (("gray", "alpha"), 1, 252)


@pytest.mark.parametrize("factor", [257, 256, 1, "16 bits"])
@pytest.mark.parametrize("options", [{"rowsperstrip": 7}, {"tile": (16, 32), "compression": "zlib"}], ids=str)
def test_palette(factor: int | str, options: dict[str, Any], tmp_path: Path) -> None:
    index = RNG.integers(0, 256, (45, 70)).astype("uint8")
    narrow = RNG.integers(0, 256, (3, 256))
    stored = RNG.integers(0, 65536, (3, 256)) if factor == "16 bits" else narrow * factor
    tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=stored.astype("uint16"), **options)
    colors = stored.astype("uint16") if factor == "16 bits" else narrow.astype("uint8")
    source = open_image(tmp_path / "a.tif")
    same_boxes(source, colors[:, index])
    assert (source.axes, source.channel_names) == ("cyx", ("red", "green", "blue"))
    assert (source.color_table, source.mask) == (None, None)
    same_boxes(open_image(tmp_path / "a.tif", channels=["blue", 0]), colors[[2, 0]][:, index])
    labels = open_image(tmp_path / "a.tif", as_labels=True)
    same_boxes(labels, index)
    assert labels.axes == "yx"
    assert labels.color_table is not None
    eight = colors >> 8 if factor == "16 bits" else colors
    assert labels.color_table[3] == (*eight[:, 3].tolist(), 255)
    with Image.open(tmp_path / "a.tif") as picture:
        if factor == 256:  # Pillow takes the upper byte
            np.testing.assert_array_equal(np.asarray(picture.convert("RGB")).transpose(2, 0, 1), source.read([]))


def test_nodata_of_a_palette_is_a_mask_of_the_colors_and_a_value_of_the_labels(tmp_path: Path) -> None:
    index = RNG.integers(0, 4, (45, 70)).astype("uint8")
    tifffile.imwrite(
        tmp_path / "a.tif", index, photometric="palette", colormap=np.zeros((3, 256), "uint16"),
        extratags=[(42113, "s", 0, "2", True)],
    )  # fmt: skip
    source = open_image(tmp_path / "a.tif")
    assert source.nodata is None
    assert source.mask is not None
    same_boxes(source.mask, (index != 2).astype("uint8"))
    labels = open_image(tmp_path / "a.tif", as_labels=True)
    assert (labels.nodata, labels.mask) == (2, None)
    assert labels.color_table is not None
    assert [row[3] for row in labels.color_table[:4]] == [255, 255, 0, 255]


def test_pages_of_different_palettes_are_refused(tmp_path: Path) -> None:
    index = RNG.integers(0, 256, (20, 30)).astype("uint8")
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for k in (1, 2):
            colors = np.full((3, 256), k, "uint16")
            writer.write(index, photometric="palette", colormap=colors, metadata=None)
    with pytest.raises(InputError, match="pages 0 and 1 have different color maps; read the indices as labels"):
        open_image(tmp_path / "a.tif")
    assert open_image(tmp_path / "a.tif", as_labels=True).shape == (2, 20, 30)


@pytest.mark.parametrize(
    ("samples", "options", "names", "alpha"),
    [
        (3, {"photometric": "rgb"}, ("red", "green", "blue"), None),
        (4, {"photometric": "rgb", "extrasamples": ["unassalpha"]}, ("red", "green", "blue", "alpha"), 3),
        (4, {"photometric": "rgb", "extrasamples": ["assocalpha"]}, ("red", "green", "blue", "alpha"), 3),
        (4, {"photometric": "rgb", "extrasamples": ["unspecified"]}, ("red", "green", "blue", "extra"), None),
        (4, {"photometric": "separated"}, ("C", "M", "Y", "K"), None),
        (3, {"photometric": "cielab"}, ("L*", "a*", "b*"), None),
        (2, {"photometric": "minisblack", "extrasamples": ["unassalpha"]}, ("gray", "alpha"), 1),
        (3, {"photometric": "minisblack"}, None, None),
    ],
)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_names_and_alpha(
    samples: int, options: dict[str, Any], names: tuple[str, ...] | None, alpha: int | None, planar: str, tmp_path: Path
) -> None:
    image = RNG.integers(0, 255, (20, 30, samples)).astype("uint8")
    stored = image if planar == "contig" else image.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", stored, planarconfig=planar, **options)
    source = open_image(tmp_path / "a.tif")
    same_boxes(source, image.transpose(2, 0, 1))
    assert (source.channel_names, source.alpha) == (names, alpha)
    turned = open_image(tmp_path / "a.tif", channels=[samples - 1, 0])
    assert turned.alpha == (None if alpha is None else 0)
    assert open_image(tmp_path / "a.tif", channels=[0]).alpha is None


def test_gdal_names_and_scales_bands(tmp_path: Path) -> None:
    image = RNG.integers(0, 255, (2, 20, 30)).astype("int16")
    with rasterio.open(tmp_path / "a.tif", "w", "GTiff", 30, 20, 2, dtype="int16", nodata=-7) as file:
        file.write(image)
        file.set_band_description(1, "B4")
        file.set_band_description(2, "B8")
        file.scales, file.offsets = (0.5, 2.0), (0.0, -10.0)
    source = open_image(tmp_path / "a.tif", channels=["b8", "B4"])
    same_boxes(source, image[::-1])
    assert source.channel_names == ("B8", "B4")
    assert (source.value_scale, source.nodata) == (((2.0, -10.0), (0.5, 0.0)), -7)


def geotiff_with_mask(path: Path, image: np.ndarray, mask: np.ndarray, overviews: bool) -> None:
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", "GTiff", image.shape[2], image.shape[1], 3, dtype="uint8", tiled=True, blockxsize=64,
            blockysize=64, photometric="rgb", compress="deflate",
        ) as file,
    ):  # fmt: skip
        file.write(image)
        file.write_mask(mask)
    if overviews:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4])


def test_mask_of_the_file(tmp_path: Path) -> None:
    image = RNG.integers(0, 255, (3, 130, 200)).astype("uint8")
    mask = RNG.integers(0, 2, (130, 200)).astype("uint8") * 255
    geotiff_with_mask(tmp_path / "a.tif", image, mask, overviews=True)
    source = open_image(tmp_path / "a.tif", channels=[1])
    same_boxes(source, image[1:2])
    assert source.mask is not None
    same_boxes(source.mask, (mask > 0).astype("uint8"))
    again = pickle.loads(pickle.dumps(source))
    same_boxes(again.mask, (mask > 0).astype("uint8"))
    assert source.mask.levels == ((130, 200), (65, 100), (33, 50))
    for level, shape in enumerate(source.mask.levels):
        coarse = open_image(tmp_path / "a.tif", level=level)
        assert coarse.mask is not None
        assert (coarse.shape, coarse.mask.shape) == ((3, *shape), shape)
        with rasterio.open(tmp_path / "a.tif", **({"overview_level": level - 1} if level else {})) as file:
            same_boxes(coarse.mask, (file.dataset_mask() > 0).astype("uint8"))
    assert open_image(tmp_path / "a.tif", as_labels=True, series=0).mask is not None


def test_a_level_without_its_mask_is_refused(tmp_path: Path) -> None:
    image, mask = RNG.integers(0, 255, (64, 96)).astype("uint8"), RNG.integers(0, 2, (64, 96)).astype(bool)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        common: dict[str, Any] = {"metadata": None, "photometric": "minisblack"}
        writer.write(image, **common)
        writer.write(mask, subfiletype=4, **common)
        writer.write(image[::2, ::2], subfiletype=1, **common)
    source = open_image(tmp_path / "a.tif")
    assert source.mask is not None
    same_boxes(source.mask, mask.astype("uint8"))
    with pytest.raises(
        InputError, match=r"level 1 of \(32, 48\) has no mask of that size, but level 0 has; use level 0"
    ):
        open_image(tmp_path / "a.tif", level=1)
