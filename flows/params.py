"""What an operator may set, with units and limits: the command line's options, and the form on Prefect's page."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tilekit.box import Box
from tilekit.errors import InputError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class Parameters(BaseModel):
    """Common to all: frozen, and nothing unknown is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ClusterParameters(Parameters):
    """Where the blocks are computed."""

    workers: Annotated[int | None, Field(ge=0, le=4096)] = None
    """Worker processes on this machine; 0: serially in this process, unset: as many as cores and memory allow."""
    scheduler: str | None = None
    """Address of a running Dask scheduler, used instead of workers of this machine."""
    tls_ca: str | None = None
    """Certificate authority (PEM file) of a scheduler at tls://."""
    tls_cert: str | None = None
    """Certificate (PEM file) to show to it."""
    tls_key: str | None = None
    """Key (PEM file) of that certificate."""

    @property
    def tls(self) -> dict[str, str] | None:
        """Paths of the TLS files; None where none is given. Refuses some without the others."""
        files = {"ca": self.tls_ca, "cert": self.tls_cert, "key": self.tls_key}
        given = {name: path for name, path in files.items() if path}
        if given and len(given) < len(files):
            raise InputError("TLS takes --tls-ca, --tls-cert and --tls-key together; give all three")
        return given or None


class ImageParameters(Parameters):
    """What is taken of an image, and what its file leaves out."""

    channels: str | None = None
    """Which of the image's channels by number or name, in the network's order, such as DAPI,2."""
    level: Annotated[int | None, Field(ge=0)] = None
    """Level of the image's pyramid; unset: the one nearest to the network's pixel size, else level 0."""
    pixel_size: str | None = None
    """Micrometres per pixel of level 0, one number or y,x, where the file does not say or is wrong."""
    nodata: float | None = None
    """Value that means: nothing measured here; also nan."""
    axes: str | None = None
    """Names of the axes in the file's order, such as tyx, where the file does not say or is wrong."""
    t: Annotated[int | None, Field(ge=0)] = None
    """The one time to take."""
    z: Annotated[int | None, Field(ge=0)] = None
    """The one slice to take."""
    series: Annotated[int | None, Field(ge=0)] = None
    """Which image of a file that holds several."""

    def opening(self) -> dict[str, Any]:
        """The options of tilekit.open_image."""
        return {
            "channels": parse_channels(self.channels),
            "level": self.level or 0,
            "pixel_size": parse_pixel_size(self.pixel_size),
            **self.model_dump(include={"nodata", "axes", "t", "z", "series"}),
        }


class IngestParameters(ClusterParameters, ImageParameters):
    """Options of `ingest`."""

    block: Annotated[int | None, Field(ge=1)] = None
    """Side of what one task writes, in pixels."""
    chunk: Annotated[int | None, Field(ge=16, le=8192)] = None
    """Side of a chunk, in pixels; unset: 512, more where files without shards would be too many."""
    ngff: Literal["0.4", "0.5"] = "0.5"
    """OME-NGFF version: 0.5 on Zarr 3, 0.4 on Zarr 2."""
    shards: bool | None = None
    """Put chunks together in shards (Zarr 3 alone); unset: yes, unless the image has a CRS."""
    overwrite: bool = False
    """Start over where the output exists."""


class SegmentParameters(ClusterParameters, ImageParameters):
    """Options of `segment`."""

    box: str | None = None
    """Part of the image to predict, y0:y1,x0:x1 in pixels."""
    mask: str | None = None
    """Where to predict: an image (nonzero there), a GeoJSON file of areas, or auto (tissue, or what is valid)."""
    preview: Annotated[int, Field(ge=0, le=100)] = 0
    """Boxes of about 1024 pixels to predict and draw before the run, into OUT-preview."""
    preview_only: bool = False
    """Stop after them."""
    probabilities: Literal["uint8", "float16"] | None = None
    """Store the probabilities too."""
    tile: Annotated[int | None, Field(ge=1)] = None
    """Side of a tile's core in pixels, rounded down to the network's stride."""
    block: Annotated[int | None, Field(ge=1)] = None
    """Side of what one task writes in pixels, a multiple of the network's stride."""
    memory: str | None = None
    """Memory for all workers together, such as 4GB; unset: four fifths of what is free."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 is twice as fast and no longer exact."""
    overwrite: bool = False
    """Start over where the output exists."""

    @property
    def preview_boxes(self) -> int:
        """Boxes to preview."""
        return self.preview or (5 if self.preview_only else 0)


def checked(kind: type[Any], **values: Any) -> Any:
    """Parameters from options; a value that does not fit is refused in one line that names it."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-") if first["loc"] else kind.__name__
        raise InputError(f"--{name} {first.get('input')}: {first['msg'].lower()}; see --help") from None


def parse_bytes(text: str | None) -> int | None:
    """Bytes from a size with a unit.

    >>> parse_bytes("4GB"), parse_bytes("512MiB")
    (4000000000, 536870912)
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if not found or found[2] not in UNITS:
        raise InputError(f"--memory {text}: is no size; write it like 4GB or 512MiB")
    return int(float(found[1]) * UNITS[found[2]])


def parse_channels(text: str | None) -> tuple[int | str, ...] | None:
    """Channel numbers and names from a list.

    >>> parse_channels("DAPI, 2")
    ('DAPI', 2)
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise InputError(f"--channels {text}: is no list of channels; write numbers or names like DAPI,2")
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def parse_pixel_size(text: str | None) -> tuple[float, float] | None:
    """Micrometres per pixel (y, x) from one number or two.

    >>> parse_pixel_size("0.5")
    (0.5, 0.5)
    """
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) <= 0:
        raise InputError(
            f"--pixel-size {text}: is no pixel size; write micrometres per pixel like 0.5 or 0.5,0.4 (y,x)"
        )
    return numbers[0], numbers[-1]


def parse_box(text: str | None) -> Box | None:
    """A box from its ranges.

    >>> parse_box("0:512,100:400").shape
    (512, 300)
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+):(\d+),(\d+):(\d+)\s*", text)
    if not found or int(found[1]) >= int(found[2]) or int(found[3]) >= int(found[4]):
        raise InputError(f"--box {text}: is no box; write it like y0:y1,x0:x1 with the smaller number first")
    y0, y1, x0, x1 = map(int, found.groups())
    return Box((y0, x0), (y1, x1))
