"""TIFF of each kind: any box equals the same part of tifffile's own reading of the whole file."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.sources import open_image

FAST = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def picture(shape: tuple[int, ...], dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def boxes(shape: tuple[int, ...]) -> st.SearchStrategy[Box]:
    """Any box inside an image, empty ones included."""
    ends = st.tuples(*(st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted) for n in shape))
    return ends.map(lambda pairs: Box(tuple(a for a, _ in pairs), tuple(b for _, b in pairs)))


# kind: shape, dtype, options of the file, options of the image, axes, how the stored shape is presented
KINDS = {
    "stripped": ((70, 50), "uint16", {}, {"rowsperstrip": 7}, "yx", None),
    "one strip": ((70, 50), "float32", {}, {"rowsperstrip": 70}, "yx", None),
    "tiled": ((70, 50), "uint8", {}, {"tile": (32, 16)}, "yx", None),
    "big-endian strips": ((70, 50), "uint16", {"byteorder": ">"}, {"rowsperstrip": 9}, "yx", None),
    "big-endian tiles": ((70, 50), "float64", {"byteorder": ">"}, {"tile": (16, 16)}, "yx", None),
    "BigTIFF": ((70, 50), "int32", {"bigtiff": True}, {"tile": (16, 16), "compression": "zstd"}, "yx", None),
    "predictor": ((70, 50), "uint16", {}, {"compression": "lzw", "predictor": True, "rowsperstrip": 11}, "yx", None),
    "float predictor": ((70, 50), "float32", {}, {"compression": "zlib", "predictor": 3, "tile": (16, 32)}, "yx", None),
    "color": ((70, 50, 3), "uint8", {}, {"photometric": "rgb", "tile": (16, 16)}, "cyx", (2, 0, 1)),
    "color strips": ((70, 50, 4), "uint16", {}, {"photometric": "rgb", "rowsperstrip": 5}, "cyx", (2, 0, 1)),
    "planar": ((3, 70, 50), "uint8", {}, {"photometric": "rgb", "planarconfig": "separate", "tile": (16, 16)},
               "cyx", None),
    "planar strips": ((3, 70, 50), "uint8", {}, {"photometric": "rgb", "planarconfig": "separate"}, "cyx", None),
    "pages": ((5, 70, 50), "uint8", {}, {"photometric": "minisblack", "compression": "zlib"}, "zyx", None),
    "volume tiles": ((9, 40, 50), "uint8", {}, {"photometric": "minisblack", "tile": (4, 16, 16)}, "zyx", None),
    "bilevel": ((70, 50), "bool", {}, {"photometric": "minisblack"}, "yx", None),
    "ome": ((2, 3, 4, 20, 30), "uint16", {"ome": True}, {"metadata": {"axes": "TCZYX"}}, "tczyx", None),
    "ome, z before c": ((4, 3, 20, 30), "uint8", {"ome": True}, {"metadata": {"axes": "ZCYX"}}, "czyx", (1, 0, 2, 3)),
    "ome color z": (
        (4, 20, 30, 3), "uint8", {"ome": True},
        {"metadata": {"axes": "ZYXS"}, "photometric": "rgb", "compression": "zlib"}, "czyx", (3, 0, 1, 2),
    ),
    "imagej": ((2, 4, 3, 20, 30), "uint16", {"imagej": True}, {"metadata": {"axes": "TZCYX"}}, "tczyx",
               (0, 2, 1, 3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_any_box_equals_the_whole_image_there(kind: str, tmp_path: Path) -> None:
    shape, dtype, file_options, image_options, axes, order = KINDS[kind]
    path = tmp_path / ("a.ome.tif" if "ome" in kind else "a.tif")
    with tifffile.TiffWriter(path, **file_options) as writer:
        writer.write(picture(shape, dtype), **image_options)
    whole = tifffile.imread(path)
    whole = (whole if order is None else whole.transpose(order)).astype("uint8" if dtype == "bool" else dtype)
    source = open_image(path)
    assert (source.axes, source.shape, source.dtype) == (axes, whole.shape, whole.dtype)
    np.testing.assert_array_equal(source.read([]), whole)

    @FAST
    @given(boxes(whole.shape))
    def compare(box: Box) -> None:
        pixels = source.read(box)
        assert pixels.flags.c_contiguous
        assert pixels.dtype == whole.dtype
        np.testing.assert_array_equal(pixels, whole[box.slices])

    compare()


@pytest.mark.parametrize("sub_ifds", [True, False])
def test_levels_of_a_pyramid(tmp_path: Path, sub_ifds: bool) -> None:
    full, half = picture((128, 96)), picture((64, 48), seed=1)
    with tifffile.TiffWriter(tmp_path / "p.tif") as writer:
        writer.write(full, tile=(32, 32), subifds=1 if sub_ifds else None, metadata=None)
        writer.write(half, tile=(32, 32), subfiletype=1, metadata=None)
    source = open_image(tmp_path / "p.tif", level=1, pixel_size=0.5)
    assert source.levels == ((128, 96), (64, 48))
    assert (source.level, source.scale, source.pixel_size) == (1, (2.0, 2.0), (1.0, 1.0))
    np.testing.assert_array_equal(source.read([(3, 60), (1, 48)]), half[3:60, 1:48])
    np.testing.assert_array_equal(open_image(source).read([]), full)
    with pytest.raises(InputError, match="level 2 asked for, the image has 2; use 0 to 1"):
        open_image(tmp_path / "p.tif", level=2)


def test_channels_come_in_the_order_asked_for(tmp_path: Path) -> None:
    image = picture((40, 30, 3), "uint8")
    tifffile.imwrite(tmp_path / "c.tif", image, photometric="rgb", tile=(16, 16))
    source = open_image(tmp_path / "c.tif", channels=[2, 0])
    assert source.shape == source.levels[0] == (2, 40, 30)
    np.testing.assert_array_equal(source.read([]), image.transpose(2, 0, 1)[[2, 0]])
    np.testing.assert_array_equal(source.read([(1, 2), (4, 9), (0, 30)]), image[4:9, :, 0][None])
    with pytest.raises(InputError, match=r"channels \(0, 3\) asked for, the image has 3; use 0 to 2"):
        open_image(tmp_path / "c.tif", channels=[0, 3])


def test_ome_states_pixel_size_and_channel_names(tmp_path: Path) -> None:
    metadata = {
        "axes": "CYX", "Channel": {"Name": ["DAPI", "actin"]},
        "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm",
    }  # fmt: skip
    tifffile.imwrite(tmp_path / "a.ome.tif", picture((2, 20, 30)), metadata=metadata)
    source = open_image(tmp_path / "a.ome.tif")
    assert source.pixel_size == pytest.approx((0.5, 0.25))
    assert source.channel_names == ("DAPI", "actin")
    assert open_image(tmp_path / "a.ome.tif", channels=[1]).channel_names == ("actin",)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (10000, 20000), "resolutionunit": "CENTIMETER"}, (0.5, 1.0)),
        ({"resolution": (25400, 25400), "resolutionunit": "INCH"}, (1.0, 1.0)),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),  # what programs write without measuring
        ({"resolution": (10000, 10000), "resolutionunit": "NONE"}, None),
        ({}, None),
    ],
)
def test_resolution_tags_count_where_plausible(
    tmp_path: Path, options: dict[str, object], expected: tuple[float, float] | None
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture((20, 30)), **options)
    assert open_image(tmp_path / "a.tif").pixel_size == (expected and pytest.approx(expected))


def test_imagej_states_pixel_size(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture((20, 30)), imagej=True, resolution=(4, 2), metadata={"unit": "um"})
    assert open_image(tmp_path / "a.tif").pixel_size == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize(
    ("dtype", "text", "expected"),
    [("uint8", "255", 255), ("uint8", "-9999", None), ("float32", "-9999", -9999.0), ("uint8", "nan", None)],
)
def test_gdal_nodata(tmp_path: Path, dtype: str, text: str, expected: float | None) -> None:
    extra = [(42113, "s", 0, text, True)]
    tifffile.imwrite(tmp_path / "a.tif", picture((20, 30), dtype), extratags=extra)
    assert open_image(tmp_path / "a.tif").nodata == expected
    assert open_image(tmp_path / "a.tif", nodata=7).nodata == 7


def test_tiles_left_out_read_as_zero(tmp_path: Path) -> None:
    image = picture((64, 64), "uint8") + 1
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        for tag in ("TileOffsets", "TileByteCounts"):
            values = list(tiff.pages[0].tags[tag].value)
            tiff.pages[0].tags[tag].overwrite([values[0], 0, *values[2:]])
    image[:32, 32:] = 0
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read([]), image)


@pytest.mark.parametrize("rows", [1000, 10])
def test_a_box_of_a_stripped_file_needs_few_strips_in_memory(tmp_path: Path, rows: int) -> None:
    image = picture((1000, 4000), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", image, rowsperstrip=rows)
    source = open_image(tmp_path / "a.tif")
    tracemalloc.start()
    pixels = source.read([(500, 550), (100, 200)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(pixels, image[500:550, 100:200])
    assert peak < 500_000  # the 50 rows touched are 200,000 bytes, the image 4,000,000


@pytest.mark.parametrize("options", [{"compression": "zlib"}, {"metadata": None}, {"tile": (16, 16)}])
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path: Path, options: dict[str, object]) -> None:
    image = picture((3, 40, 40), "uint8")
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        if "metadata" in options:
            for page in image:
                writer.write(page, **options)
        else:
            writer.write(image, photometric="minisblack", **options)
    raw = (tmp_path / "a.tif").read_bytes()
    refusals = []
    for n in range(1, len(raw), 37):
        (tmp_path / "cut.tif").write_bytes(raw[:n])
        try:
            pixels = open_image(tmp_path / "cut.tif").read([])
        except InputError as error:
            refusals.append(str(error))
        else:
            np.testing.assert_array_equal(pixels, image)
    assert len(refusals) > 50
    assert all("cut.tif: " in line and "\n" not in line for line in refusals)


def test_truncation_names_the_tile_and_both_lengths(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture((64, 64), "uint8"), tile=(32, 32))
    raw = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(raw[:-600])
    expected = rf"truncated: tile 3 of 4 ends at byte {len(raw)}, the file has {len(raw) - 600} bytes; copy it again"
    with pytest.raises(InputError, match=expected):
        open_image(tmp_path / "a.tif")


# zstd without checksums cannot tell a hole in bytes that it stored as they are from pixels, nor can no compression
@pytest.mark.parametrize(
    ("compression", "half"),
    [(name, True) for name in ("zlib", "lzw", "packbits", "jpeg", "lzma", "jpeg2000")]
    + [(name, False) for name in ("zlib", "lzw", "packbits", "jpeg", "lzma", "jpeg2000", "zstd", "png")],
)
def test_a_broken_tile_is_never_zeros(tmp_path: Path, compression: str, half: bool) -> None:
    image = picture((64, 64), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(32, 32), compression=compression)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        offset, n = tiff.pages[0].dataoffsets[2], tiff.pages[0].databytecounts[2]
    raw = bytearray((tmp_path / "a.tif").read_bytes())
    hole = n // 2 if half else n
    raw[offset + n - hole : offset + n] = bytes(hole)
    (tmp_path / "a.tif").write_bytes(raw)
    source = open_image(tmp_path / "a.tif")
    assert source.read([(0, 32), (0, 64)]).any()
    with pytest.raises(InputError, match=r"a\.tif: tile 2 of 4, in box \(30, 0\) to \(64, 5\), cannot be decoded"):
        source.read([(30, 64), (0, 5)])


def test_strips_shorter_than_their_rows_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture((20, 30), "uint16"), rowsperstrip=8)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages[0].tags["StripByteCounts"].overwrite([480, 480, 100])
    with pytest.raises(InputError, match="strip 2 of 3 has 100 bytes, its rows need 240"):
        open_image(tmp_path / "a.tif")


def test_unknown_codec_is_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture((20, 20), "uint8"))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(52479)
    with pytest.raises(InputError, match=r"a\.tif: compression 52479"):
        open_image(tmp_path / "a.tif")


def test_complex_and_empty_images_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "c.tif", picture((20, 20)).astype("complex64"))
    with pytest.raises(InputError, match="complex64 are not supported"):
        open_image(tmp_path / "c.tif")
    tifffile.imwrite(tmp_path / "z.tif", picture((20, 20), "uint8"))
    with tifffile.TiffFile(tmp_path / "z.tif", mode="r+") as tiff:
        tiff.pages[0].tags["ImageLength"].overwrite(0)
    with pytest.raises(InputError, match=r"z\.tif"):
        open_image(tmp_path / "z.tif")


OME_SET = """<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0"
 DimensionOrder="XYZCT" Type="uint16" SizeX="30" SizeY="20" SizeZ="1" SizeC="2" SizeT="1"><Channel ID="Channel:0:0"/>
<Channel ID="Channel:0:1"/><TiffData FirstC="0" IFD="0" PlaneCount="1"><UUID FileName="a.ome.tif">urn:uuid:a</UUID>
</TiffData><TiffData FirstC="1" IFD="0" PlaneCount="1"><UUID FileName="b.ome.tif">urn:uuid:b</UUID></TiffData>
</Pixels></Image></OME>"""


def test_ome_set_of_two_files(tmp_path: Path) -> None:
    planes = picture((2, 20, 30))
    for name, plane in zip("ab", planes, strict=True):
        xml = OME_SET.replace("<OME ", f'<OME UUID="urn:uuid:{name}" ')
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", plane, description=xml, metadata=None, compression="zlib")
    source = open_image(tmp_path / "a.ome.tif")
    assert source.axes == "cyx"
    np.testing.assert_array_equal(source.read([]), planes)
    (tmp_path / "b.ome.tif").unlink()
    with pytest.raises(InputError, match=r"a\.ome\.tif: .*copy (it again, with )?all files that belong to it"):
        open_image(tmp_path / "a.ome.tif")


def test_a_header_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(struct.pack("<2sHI", b"II", 42, 0))
    with pytest.raises(InputError, match=r"a\.tif"):
        open_image(tmp_path / "a.tif")
