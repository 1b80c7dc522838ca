"""PNG and JPEG as Pillow shows them: depths, palettes, transparency, CMYK, orientation; and what is refused."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tilekit.errors import InputError
from tilekit.sources import open_image

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (37, 53, 4)).astype("uint8")
SMOOTH = np.add.outer(np.arange(37), np.arange(53)).astype("uint8")


def as_image(pixels: np.ndarray) -> np.ndarray:
    return np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels


def check_boxes(path: Path, expected: np.ndarray, *, as_labels: bool = False) -> None:
    """Equal to an array (c, y, x) or (y, x), whole and by boxes."""
    source = open_image(path, as_labels=as_labels)
    assert (source.shape, source.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(source.read([]), expected)
    rng = np.random.default_rng(1)
    for _ in range(10):
        starts = [int(rng.integers(0, n)) for n in expected.shape]
        box = [(a, int(rng.integers(a, n + 1))) for a, n in zip(starts, expected.shape, strict=True)]
        np.testing.assert_array_equal(source.read(box), expected[tuple(slice(*pair) for pair in box)])


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(height: int, width: int, bits: int, color: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG written by hand, of rows that begin with their filter's byte."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_png_as_pillow_reads_it(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    image = Image.fromarray(COLOR).convert(mode)
    image.save(path)
    check_boxes(path, as_image(np.array(image)))
    source = open_image(path)
    assert source.axes == ("yx" if mode == "L" else "cyx")
    assert source.alpha == (len(mode) - 1 if "A" in mode else None)
    assert source.segment_bytes == np.array(image).nbytes


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_16_bit_png_keeps_its_bits(tmp_path: Path, samples: int) -> None:
    path = tmp_path / "a.png"
    pixels = RNG.integers(0, 65536, (37, 53, samples)).astype("uint16").squeeze()
    path.write_bytes(imagecodecs.png_encode(pixels))
    check_boxes(path, as_image(pixels))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_shown_as_gray_and_read_as_stored_for_labels(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(3, 16, bits, 0, b"".join(b"\0" + bytes([0b11011000 + 9 * i] * 2 * bits) for i in range(3))))
    shown = np.array(Image.open(path).convert("L"))
    check_boxes(path, shown)
    check_boxes(path, shown // (255 // (2**bits - 1)), as_labels=True)
    assert shown.max() > 2**bits - 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", [False, True])
def test_palette_is_color_to_the_eye_and_indices_to_labels(tmp_path: Path, bits: int, transparent: bool) -> None:
    path = tmp_path / "a.png"
    colors = RNG.integers(0, 256, (2**bits, 3)).astype("uint8")
    indices = RNG.integers(0, 2**bits, (37, 56)).astype("uint8")
    unpacked = np.unpackbits(indices[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(unpacked.reshape(37, -1), axis=-1)
    extra = [chunk(b"PLTE", colors.tobytes())] + [chunk(b"tRNS", b"\x80\0")] * transparent
    path.write_bytes(png(37, 56, bits, 3, b"".join(b"\0" + row.tobytes() for row in rows), *extra))
    check_boxes(path, as_image(np.array(Image.open(path).convert("RGBA" if transparent else "RGB"))))
    check_boxes(path, indices, as_labels=True)
    assert open_image(path).alpha == (3 if transparent else None)
    labels = open_image(path, as_labels=True)
    assert labels.color_table is not None
    np.testing.assert_array_equal(np.array(labels.color_table)[:, :3], colors)
    assert [c[3] for c in labels.color_table[:3]] == ([128, 0, 255] if transparent else [255] * 3)[: 2**bits]
    assert labels.alpha is None


def test_a_transparent_color_becomes_alpha(tmp_path: Path) -> None:
    gray, color = tmp_path / "gray.png", tmp_path / "color.png"
    gray.write_bytes(png(1, 3, 8, 0, bytes([0, 5, 9, 5]), chunk(b"tRNS", b"\0\5")))
    color.write_bytes(png(1, 2, 8, 2, bytes([0, 5, 6, 7, 9, 9, 9]), chunk(b"tRNS", b"\0\5\0\6\0\7")))
    assert open_image(gray).read([]).tolist() == [[[5, 9, 5]], [[0, 255, 0]]]
    check_boxes(color, as_image(np.array(Image.open(color).convert("RGBA"))))
    assert open_image(color, channels=(3, 0)).alpha == 0
    assert open_image(color, channels=(2, 1)).alpha is None


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpeg_as_pillow_reads_it(tmp_path: Path, progressive: bool, subsampling: int) -> None:
    for name, pixels in [("gray", SMOOTH), ("color", np.stack([SMOOTH, SMOOTH[::-1], 255 - SMOOTH], -1))]:
        path = tmp_path / f"{name}.jpg"
        Image.fromarray(pixels).save(path, quality=80, progressive=progressive, subsampling=subsampling)
        check_boxes(path, as_image(np.array(Image.open(path))))


def test_cmyk_is_shown_as_rgb(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(COLOR, "CMYK").save(path, quality=95)
    check_boxes(path, as_image(np.array(Image.open(path).convert("RGB"))))


def test_12_bit_jpeg_is_uint16(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    pixels = SMOOTH.astype("uint16") * 40
    path.write_bytes(imagecodecs.jpeg_encode(pixels, bitspersample=12, level=100))
    read = open_image(path).read([])
    assert read.dtype == np.uint16
    assert np.abs(read.astype(int) - pixels).max() < 20


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    color = np.stack([SMOOTH, SMOOTH[::-1], 255 - SMOOTH], -1)
    Image.fromarray(color).save(path, exif=exif, dpi=(25400, 50800))
    check_boxes(path, as_image(np.array(ImageOps.exif_transpose(Image.open(path)))))
    size = open_image(path).pixel_size
    assert size == pytest.approx((1, 0.5) if orientation >= 5 else (0.5, 1), rel=1e-3)


def test_pixel_size_only_where_plausible(tmp_path: Path) -> None:
    for suffix in ("png", "jpg"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(SMOOTH).save(path, dpi=(72, 72))
        assert open_image(path).pixel_size is None
        assert open_image(path, pixel_size=0.5).pixel_size == (0.5, 0.5)


def test_decoded_once_and_again_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLOR).save(path)
    source = open_image(path)
    n, decode = [0], imagecodecs.png_decode

    def counted(data: bytes) -> np.ndarray:
        n[0] += 1
        return decode(data)

    monkeypatch.setattr(imagecodecs, "png_decode", counted)
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda y: source.read([(y, y + 1), (0, 53)]), range(37)))
    np.testing.assert_array_equal(np.concatenate(rows, 1), as_image(COLOR))
    assert n == [1]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).read([]), as_image(COLOR))
    assert n == [2]


def flat(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


PNG = flat(Image.fromarray(COLOR), "PNG")
JPEG = flat(Image.fromarray(COLOR).convert("RGB"), "JPEG")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png(10**6, 10**6, 8, 0, b""), "claims 1000000 x 1000000 pixels, which its 65 bytes cannot hold"),
        (PNG[: len(PNG) // 2], "within a chunk of"),
        (PNG[:20], "its header is cut short|within a chunk"),
        (JPEG[: len(JPEG) // 2], "its end is missing"),
        (JPEG[:30], "cut short|no marker"),
        (png(0, 4, 8, 0, b""), "0 x 4 pixels"),
        (png(4, 4, 8, 5, b"\0" * 20), "color type 5"),
        (png(4, 4, 8, 0, b"\0" * 9), "cannot be decoded"),
    ],
)
def test_refuses_in_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "bad.picture"
    path.write_bytes(content)
    with pytest.raises(InputError, match=expected) as caught:
        open_image(path).read([])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_series_are_not_counted_here(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    assert open_image(tmp_path / "a.png", series=0).axes == "cyx"
    with pytest.raises(InputError, match="series 1 asked for, and only TIFFs are counted so; leave it out"):
        open_image(tmp_path / "a.png", series=1)


def test_a_picture_too_large_to_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    row = zlib.compressobj(1)
    side = 50_000
    packed = b"".join(row.compress(bytes(side + 1)) for _ in range(side)) + row.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"50000 x 50000 pixels take 2500000000 bytes; PNG .* convert it to tiled"):
        open_image(path)


@pytest.mark.parametrize("content", [PNG, JPEG], ids=["png", "jpeg"])
@given(data=st.data())
def test_broken_pictures_end_in_pixels_or_one_line(
    content: bytes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    broken = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(4, min(len(broken) - 1, 700)))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "broken.picture"
    path.write_bytes(broken[: data.draw(st.integers(12, len(broken)))])
    refusal = ""
    try:
        source = open_image(path)
        assert source.read([]).shape == source.shape
    except InputError as error:
        refusal = str(error)
    assert "\n" not in refusal


REAL = ("chesapeake-landcover", "dsb2018-nuclei", "axondeepseg-sem", "isbi2012-em")


@pytest.mark.parametrize("folder", REAL)
def test_real_pictures_as_pillow_shows_them(shared_data: Path, folder: str) -> None:
    paths = sorted(p for p in (shared_data / folder).rglob("*") if p.suffix.lower() in (".png", ".jpg"))
    if not paths:
        pytest.skip(f"no pictures in {folder}")
    shown: Callable[[Image.Image], Image.Image] = lambda i: i.convert({"1": "L", "P": "RGB"}.get(i.mode, i.mode))  # noqa: E731
    for path in paths[:: max(1, len(paths) // 12)]:
        with Image.open(path) as image:
            check_boxes(path, as_image(np.array(shown(image))))
