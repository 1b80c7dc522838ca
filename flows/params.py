"""What an operator may set, with units and limits: the command line's options, and the form on Prefect's page."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from tilekit.errors import InputError
from tilekit.sources.units import micrometers

if TYPE_CHECKING:
    Place = str | Path
else:
    Place = Annotated[str, BeforeValidator(lambda place: os.fspath(place) if isinstance(place, Path) else place)]
    """A path or URL: one line of text in a form, though Python may give a Path."""


class Parameters(BaseModel):
    """Common to all: frozen, and nothing unknown is taken; what stands below a field is its description in the form."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SchedulerParameters(Parameters):
    """A cluster that is there."""

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


class ClusterParameters(SchedulerParameters):
    """Where the blocks are computed."""

    workers: Annotated[int | None, Field(ge=0, le=4096)] = None
    """Worker processes on this machine; 0: serially in this process, unset: as many as cores and memory allow."""


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


class LabelParameters(ClusterParameters):
    """Options of `label`."""

    connectivity: Literal[4, 8] = 8
    """Neighbors of a pixel: 4 by sides, 8 by corners too."""
    min_size: Annotated[int, Field(ge=0)] = 0
    """Objects of fewer pixels are left out."""
    fill_holes: Annotated[int, Field(ge=0)] = 0
    """Background of fewer pixels that one class alone surrounds is filled first."""
    split: Annotated[int, Field(ge=0, le=4096)] = 0
    """Split objects that touch, of up to so many pixels in height and width, by a watershed; 0: none."""
    block: Annotated[int, Field(ge=1)] = 4096
    """Side of what one task reads and writes, in pixels; changes no id."""
    polygons: Literal["geojson", "geoparquet", "qupath"] | None = None
    """Write the objects' outlines too."""
    overwrite: bool = False
    """Label anew where labels of other arguments exist."""


class WeighParameters(ClusterParameters):
    """Options of `weigh`."""

    w0: Annotated[float, Field(ge=0)] = 10.0
    """Weight of the border term, at its largest."""
    sigma: Annotated[float, Field(gt=0)] = 5.0
    """Its reach in pixels: standard deviation over the two nearest objects' distances together."""
    ridge: bool = True
    """Pixels of an object beside another one become background first."""
    kind: Literal["ids", "classes"] = "ids"
    """What the labels are: ids of objects, or classes, whose objects are labeled first."""
    void: int | None = None
    """Value of the labels that weighs nothing; unset: what the file says, and 255 of classes."""
    class_weights: str | None = None
    """Weights of background and object, such as 0.6,2.5, of a whole training set; unset: balanced in this map."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the weights."""
    block: Annotated[int, Field(ge=1)] = 4096
    """Side of what one task reads and writes, in pixels; changes no weight."""
    overwrite: bool = False
    """Start over where the output exists."""


class ExportParameters(Parameters):
    """Options of `export`."""

    what: Literal["classes", "objects", "probabilities", "image"] | None = None
    """What to write; unset: the objects as polygons, the classes as a TIFF."""
    format: Literal["cog", "ome-tiff", "geojson", "geoparquet", "qupath"] | None = None
    """Of the file; unset: as its name says, a GeoTIFF where the store has a place on the ground, else an OME-TIFF."""
    t: Annotated[int | None, Field(ge=0)] = None
    """The one time to write."""
    z: Annotated[int | None, Field(ge=0)] = None
    """The one slice to write."""
    workers: Annotated[int, Field(ge=0, le=4096)] = 0
    """Worker processes that trace polygons; 0: this process."""
    overwrite: bool = False
    """Replace a file that exists."""


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
    objects: bool = False
    """Number and measure the objects of the class map too."""
    probabilities: Literal["uint8", "float16"] | None = None
    """Store the probabilities too."""
    confidence: Literal["uint8", "float16"] | None = None
    """Store the highest probability and the entropy too, and list the blocks of lowest confidence."""
    average: Literal["flips"] | None = None
    """flips: the mean of the probabilities over the 8 rotations and flips, 8 times the work."""
    blend: bool = False
    """Take a network that cannot be exact: windows of it on one grid for the whole image, blended."""
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


class InboxParameters(Parameters):
    """Options of `inbox`."""

    at_once: Annotated[int, Field(ge=1, le=64)] = 1
    """Images that are segmented at the same time, at most; more than one takes worker processes."""
    settle_seconds: Annotated[float, Field(ge=0, le=86400)] = 30.0
    """Seconds for which an image must not have changed before it is taken, so that none is taken half-copied."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a failing image is tried again, after the others, before it is put aside."""
    retry_seconds: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """Seconds to wait before that."""
    redo_with_new_model: bool = False
    """Segment all images again where the model is another than the one that they were segmented with."""
    again: list[str] = []
    """For one run: names of images, or patterns such as *.tif, to be done again whatever became of them."""
    move_aside: str | None = None
    """Folder to move an image to that is put aside; unset: it stays where it is."""
    segment: SegmentParameters = SegmentParameters()
    """Options of each segmentation."""

    @field_validator("segment")
    @classmethod
    def _has_what_an_inbox_does(cls, value: SegmentParameters) -> SegmentParameters:
        if value.preview_only or value.overwrite:
            raise ValueError("preview_only and overwrite are not for an inbox")
        return value


def checked(kind: type[Any], /, **values: Any) -> Any:
    """Parameters from options; a value that does not fit is refused in one line that names it."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-") if first["loc"] else kind.__name__
        raise InputError(f"--{name} {first.get('input')}: {first['msg'].lower()}; see --help") from None


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
    return tuple(int(part) if part.isdecimal() and len(part) < 10 else part for part in parts)


def parse_pixel_size(text: str | None) -> tuple[float, float] | None:
    """Micrometres per pixel (y, x) from one length or two, in micrometres where no unit is given.

    >>> parse_pixel_size("0.5"), parse_pixel_size("10m")
    ((0.5, 0.5), (10000000.0, 10000000.0))
    """
    if text is None:
        return None
    found = [re.fullmatch(r"\s*([-+.\de]*\d)\s*([a-zµμ]*)\s*", part, re.IGNORECASE) for part in text.split(",")]
    sizes = [micrometers(match[1], match[2] or "um") if match else None for match in found]
    if len(sizes) not in (1, 2) or None in sizes:
        raise InputError(
            f"--pixel-size {text}: is no pixel size; write micrometres per pixel like 0.5 or 0.5,0.4 (y,x), or 10m"
        )
    y, x = sizes[0], sizes[-1]
    assert y is not None
    assert x is not None
    return y, x
