"""The door to tifffile: strips and tiles found and decoded by tifffile, read here one at a time.

- Several images: `--series N` counts as tifffile does; without it the file must hold one image, its pyramid and masks.
- As the eye sees it: palettes become colors (indices with `as_labels`), white as zero is inverted for unsigned
  integers, Orientation is applied except under geo tags. CMYK, Lab and raw YCbCr stay as they are, with their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tilekit.copies import as_file
from tilekit.errors import InputError
from tilekit.place import as_path
from tilekit.sources import tiff_metadata as metadata
from tilekit.sources.gdal import raster_facts
from tilekit.sources.source import (
    Reference,
    Source,
    check_level,
    check_shape,
    chosen_channels,
    file_fingerprint,
    fitting_nodata,
    level_scale,
    native_dtype,
    scaled,
    with_channels,
)
from tilekit.sources.tiff_layout import Planes, lay_planes
from tilekit.sources.tiff_log import TooManyComplaints, listening
from tilekit.sources.tiff_mask import describe_mask
from tilekit.sources.tiff_ome import companion_xml, refuse_absurd_planes
from tilekit.sources.tiff_orientation import has_geo_tags, orientation_of
from tilekit.sources.tiff_pages import make_reader
from tilekit.sources.tiff_photometric import (
    MIN_IS_WHITE,
    Photometric,
    alpha_sample,
    color_table,
    has_palette,
    photometric_of,
)
from tilekit.sources.tiff_series import Opened, choose_series

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

R = TypeVar("R")

INCOMPLETE_SIGNS = ("invalid offset to", "invalid page offset", "corrupted tag list", "circular reference", "missing")
"""Words of tifffile's log for lost pages or planes; what else it logs costs no pixels."""

MISSING_FILE = re.compile(r"failed to read ('[^']*')")


def open_tiff(reference: Reference) -> Source:
    """An image of a TIFF as a source; every strip and tile of the level is known to lie in the file."""
    return _with_file(reference, _describe)


def open_tiff_mask(reference: Reference) -> Source:
    """The mask that a TIFF keeps beside an image, as a source (y, x) of uint8: 1 where the image is valid, else 0."""
    mask = _with_file(reference, lambda opened: describe_mask(opened, reference))
    if mask is None:
        raise InputError(f"{reference.source}: has no mask any more; start again with the file as it is now")
    return mask


def _with_file(reference: Reference, describe: Callable[[Opened], R]) -> R:
    path = as_path(reference.source)
    fingerprint = file_fingerprint(path)
    with listening() as complaints:
        try:
            return _open(reference, path, fingerprint, complaints, describe)
        except InputError:
            raise
        except TooManyComplaints as error:
            raise InputError(f"{path}: its directories are full of faults ({error}); copy or write it again") from None
        except Exception as error:
            raise InputError(f"{path}: cannot be read as TIFF ({_first_line(error)}); copy or write it again") from None


def _open(
    reference: Reference,
    path: Path,
    fingerprint: dict[str, Any],
    complaints: Sequence[str],
    describe: Callable[[Opened], R],
) -> R:
    import tifffile

    with tifffile.TiffFile(as_file(path)) as tiff:
        xml = companion_xml(tiff.ome_metadata or "", path) if len(tiff.pages) else None
        if xml is None:
            return describe(_opened(reference, path, fingerprint, tiff, complaints))
    with tifffile.TiffFile(as_file(path), omexml=xml) as tiff:
        return describe(_opened(reference, path, fingerprint, tiff, complaints))


def _opened(
    reference: Reference, path: Path, fingerprint: dict[str, Any], tiff: TiffFile, complaints: Sequence[str]
) -> Opened:
    if len(tiff.pages):
        refuse_absurd_planes(tiff.ome_metadata or "", path)
    if not len(tiff.pages) or not tiff.series:
        raise InputError(f"{path}: a TIFF without a single image; copy it again")
    _refuse_complaints(complaints, path)
    choice = choose_series(tiff, reference.series, path)
    check_level(reference.level, len(choice.levels), str(path))
    return Opened(reference, path, fingerprint, tiff, choice)


def _refuse_complaints(complaints: Sequence[str], path: Path) -> None:
    """What tifffile only logs, though pages or planes are lost by it."""
    for line in complaints:
        missing = MISSING_FILE.search(line)
        if missing:
            raise InputError(f"{path}: {missing[1]} of its OME set cannot be read; copy all files that belong to it")
        if any(sign in line for sign in INCOMPLETE_SIGNS):
            raise InputError(f"{path}: incomplete: {line}; copy it again, with all files that belong to it")


def _describe(opened: Opened) -> Source:
    reference, path, full, series = opened.reference, opened.path, opened.full, opened.series
    name, key = str(path), series.keyframe
    check_shape(series.shape, name)
    stored = native_dtype(_page_dtype(series, name), name)
    look, orientation = photometric_of(full, reference.as_labels, name), orientation_of(full.keyframe)
    dtype = look.dtype(stored)
    planes = lay_planes(series.axes, series.shape, key.shaped, name, look.n_colors)
    n = planes.n_channels
    names = metadata.channel_names(opened.tiff, full, opened.choice.index, n)
    shape = (*planes.page.shape, *orientation.shown((key.imagelength, key.imagewidth)))
    channels = chosen_channels(reference, planes.axes, shape, name, names)
    reader = make_reader(series, path, planes.chosen(channels), look, orientation)
    levels = tuple(_level_shape(level, planes, orientation.shown, channels) for level in opened.choice.levels)
    scale = level_scale(levels[0], levels[reference.level])
    located = raster_facts(path, full.keyframe) if has_geo_tags(full.keyframe) else None
    ground = located.pixel_size if located else None
    size = ground or metadata.pixel_size(opened.tiff, full, opened.choice.index)
    return Source(
        reference=reference,
        name=path.name,
        axes=planes.axes,
        shape=levels[reference.level],
        dtype=dtype,
        levels=levels,
        level=reference.level,
        fingerprint=opened.fingerprint | reader.set_fingerprint(),
        tiling=_tiling(opened, look),
        segment_bytes=reader.segment_bytes,
        pixel_size=scaled(reference.pixel_size or (size and orientation.shown(size)), scale),
        slice_spacing=metadata.slice_spacing(opened.tiff, full, opened.choice.index) if "z" in planes.axes else None,
        scale=scale,
        channel_names=metadata.chosen(names, channels),
        nodata=fitting_nodata(_nodata(opened, look), dtype),
        wavelengths=metadata.chosen(metadata.wavelengths(opened.tiff, full, opened.choice.index, n), channels),
        value_scale=metadata.chosen(metadata.value_scale(full.keyframe, n), channels),
        color_table=_color_table(opened),
        alpha=_alpha(key, n, channels),
        mask=describe_mask(opened, _mask_reference(reference)),
        georeference=located.georeference.at_scale(scale) if located and located.georeference else None,
        reader=reader,
    )


def _page_dtype(series: TiffPageSeries, name: str) -> Any:
    key = series.keyframe
    if key.dtype is None:
        raise InputError(
            f"{name}: {key.bitspersample}-bit samples of format {key.sampleformat} are not supported; convert it"
        )
    return key.dtype


def _level_shape(
    level: TiffPageSeries,
    planes: Planes,
    shown: Callable[[tuple[int, int]], tuple[int, int]],
    channels: tuple[int, ...] | None,
) -> tuple[int, ...]:
    sides = shown((level.keyframe.imagelength, level.keyframe.imagewidth))
    return with_channels((*planes.page.shape, *sides), planes.axes, channels)


def _nodata(opened: Opened, look: Photometric) -> float | int | None:
    """The user's value as it is; that of the file as it is shown, if it can be: an index is in the mask instead."""
    if opened.reference.nodata is not None:
        return opened.reference.nodata
    value = metadata.file_nodata(opened.full.keyframe)
    if look.colors is not None or value is None:
        return None
    return value if look.white is None else look.white - value


def _color_table(opened: Opened) -> tuple[tuple[int, int, int, int], ...] | None:
    key = opened.full.keyframe
    if not (opened.reference.as_labels and has_palette(key)):
        return None
    return color_table(key, metadata.file_nodata(key), str(opened.path))


def _alpha(key: Any, n_channels: int, channels: tuple[int, ...] | None) -> int | None:
    """The presented channel that is alpha; GDAL's word counts more than the tag, which marks other bands too."""
    sample, interpreted = alpha_sample(key), metadata.color_interpretation(key, n_channels)
    if interpreted is not None:
        sample = interpreted.index("alpha") if "alpha" in interpreted else None
    if sample is None or n_channels != key.samplesperpixel:
        return None
    if channels is None:
        return sample
    return channels.index(sample) if sample in channels else None


def _mask_reference(reference: Reference) -> Reference:
    return replace(reference, opener=open_tiff_mask, channels=None, nodata=None, axes=None, t=None, z=None)


def _tiling(opened: Opened, look: Photometric) -> str:
    key = opened.series.keyframe
    codec = "none" if key.compression == 1 else getattr(key.compression, "name", str(key.compression)).lower()
    tiling = f"tiled {key.tilelength}x{key.tilewidth}" if key.is_tiled else f"stripped rows={key.rowsperstrip}"
    notes = [tiling, f"compression {codec}"]
    if key.photometric == MIN_IS_WHITE:
        notes.append("white is zero" if look.white is None else "inverted, as white was zero")
    if opened.choice.n_images > 1:
        notes.append(f"series {opened.choice.index}, one of {opened.choice.n_images} images")
    return ", ".join(notes)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
