"""Real files, where they are beside the repository: each opens as its own library reads it, or is refused."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from tilekit.errors import InputError
from tilekit.sources import Source, open_image

DATA = Path(__file__).parents[3] / "shared" / "data"
TIFFS = sorted(
    path
    for folder in ("awkward-tiff", "geotiff-multiband", "sen1floods11-sample", "large-crc-wsi")
    for path in (DATA / folder).rglob("*")
    if path.suffix.lower() in (".tif", ".tiff", ".svs")
)
STORES = sorted(
    Path(root) for root, _, files in os.walk(DATA / "ome-zarr") if {"zarr.json", ".zarray", ".zgroup"} & {*files}
)
BIG = 5e7

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the folder of real images is not there")


def name(path: Path) -> str:
    return str(path.relative_to(DATA))


def random_boxes(shape: tuple[int, ...], n: int = 6) -> list[list[tuple[int, int]]]:
    rng = np.random.default_rng(0)
    starts = [[int(rng.integers(0, size)) for size in shape] for _ in range(n)]
    return [[(a, min(size, a + int(rng.integers(1, 600)))) for a, size in zip(s, shape, strict=True)] for s in starts]


def tifffile_reading(path: Path) -> np.ndarray:
    """The first series as tifffile reads it, samples before rows, shown as its tags say."""
    with tifffile.TiffFile(path) as tiff:
        pixels, axes = tiff.series[0].asarray(level=0), tiff.series[0].axes
        page = tiff.series[0].keyframe
        orientation, colors = page.tags.valueof("Orientation", 1), page.colormap
    if axes.endswith("S"):
        pixels = np.moveaxis(pixels, -1, 0)
    pixels = pixels.astype("uint8") if pixels.dtype == bool else pixels
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        pixels = 2**page.bitspersample - 1 - pixels
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        factor = next((f for f in (257, 256) if (colors % f == 0).all()), None)
        pixels = colors[:, pixels] if factor is None else (colors // factor).astype("uint8")[:, pixels]
    turned = {5: lambda a: a.swapaxes(-1, -2), 6: lambda a: np.rot90(a, -1, (-2, -1))}
    return turned.get(orientation, lambda a: a)(pixels)


def opened(path: Path) -> Source | None:
    """The source, or None after a refusal in one line that names the file."""
    refusal = None
    try:
        source = open_image(path)
        for box in random_boxes(source.shape):
            source.read(box)
    except InputError as error:
        refusal = str(error)
    if refusal is None:
        return source
    assert str(path) in refusal
    assert "\n" not in refusal
    return None


def check(source: Source, path: Path) -> None:
    boxes = random_boxes(source.shape)
    pixels = [source.read(box) for box in boxes]
    logging.disable(logging.CRITICAL)
    try:
        if np.prod(source.shape) > BIG:
            return
        whole = tifffile_reading(path)
    finally:
        logging.disable(logging.NOTSET)
    assert (whole.shape, whole.dtype) == (source.shape, source.dtype)
    for box, part in zip(boxes, pixels, strict=True):
        np.testing.assert_array_equal(part, whole[tuple(slice(*pair) for pair in box)])


@pytest.mark.parametrize("path", TIFFS, ids=name)
def test_tiff_reads_as_tifffile_does_or_is_refused(path: Path) -> None:
    source = opened(path)
    if source is not None:
        check(source, path)


def test_only_files_known_as_undecodable_or_ambiguous_are_refused() -> None:
    refused = set()
    for path in (p for p in TIFFS if "awkward-tiff" in str(p)):
        try:
            open_image(path).read([])
        except InputError:
            refused.add(path.name)
    undecodable = {
        "tiff_overflow_rows_per_strip.tif", "zackthecat.tif", "unopenable.tiff", "unreadable.svs", "corrupt.tif",
    }  # fmt: skip
    several_images = {"multipage.tiff", "multipage_out_of_order.tiff", "smalltif.tif"}
    assert refused <= undecodable | several_images


@pytest.mark.parametrize("path", STORES, ids=name)
def test_store_reads_as_zarr_does_or_is_refused(path: Path) -> None:
    source = opened(path)
    if source is None or not ((path / "zarr.json").exists() or (path / ".zarray").exists()):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Array):
        for box in random_boxes(source.shape, 3):
            np.testing.assert_array_equal(source.read(box), node[tuple(slice(*pair) for pair in box)])


@pytest.mark.skipif(not (DATA / "large-crc-wsi").exists(), reason="the slide is not there")
def test_a_slide_opens_with_its_levels() -> None:
    source = open_image(DATA / "large-crc-wsi" / "CRC01_Hoechst_level2_17408x14336.ome.tif", level=2)
    assert source.levels == ((3, 14336, 17408), (3, 3584, 4352), (3, 1792, 2176), (3, 896, 1088))
    assert source.scale == (8.0, 8.0)
    assert source.read([(1000, 1100), (1000, 1200)]).shape == (3, 100, 200)
