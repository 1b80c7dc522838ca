"""Which image of a TIFF is read: series, pyramids whose levels fit, and sets of several files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tilekit.errors import InputError
from tilekit.sources import open_image

RNG = np.random.default_rng(0)
PLAIN: dict[str, Any] = {"metadata": None, "photometric": "minisblack"}


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return RNG.integers(0, 200, shape).astype(dtype)


def write(path: Path, *pages: tuple[np.ndarray, dict[str, Any]]) -> None:
    with tifffile.TiffWriter(path) as writer:
        for image, options in pages:
            writer.write(image, **{**PLAIN, **options})


@pytest.mark.parametrize("metadata", [None, {}], ids=["plain", "shaped"])
@pytest.mark.parametrize(
    ("second", "told"),
    [(noise(20, 20), "10x16 yx uint8 and 20x20 yx uint8"), (noise(10, 16, dtype="uint16"), "10x16 yx uint16")],
)
def test_several_images_are_refused_unless_one_is_chosen(
    second: np.ndarray, told: str, metadata: dict[str, Any] | None, tmp_path: Path
) -> None:
    first = noise(10, 16)
    write(tmp_path / "a.tif", (first, {"metadata": metadata}), (second, {"metadata": metadata}))
    with pytest.raises(InputError, match=rf"a\.tif: holds 2 images, .*{told}.*choose one with --series N \(0 to 1;"):
        open_image(tmp_path / "a.tif")
    for i, image in enumerate((first, second)):
        source = open_image(tmp_path / "a.tif", series=i)
        np.testing.assert_array_equal(source.read([]), image)
        assert f"series {i}, one of 2 images" in source.tiling
    with pytest.raises(InputError, match="series 2 asked for, the file has 2; use 0 to 1"):
        open_image(tmp_path / "a.tif", series=2)


def test_a_thumbnail_marked_as_reduced_is_no_second_image(tmp_path: Path) -> None:
    image, thumbnail = noise(40, 60), noise(8, 8, 3)
    write(tmp_path / "a.tif", (image, {}), (thumbnail, {"subfiletype": 1, "photometric": "rgb"}))
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read([]), image)
    assert open_image(tmp_path / "a.tif", series=1).shape == (3, 8, 8)


def test_overviews_of_any_factors_are_levels(tmp_path: Path) -> None:
    levels = [noise(*shape) for shape in ((101, 203), (51, 102), (13, 26), (5, 9))]
    write(tmp_path / "a.tif", *((level, {"subfiletype": int(k > 0)}) for k, level in enumerate(levels)))
    for k, level in enumerate(levels):
        source = open_image(tmp_path / "a.tif", level=k)
        assert source.levels == tuple(image.shape for image in levels)
        np.testing.assert_array_equal(source.read([]), level)


def test_sub_ifds_of_a_shaped_file_are_levels(tmp_path: Path) -> None:
    levels = [noise(64, 96), noise(32, 48), noise(16, 24)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(levels[0], subifds=2)
        for level in levels[1:]:
            writer.write(level)
    for k, level in enumerate(levels):
        source = open_image(tmp_path / "a.tif", level=k)
        assert source.levels == tuple(image.shape for image in levels)
        np.testing.assert_array_equal(source.read([]), level)


@pytest.mark.parametrize(
    ("level", "reason"),
    [
        (noise(32, 32), r"32x32 yx uint8, has another aspect ratio than the full 64x96 yx uint8"),
        (noise(128, 192), r"128x192 yx uint8, is larger than the level before, 64x96 yx uint8"),
        (noise(32, 48, dtype="uint16"), r"32x48 yx uint16, is of another kind than the full 64x96 yx uint8"),
    ],
)
def test_levels_that_do_not_fit_are_refused(level: np.ndarray, reason: str, tmp_path: Path) -> None:
    image = noise(64, 96)
    write(tmp_path / "a.tif", (image, {"subifds": 1}), (level, {"subfiletype": 1}))
    with pytest.raises(
        InputError, match=f"level 1 of its pyramid, {reason}; write the pyramid again, or read it without"
    ):
        open_image(tmp_path / "a.tif")
    source = open_image(tmp_path / "a.tif", series=0)
    assert source.levels == ((64, 96),)
    np.testing.assert_array_equal(source.read([]), image)


def test_an_ome_pyramid_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        writer.write(noise(64, 96), subifds=1)
        writer.write(noise(40, 48), subfiletype=1)
    with pytest.raises(
        InputError, match=r"level 1 of its pyramid, 40x48 yx uint8, has another aspect ratio than .*64x96"
    ):
        open_image(tmp_path / "a.ome.tif")
    assert open_image(tmp_path / "a.ome.tif", series=0).levels == ((64, 96),)


def test_images_of_an_ome_file_by_number_with_their_own_metadata(tmp_path: Path) -> None:
    images = [noise(20, 30), noise(2, 25, 35)]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        for k, image in enumerate(images):
            names = {"Channel": {"Name": [f"{k}a", f"{k}b"][: len(image) if image.ndim == 3 else 1]}}
            sizes = {"PhysicalSizeX": 0.5 + k, "PhysicalSizeY": 0.25 + k}
            axes = {"axes": "CYX" if image.ndim == 3 else "YX"}
            writer.write(image, photometric="minisblack", metadata={**axes, **sizes, **names})
    for k, image in enumerate(images):
        source = open_image(tmp_path / "a.ome.tif", series=k)
        np.testing.assert_array_equal(source.read([]), image)
        assert source.pixel_size == pytest.approx((0.25 + k, 0.5 + k))
        assert source.channel_names == (("0a",), ("1a", "1b"))[k]
    assert open_image(tmp_path / "a.ome.tif").shape == (20, 30)


SET = """<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{uuid}><Image ID="Image:0"><Pixels ID="Pixels:0"
 DimensionOrder="XYZCT" Type="uint8" SizeX="30" SizeY="20" SizeZ="1" SizeC="2" SizeT="1"><Channel ID="Channel:0:0"
 Name="DAPI" EmissionWavelength="461" ExcitationWavelength="358"/><Channel ID="Channel:0:1" Name="Cy5"
 ExcitationWavelength="0.65" ExcitationWavelengthUnit="µm"/><TiffData FirstC="0" IFD="0" PlaneCount="1">
<UUID FileName="a.ome.tif">urn:uuid:a</UUID></TiffData><TiffData FirstC="1" IFD="0" PlaneCount="1">
<UUID FileName="b.ome.tif">urn:uuid:b</UUID></TiffData></Pixels></Image></OME>"""

ONLY = """<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{name}">
<BinaryOnly MetadataFile="{main}" UUID="urn:uuid:c"/></OME>"""


def write_set(folder: Path, descriptions: dict[str, str]) -> np.ndarray:
    planes = noise(2, 20, 30)
    for plane, (name, xml) in zip(planes, descriptions.items(), strict=True):
        tifffile.imwrite(folder / f"{name}.ome.tif", plane, description=xml.encode(), metadata=None, compression="zlib")
    return planes


def test_a_set_of_files_names_the_one_that_is_missing(tmp_path: Path) -> None:
    planes = write_set(tmp_path, {k: SET.format(uuid=f' UUID="urn:uuid:{k}"') for k in "ab"})
    source = open_image(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(source.read([]), planes)
    assert source.channel_names == ("DAPI", "Cy5")
    assert source.wavelengths == (461, 650)
    assert open_image(tmp_path / "a.ome.tif", channels=["cy5"]).wavelengths == (650,)
    (tmp_path / "b.ome.tif").unlink()
    with pytest.raises(InputError, match=r"a\.ome\.tif: 'b\.ome\.tif' of its OME set cannot be read; copy all files"):
        open_image(tmp_path / "a.ome.tif")


def test_a_change_of_any_file_of_a_set_is_noticed(tmp_path: Path) -> None:
    write_set(tmp_path, {k: SET.format(uuid=f' UUID="urn:uuid:{k}"') for k in "ab"})
    before = open_image(tmp_path / "a.ome.tif").fingerprint
    assert open_image(tmp_path / "a.ome.tif").fingerprint == before
    with (tmp_path / "b.ome.tif").open("ab") as file:
        file.write(b"\0")
    assert open_image(tmp_path / "a.ome.tif").fingerprint != before


def test_a_file_of_a_set_finds_its_companion(tmp_path: Path) -> None:
    planes = write_set(tmp_path, {k: ONLY.format(name=k, main="set.companion.ome") for k in "ab"})
    with pytest.raises(InputError, match=r"b\.ome\.tif: is part of a set that 'set\.companion\.ome' describes"):
        open_image(tmp_path / "b.ome.tif")
    (tmp_path / "set.companion.ome").write_text(SET.format(uuid=' UUID="urn:uuid:c"'), "utf-8")
    for name in "ab":
        source = open_image(tmp_path / f"{name}.ome.tif")
        np.testing.assert_array_equal(source.read([]), planes)
        assert source.channel_names == ("DAPI", "Cy5")


def test_a_file_of_a_set_names_the_one_that_describes_it(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": SET.format(uuid=' UUID="urn:uuid:a"'), "b": ONLY.format(name="b", main="a.ome.tif")})
    with pytest.raises(InputError, match=r"b\.ome\.tif: is part of a set that 'a\.ome\.tif' describes; open that file"):
        open_image(tmp_path / "b.ome.tif")


@pytest.mark.parametrize("change", [('SizeT="1"', 'SizeT="1000000000"'), ('PlaneCount="1"', 'PlaneCount="2000000000"')])
def test_absurd_numbers_of_planes_are_refused_before_lists_are_made(change: tuple[str, str], tmp_path: Path) -> None:
    write_set(tmp_path, {k: SET.format(uuid=f' UUID="urn:uuid:{k}"').replace(*change) for k in "ab"})
    with pytest.raises(InputError, match=r"a\.ome\.tif: its OME-XML says .*, at most 1048576 can be read"):
        open_image(tmp_path / "a.ome.tif")


APERIO = "Aperio Image Library v11.2.1 \n96x128 [0,0 96x128] (32x32) JPEG/RGB Q=70|AppMag = 20|MPP = {mpp}|Left = 25"


@pytest.mark.parametrize(("mpp", "expected"), [("0.499", (0.499, 0.499)), ("zero", None)])
def test_an_aperio_slide(mpp: str, expected: tuple[float, float] | None, tmp_path: Path) -> None:
    full, quarter, label = noise(128, 96, 3), noise(32, 24, 3), noise(40, 40, 3)
    tiles: dict[str, Any] = {"tile": (32, 32), "photometric": "rgb", "description": APERIO.format(mpp=mpp)}
    write(
        tmp_path / "a.svs",
        (full, tiles),
        (quarter, {"photometric": "rgb"}),  # the thumbnail comes second
        (quarter, tiles),
        (label, {"photometric": "rgb", "subfiletype": 1}),
    )
    for k, image in enumerate((full, quarter)):
        source = open_image(tmp_path / "a.svs", level=k)
        assert source.levels == ((3, 128, 96), (3, 32, 24))
        np.testing.assert_array_equal(source.read([]), image.transpose(2, 0, 1))
        assert source.pixel_size == (expected and pytest.approx(tuple(n * 4**k for n in expected)))


LEICA = """<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection name="c">
<image name="overview"><pixels sizeX="30" sizeY="40"><dimension sizeX="30" sizeY="40" r="0" ifd="0"/></pixels>
<view sizeX="26000000" sizeY="76000000"/></image>
<image name="main"><pixels sizeX="96" sizeY="128"><dimension sizeX="96" sizeY="128" r="0" ifd="1"/>
<dimension sizeX="24" sizeY="32" r="1" ifd="2"/></pixels>
<view sizeX="48000" sizeY="32000"/></image></collection></scn>"""


def test_a_leica_slide_is_its_largest_image(tmp_path: Path) -> None:
    pages = [noise(40, 30, 3), noise(128, 96, 3), noise(32, 24, 3)]
    options = [{"photometric": "rgb", "description": LEICA} if k == 0 else {"photometric": "rgb"} for k in range(3)]
    write(tmp_path / "a.scn", *zip(pages, options, strict=True))
    source = open_image(tmp_path / "a.scn")
    assert source.levels == ((3, 128, 96), (3, 32, 24))
    np.testing.assert_array_equal(source.read([]), pages[1].transpose(2, 0, 1))
    assert source.pixel_size == pytest.approx((0.25, 0.5))
    assert open_image(tmp_path / "a.scn", series=0).shape == (3, 40, 30)


QPI = "<PerkinElmer-QPI-ImageDescription><Name>{name}</Name></PerkinElmer-QPI-ImageDescription>"


def test_channels_of_a_qptiff_by_name(tmp_path: Path) -> None:
    full, half, thumbnail = noise(3, 64, 96), noise(3, 32, 48), noise(16, 24, 3)
    names = ("DAPI", "CD8", "CK")
    common: dict[str, Any] = {"tile": (32, 32), "software": "PerkinElmer-QPI"}
    write(
        tmp_path / "a.qptiff",
        *((page, {**common, "description": QPI.format(name=name)}) for page, name in zip(full, names, strict=True)),
        (thumbnail, {"photometric": "rgb", "software": "PerkinElmer-QPI"}),
        *((page, {**common, "subfiletype": 1}) for page in half),
    )
    source = open_image(tmp_path / "a.qptiff", channels=["ck"], level=1)
    assert source.levels == ((1, 64, 96), (1, 32, 48))
    np.testing.assert_array_equal(source.read([]), half[2:])
    assert open_image(tmp_path / "a.qptiff").channel_names == names


PHILIPS = """<?xml version="1.0"?><DataObject ObjectType="DPUfsImport">
<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" PMSVR="IDoubleArray">"0.0005" "0.00025"</Attribute>
<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" >&quot;0.002&quot; &quot;0.001&quot;</Attribute>
<Attribute Name="x">0</Attribute></DataObject>"""


def test_pixel_size_of_a_philips_slide(tmp_path: Path) -> None:
    options = {"tile": (32, 32), "photometric": "rgb", "software": "Philips DP v1.0", "description": PHILIPS}
    image = noise(64, 96, 3)
    write(tmp_path / "a.tif", (image, options))
    source = open_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(source.read([]), image.transpose(2, 0, 1))
    assert source.pixel_size == pytest.approx((0.5, 0.25))
