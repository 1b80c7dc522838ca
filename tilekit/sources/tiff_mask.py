"""Masks of a TIFF: transparency mask pages, and the nodata index of a palette that is shown as colors."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.sources.source import Reader, Reference, Source, fitting_nodata, level_scale
from tilekit.sources.tiff_layout import lay_planes
from tilekit.sources.tiff_metadata import file_nodata
from tilekit.sources.tiff_orientation import orientation_of
from tilekit.sources.tiff_pages import make_reader
from tilekit.sources.tiff_photometric import Photometric, has_palette
from tilekit.sources.tiff_reader import TiffReader
from tilekit.sources.tiff_series import Opened


@dataclass(frozen=True)
class MaskReader:
    """1 where the pixels behind are not `invalid`, else 0."""

    reader: Reader
    invalid: float | int

    def read(self, box: Box) -> NDArray[Any]:
        valid: NDArray[np.bool_] = np.not_equal(self.reader.read(box), self.invalid)
        return valid.view(np.uint8)


def describe_mask(opened: Opened, reference: Reference) -> Source | None:
    """The mask (y, x) of the level that is opened, nonzero where the image is valid; None where there is none."""
    found = _find(opened)
    orientation = orientation_of(opened.full.keyframe)
    levels = tuple(orientation.shown((s.keyframe.imagelength, s.keyframe.imagewidth)) for s in opened.choice.levels)
    if found is None:
        return _beside(opened.path, reference.level, levels[reference.level])
    reader, invalid = found
    return Source(
        reference=reference,
        name=opened.path.name,
        axes="yx",
        shape=levels[reference.level],
        dtype=np.dtype(np.uint8),
        levels=levels,
        level=reference.level,
        fingerprint=opened.fingerprint,
        tiling="mask",
        segment_bytes=reader.segment_bytes,
        scale=level_scale(levels[0], levels[reference.level]),
        reader=MaskReader(reader, invalid),
    )


def _beside(path: Path, level: int, shape: tuple[int, ...]) -> Source | None:
    """The mask that GDAL keeps in a file of its own, `image.tif.msk`."""
    from tilekit.sources.tiff import open_tiff

    beside = path.with_name(f"{path.name}.msk")
    if not beside.is_file():
        return None
    mask = open_tiff(Reference(str(beside), open_tiff, level))
    if mask.shape != shape:
        raise InputError(
            f"{beside}: a mask of shape {mask.shape} beside an image of {shape}; write it again, or remove it"
        )
    return mask


def _find(opened: Opened) -> tuple[TiffReader, float | int] | None:
    """What holds the mask, and its value of invalid pixels."""
    path, series, mask = opened.path, opened.series, opened.choice.mask_of(opened.series)
    orientation = orientation_of(opened.full.keyframe)
    if mask is not None:
        key = mask.keyframe
        if prod(mask.shape) != key.imagelength * key.imagewidth:
            raise InputError(
                f"{path}: its mask has shape {mask.shape}, one page of one sample can be read; write it so"
            )
        planes = lay_planes(mask.axes, mask.shape, key.shaped, str(path))
        return make_reader(mask, path, planes, Photometric(), orientation), 0
    if opened.choice.mask_of(opened.full) is not None:
        raise InputError(
            f"{path}: level {opened.reference.level} of {series.shape} has no mask of that size, but level 0 has; "
            "use level 0, or write the levels of the mask too"
        )
    if not has_palette(opened.full.keyframe) or opened.reference.as_labels:
        return None
    nodata = fitting_nodata(file_nodata(opened.full.keyframe), np.dtype(np.uint16))
    planes = lay_planes(series.axes, series.shape, series.keyframe.shaped, str(path))
    if nodata is None or planes.axes != "yx":
        return None
    return make_reader(series, path, planes, Photometric(), orientation), nodata
