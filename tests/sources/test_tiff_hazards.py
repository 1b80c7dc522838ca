"""TIFF headers that ask for the absurd: refused in one line, or read, without the time or memory that they claim."""

from __future__ import annotations

import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tilekit.errors import InputError
from tilekit.sources import open_image

OME = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">
<Pixels DimensionOrder="XYCZT" ID="Pixels:0" SizeC="1" SizeT="{t}" SizeX="30" SizeY="20" SizeZ="1" Type="uint8"
 PhysicalSizeX="nan" PhysicalSizeY="-1"><Channel ID="Channel:0:0"/><TiffData IFD="0" PlaneCount="1"/>{more}</Pixels>
</Image></OME>"""

MODULO = """<StructuredAnnotations><XMLAnnotation ID="A" Namespace="openmicroscopy.org/omero/dimension/modulo"><Value>
<Modulo><ModuloAlongT Type="lifetime" Start="0" End="1e12" Step="1"/></Modulo></Value></XMLAnnotation>
</StructuredAnnotations></OME>"""

ENTITIES = '<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "' + "x" * 1000 + '">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(8)
) + "]><OME>&i;</OME>"  # fmt: skip


def described(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        tifffile.imwrite(path, np.zeros((20, 30), "uint8"), description=text.encode(), metadata=None)

    return write


def tagged(compression: str | None, tile: tuple[int, ...] | None, **tags: int) -> Callable[[Path], None]:
    """A file whose tags are overwritten."""

    def write(path: Path) -> None:
        volume = "ImageDepth" in tags
        image = np.zeros((4, 32, 32) if volume else (32, 32), "uint8")
        tifffile.imwrite(
            path, image, compression=compression, tile=tile, volumetric=volume, photometric="minisblack", metadata=None
        )
        with tifffile.TiffFile(path, mode="r+") as tiff:
            for name, value in tags.items():
                tiff.pages.first.tags[name].overwrite(value, dtype="I")

    return write


def loop(path: Path) -> None:
    """Two directories that follow each other for ever."""
    tifffile.imwrite(path, np.zeros((2, 20, 30), "uint8"), photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        first, second = (page.offset for page in tiff.pages)
    raw = bytearray(path.read_bytes())
    (n,) = struct.unpack_from("<H", raw, second)
    struct.pack_into("<I", raw, second + 2 + 12 * n, first)
    path.write_bytes(raw)


def many_values(path: Path) -> None:
    """A tag that claims four billion values."""
    tifffile.imwrite(path, np.zeros((20, 30), "uint8"), tile=(16, 16))
    raw = path.read_bytes()
    at = raw.index(struct.pack("<H", 324))
    path.write_bytes(raw[: at + 4] + struct.pack("<I", 2**32 - 1) + raw[at + 8 :])


def faults(path: Path) -> None:
    """A small file whose 500 sub-directories have 4,000 tags each, all of a type that there is not."""
    offsets = [1000 + 2 * i for i in range(500)]
    tags = [(256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 900)]
    tags += [(277, 3, 1, 1), (278, 3, 1, 4), (279, 4, 1, 16), (330, 4, len(offsets), 60000)]
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    body = (head + bytes(4)).ljust(1000, b"\0") + struct.pack("<H", 4000) * 29500
    path.write_bytes(body + struct.pack(f"<{len(offsets)}I", *offsets))


def large_frame(path: Path) -> None:
    """Tiles of 16 x 16 whose JPEG streams say 65,535 x 65,535."""
    tifffile.imwrite(path, np.zeros((48, 48, 3), np.uint8), tile=(16, 16), compression="jpeg", photometric="rgb")
    data = path.read_bytes()
    small = re.compile(rb"(\xff\xc0\x00.\x08)\x00\x10\x00\x10", re.DOTALL)
    assert small.search(data)
    path.write_bytes(small.sub(lambda found: found[1] + b"\xff" * 4, data))


HAZARDS: dict[str, Callable[[Path], None]] = {
    "tiles of 2^31": tagged("zlib", (16, 16), TileWidth=2**31, TileLength=2**31),
    "tiles of 2^31, raw": tagged(None, (16, 16), TileWidth=2**31, TileLength=2**31),
    "tiles of nothing": tagged("zlib", (16, 16), TileWidth=0),
    "no rows a strip": tagged("zlib", None, RowsPerStrip=0),
    "10^12 pixels": tagged("zlib", None, ImageWidth=10**6, ImageLength=10**6, RowsPerStrip=10**6),
    "10^12 raw pixels": tagged(None, None, ImageWidth=10**6, ImageLength=10**6, RowsPerStrip=10**6),
    "no bits": tagged("zlib", None, BitsPerSample=0),
    "4 billion samples": tagged("zlib", None, SamplesPerPixel=2**32 - 1),
    "depth of 2^32": tagged("zlib", (2, 16, 16), ImageDepth=2**32 - 1),
    "tile depth of 2^32": tagged("zlib", (2, 16, 16), ImageDepth=2**32 - 1, TileDepth=2**32 - 1),
    "a loop": loop,
    "4 billion tiles": many_values,
    "shape in JSON": described('{"shape": [1000000000, 20, 30]}'),
    "frames of ImageJ": described("ImageJ=1.11a\nimages=1000000000\nframes=1000000000\n"),
    "times of OME": described(OME.format(t=10**9, more="")),
    "planes of OME": described(OME.format(t=1, more='<TiffData FirstT="0" IFD="0" PlaneCount="999999999999"/>')),
    "modulo of OME": described(OME.format(t=1, more="").replace("</OME>", MODULO)),
    "XML of many elements": described("<OME>" + "<a>" * 200_000 + "</a>" * 200_000 + "</OME>"),
    "XML of many entities": described(ENTITIES),
    "2 million faulty tags": faults,
    "a JPEG frame of 4 billion pixels": large_frame,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("hazard", HAZARDS)
def test_hazard(hazard: str, tmp_path: Path) -> None:
    HAZARDS[hazard](tmp_path / "a.tif")
    tracemalloc.start()
    refusal = None
    try:
        source = open_image(tmp_path / "a.tif")
        source.read([(0, 1) for _ in source.shape])
    except InputError as error:
        refusal = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6
    assert refusal is None or ("a.tif: " in refusal and "\n" not in refusal)
