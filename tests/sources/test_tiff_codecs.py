"""Codecs, bit depths and byte orders of TIFF: random boxes equal tifffile's own reading of the whole file."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.sources import open_image


def smooth(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A picture that lossy codecs keep recognizable, over half the range of its dtype."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    wave = (np.sin(y / 9) + np.cos(x / 13) + 2) / 4
    image = np.stack([np.roll(wave, 7 * k, 1) for k in range(shape[2])], -1) if len(shape) == 3 else wave
    return (image * (np.iinfo(dtype).max // 2 if np.dtype(dtype).kind in "iu" else 1000)).astype(dtype)


def same_boxes(path: Path, whole: np.ndarray) -> None:
    source = open_image(path)
    assert (source.shape, source.dtype) == (whole.shape, whole.dtype)
    assert source.segment_bytes > 0
    rng = np.random.default_rng(0)
    for _ in range(12):
        ends = [np.sort(rng.integers(0, n + 1, 2)) for n in whole.shape]
        box = Box(tuple(int(a) for a, _ in ends), tuple(int(b) for _, b in ends))
        np.testing.assert_array_equal(source.read(box), whole[box.slices])
    np.testing.assert_array_equal(source.read([]), whole)


GRAY, COLOR = (83, 101), (83, 101, 3)
TILES, STRIPS = {"tile": (32, 48)}, {"rowsperstrip": 9}

# codec: shape, dtype, options
CODECS: dict[str, tuple[tuple[int, ...], str, dict[str, Any]]] = {
    "LZW": (GRAY, "uint8", {"compression": "lzw"}),
    "LZW, predictor 2": (COLOR, "uint16", {"compression": "lzw", "predictor": 2}),
    "LZW, predictor 3": (GRAY, "float32", {"compression": "lzw", "predictor": 3}),
    "deflate": (COLOR, "uint8", {"compression": "adobe_deflate"}),
    "old deflate, predictor 2": (GRAY, "int32", {"compression": "deflate", "predictor": 2}),
    "deflate, predictor 3, half": (GRAY, "float16", {"compression": "zlib", "predictor": 3}),
    "deflate, predictor 3, double": (GRAY, "float64", {"compression": "zlib", "predictor": 3}),
    "zstd": (GRAY, "float64", {"compression": "zstd"}),
    "LZMA": (GRAY, "int16", {"compression": "lzma"}),
    "packbits": (COLOR, "uint8", {"compression": "packbits"}),
    "WebP": (COLOR, "uint8", {"compression": "webp", "compressionargs": {"level": 80}}),
    "WebP, lossless": (COLOR, "uint8", {"compression": "webp", "compressionargs": {"lossless": True}}),
    "JPEG gray": (GRAY, "uint8", {"compression": "jpeg"}),
    "JPEG RGB": (COLOR, "uint8", {"compression": "jpeg", "compressionargs": {"outcolorspace": "rgb"}}),
    "JPEG YCbCr 4:2:0": (COLOR, "uint8", {"compression": "jpeg", "subsampling": (2, 2)}),
    "JPEG YCbCr 4:4:4": (COLOR, "uint8", {"compression": "jpeg", "subsampling": (1, 1)}),
    "lossless JPEG": (GRAY, "uint8", {"compression": "jpeg", "compressionargs": {"lossless": True}}),
    "lossless JPEG, 16 bits": (
        GRAY, "uint16", {"compression": "jpeg", "compressionargs": {"lossless": True, "bitspersample": 16}},
    ),
    "JPEG 2000": (COLOR, "uint8", {"compression": "jpeg2000"}),
    "JPEG 2000, Aperio 33003": (GRAY, "uint8", {"compression": 33003}),
    "JPEG 2000, Aperio 33005": (COLOR, "uint8", {"compression": 33005}),
    "PNG": (GRAY, "uint16", {"compression": "png"}),
    "JPEG XL": (COLOR, "uint8", {"compression": "jpegxl"}),
}  # fmt: skip


@pytest.mark.parametrize("layout", [TILES, STRIPS], ids=["tiles", "strips"])
@pytest.mark.parametrize("codec", CODECS)
def test_codec(codec: str, layout: dict[str, Any], tmp_path: Path) -> None:
    shape, dtype, options = CODECS[codec]
    path = tmp_path / "a.tif"
    photometric = "rgb" if len(shape) == 3 else "minisblack"
    if "YCbCr" in codec and layout is STRIPS:
        layout = {"rowsperstrip": 16}  # whole blocks of subsampled chroma
    tifffile.imwrite(path, smooth(shape, dtype), photometric=photometric, **layout, **options)
    whole = tifffile.imread(path)
    same_boxes(path, whole.transpose(2, 0, 1) if whole.ndim == 3 else whole)


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("options", [{}, TILES, {"compression": "zlib", "predictor": True}], ids=str)
@pytest.mark.parametrize("dtype", [f"{kind}{n}" for kind in ("int", "uint") for n in (8, 16, 32, 64)] + ["float16"])
def test_byte_order(dtype: str, options: dict[str, Any], byteorder: str, tmp_path: Path) -> None:
    image = smooth(GRAY, dtype)
    if "64" in dtype:
        options = {**options, "predictor": None}  # imagecodecs has none of 64 bits
    tifffile.imwrite(tmp_path / "a.tif", image, byteorder=byteorder, **options)
    same_boxes(tmp_path / "a.tif", image)


@pytest.mark.parametrize("options", [{}, TILES], ids=str)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 7, 10, 12, 14, 24, 31])
def test_odd_bit_depths(bits: int, options: dict[str, Any], tmp_path: Path) -> None:
    dtype = "uint8" if bits < 8 else "uint16" if bits < 16 else "uint32"
    image = np.random.default_rng(0).integers(0, 2**bits, GRAY).astype("bool" if bits == 1 else dtype)
    # tifffile writes few of these depths itself, so that packed rows are given to it ready made
    h, w = options["tile"] if options else (9, GRAY[1])
    segments = []
    for y in range(0, GRAY[0], h):
        for x in range(0, GRAY[1], w):
            part = np.zeros((h if options else min(h, GRAY[0] - y), w), np.uint64)
            inside = image[y : y + h, x : x + w]
            part[: inside.shape[0], : inside.shape[1]] = inside
            digits = (part[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint64)) & 1
            segments.append(np.packbits(digits.reshape(len(part), -1).astype(bool), axis=1).tobytes())
    tifffile.imwrite(
        tmp_path / "a.tif", iter(segments), shape=GRAY, dtype=image.dtype, bitspersample=bits, photometric="minisblack",
        **(options or {"rowsperstrip": 9}),
    )  # fmt: skip
    same_boxes(tmp_path / "a.tif", image.astype(dtype))


@pytest.mark.parametrize("compression", ["group3", "group4"])
def test_fax(compression: str, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 2, GRAY).astype(bool)
    Image.fromarray(image).save(tmp_path / "a.tif", compression=compression)
    same_boxes(tmp_path / "a.tif", image.astype("uint8"))


def test_reversed_bits(tmp_path: Path) -> None:
    image = smooth(GRAY, "uint16")
    reverse = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1)[:, 0]
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=[(274, "H", 1, 2, True)])
    raw = bytearray((tmp_path / "a.tif").read_bytes().replace(struct.pack("<HH", 274, 3), struct.pack("<HH", 266, 3)))
    (tmp_path / "a.tif").write_bytes(raw)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages.first.fillorder == 2
        offset, n = tiff.pages.first.dataoffsets[0], image.nbytes
    raw[offset : offset + n] = reverse[np.frombuffer(raw[offset : offset + n], np.uint8)].tobytes()
    (tmp_path / "a.tif").write_bytes(raw)
    same_boxes(tmp_path / "a.tif", image)


def test_float24(tmp_path: Path) -> None:
    import imagecodecs

    image = smooth(GRAY, "float32")
    tifffile.imwrite(tmp_path / "a.tif", image)
    packed = imagecodecs.float24_encode(image, byteorder="<")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages.first.tags["BitsPerSample"].overwrite(24)
        tiff.pages.first.tags["StripByteCounts"].overwrite(len(packed))
        offset = tiff.pages.first.dataoffsets[0]
    raw = bytearray((tmp_path / "a.tif").read_bytes())
    raw[offset : offset + len(packed)] = packed
    (tmp_path / "a.tif").write_bytes(raw)
    same_boxes(tmp_path / "a.tif", imagecodecs.float24_decode(packed, byteorder="<").reshape(GRAY))


def test_a_strip_too_large_for_any_memory_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 20), "uint8"), compression="zlib", rowsperstrip=20)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages.first.tags[tag].overwrite(10**6, dtype="I")
    with pytest.raises(InputError, match=r"a strip of 1000000 x 1000000 pixels takes 10000000000\d\d bytes"):
        open_image(tmp_path / "a.tif")


COLORS = (np.arange(768) % 256).reshape(3, 256).astype("uint16") * 257


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("uint16", {}),
        ("uint16", {"tile": (512, 512), "byteorder": ">"}),
        ("uint8", {"compression": "zlib"}),
        ("uint16", {"compression": "lzw", "predictor": 2, "byteorder": ">"}),
        ("float32", {"compression": "zlib", "predictor": 3}),
        ("bool", {"compression": "packbits", "photometric": "miniswhite"}),
        ("uint8", {"photometric": "palette", "colormap": COLORS}),
        ("uint8", {"photometric": "palette", "colormap": COLORS, "compression": "zlib"}),
        ("uint8", {"compression": "zlib", "extratags": [(274, "H", 1, 6, True)]}),
    ],
    ids=str,
)
def test_segment_bytes_are_what_a_read_holds_beside_its_result(
    dtype: str, options: dict[str, Any], tmp_path: Path
) -> None:
    image = np.random.default_rng(0).integers(0, 2, (1000, 1500)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, **{"rowsperstrip": 1000, **options})
    source = open_image(tmp_path / "a.tif")
    source.read([(0, 1) for _ in source.shape])  # opens the file
    tracemalloc.start()
    pixels = source.read([])
    held = tracemalloc.get_traced_memory()[1] - pixels.nbytes
    tracemalloc.stop()
    assert 0.4 * source.segment_bytes < held < source.segment_bytes + 30_000
