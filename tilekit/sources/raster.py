"""All that GDAL reads as a source: bands as channels, overviews as levels, palettes, masks, nodata."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.errors import InputError
from tilekit.sources.gdal import GdalReader, RasterFacts, facts_of, opened, refused_crs
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
from tilekit.sources.tiff_metadata import chosen
from tilekit.sources.vrt import check_vrt, is_vrt, stated_crs

PLAIN_DRIVERS = ("ENVI", "EHdr", "GenBin", "PAux", "ISCE", "ROI_PAC")

SUBDATASET = re.compile(r'(?P<driver>\w+(?::\w+)?):"?(?P<file>[^":]+)"?:(?P<inner>.+)')
"""GDAL's name of one image of several in a file."""


def absolute_subdataset(text: str) -> str | None:
    """A name such as NETCDF:"file.nc":variable with the file's whole path; None where it names no file that is here."""
    match = SUBDATASET.fullmatch(text)
    if match is None or not Path(match["file"]).expanduser().is_file():
        return None
    file = Path(match["file"]).expanduser().absolute()
    return f'{match["driver"]}:"{file}":{match["inner"]}'


def open_gdal(reference: Reference) -> Source:
    """A raster that GDAL reads, all its bands as channels: (c, y, x), or (y, x) of one; palettes as RGB or RGBA.

    A file that holds several images is refused with their names.
    """
    name = shown = str(reference.source)
    if Path(name).is_file() and is_vrt(Path(name)):
        check_vrt(Path(name))
    with opened(name, shown) as (dataset, complaints):
        if not dataset.count:
            held = ", ".join(dataset.subdatasets[:8]) or "none"
            raise InputError(f"{shown}: holds no image, or several ({held}); give the name of one")
        facts = facts_of(dataset, complaints, shown)
        if facts.georeference is None or facts.georeference.crs is None:
            _refuse_lost_crs(name)
        return _describe(reference, dataset, facts, shown)


def open_gdal_mask(reference: Reference) -> Source:
    """The mask that a raster keeps beside its bands."""
    mask = open_gdal(replace(reference, opener=open_gdal)).mask
    if mask is None:
        raise InputError(f"{reference.source}: has no mask any more; start again with the file as it is now")
    return mask


def _refuse_lost_crs(name: str) -> None:
    if Path(name).is_file() and is_vrt(Path(name)) and (crs := stated_crs(Path(name))):
        raise refused_crs(crs, name)


def _describe(reference: Reference, dataset: Any, facts: RasterFacts, shown: str) -> Source:
    check_level(reference.level, 1 + len(dataset.overviews(1)), shown)
    _refuse_truncated(dataset, shown)
    sizes = _level_sizes(dataset, shown)
    check_shape(sizes[0], shown)
    palette = _palette(dataset)
    as_color = palette is not None and not reference.as_labels
    n = dataset.count if palette is None or not as_color else palette.shape[1]
    axes = "yx" if n == 1 else "cyx"
    leading = () if n == 1 else (n,)
    names = None if as_color else facts.names
    channels = chosen_channels(reference, axes, (*leading, *sizes[0]), shown, names)
    presented = channels or tuple(range(n))
    bands = (0,) if as_color else presented
    dtype = native_dtype(np.uint8, shown) if as_color else _dtype(dataset, bands, shown)
    alpha = _alpha(dataset) if not as_color else 3 if n == 4 else None
    scale = level_scale(sizes[0], sizes[reference.level])
    overview = reference.level - 1 if reference.level else None
    bare = GdalReader(dataset.name, shown, dataset.driver, overview, ())
    nodata = reference.nodata
    if nodata is None and not as_color:
        nodata = _nodata(dataset, bands, shown)
    levels = tuple(with_channels((*leading, *size), axes, channels) for size in sizes)
    source = Source(
        reference=reference,
        name=shown.rpartition("/")[2].replace('"', ""),
        axes=axes,
        shape=levels[reference.level],
        dtype=dtype,
        levels=levels,
        level=reference.level,
        fingerprint=_fingerprint(dataset),
        tiling=_tiling(dataset),
        segment_bytes=prod(dataset.block_shapes[0]) * dataset.count * dtype.itemsize,
        pixel_size=scaled(reference.pixel_size or facts.pixel_size, scale),
        scale=scale,
        channel_names=chosen(names, channels),
        nodata=fitting_nodata(nodata, dtype),
        value_scale=None if as_color else chosen(facts.value_scale, channels),
        color_table=None if palette is None or as_color else _as_table(palette),
        alpha=presented.index(alpha) if alpha in presented else None,
        georeference=facts.georeference and facts.georeference.at_scale(scale),
        reader=replace(
            bare,
            bands=tuple(b + 1 for b in bands),
            palette=palette if as_color else None,
            channels=presented,
        ),
    )
    return replace(source, mask=_mask(source, bare, None if as_color else alpha, dataset))


def _refuse_truncated(dataset: Any, shown: str) -> None:
    """GDAL reads zeros past the end of formats that are a plain array."""
    if dataset.driver not in PLAIN_DRIVERS or "NBITS" in dataset.tags(1, ns="IMAGE_STRUCTURE"):
        return
    needed = prod(dataset.shape) * sum(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
    held = Path(dataset.files[0]).stat().st_size
    if held < needed:
        raise InputError(f"{shown}: truncated: {held} bytes, its {dataset.count} bands need {needed}; copy it again")


def _level_sizes(dataset: Any, shown: str) -> list[tuple[int, int]]:
    sizes = [dataset.shape]
    for overview in range(len(dataset.overviews(1))):
        with opened(dataset.name, shown, driver=dataset.driver, overview=overview) as (level, _):
            sizes.append(level.shape)
    return sizes


def _palette(dataset: Any) -> NDArray[np.uint8] | None:
    """(index, RGB or RGBA) of every value of a band of indices; None where there is no palette.

    With alpha where an index shows through, as that of nodata does.
    """
    if dataset.count != 1 or dataset.colorinterp[0].name != "palette" or dataset.dtypes[0][:4] != "uint":
        return None
    table = np.full((np.iinfo(dataset.dtypes[0]).max + 1, 4), (0, 0, 0, 255), np.uint8)
    for index, color in dataset.colormap(1).items():
        table[index] = color
    if dataset.nodata is not None and 0 <= dataset.nodata < len(table):
        table[int(dataset.nodata), 3] = 0
    return table if (table[:, 3] < 255).any() else table[:, :3]


def _as_table(palette: NDArray[np.uint8]) -> tuple[tuple[int, int, int, int], ...]:
    opaque = np.full((len(palette), 1), 255, np.uint8)
    rows = np.hstack([palette, opaque])[:, :4].tolist()
    return tuple((r, g, b, a) for r, g, b, a in rows)


def _dtype(dataset: Any, bands: Sequence[int], shown: str) -> np.dtype[Any]:
    types = {dataset.dtypes[b] for b in bands}
    if len(types) > 1:
        raise InputError(f"{shown}: bands of types {', '.join(sorted(types))}; choose --channels of one type")
    (stored,) = types
    return native_dtype(np.complex64 if stored.startswith("complex") else stored, shown)


def _alpha(dataset: Any) -> int | None:
    """Index of the alpha band."""
    kinds = [kind.name for kind in dataset.colorinterp]
    return kinds.index("alpha") if "alpha" in kinds else None


def _nodata(dataset: Any, bands: Sequence[int], shown: str) -> float | None:
    """The one value that means nodata in all of these bands."""
    values = [dataset.nodatavals[b] for b in bands if b != _alpha(dataset)]
    if len({repr(value) for value in values}) > 1:
        raise InputError(f"{shown}: bands with different nodata values ({values}); give one by --nodata")
    value = values[0] if values else None
    return int(value) if value is not None and float(value).is_integer() else value


def _mask(source: Source, bare: GdalReader, alpha: int | None, dataset: Any) -> Source | None:
    """The mask of the whole dataset, or an alpha band that is not presented."""
    if source.alpha is not None:
        return None
    if alpha is not None:
        bare = replace(bare, bands=(alpha + 1,))
    elif "per_dataset" not in [flag.name for flag in dataset.mask_flag_enums[0]]:
        return None
    levels = tuple(level[-2:] for level in source.levels)
    return replace(
        source,
        reference=replace(source.reference, opener=open_gdal_mask),
        axes="yx",
        shape=levels[source.level],
        levels=levels,
        dtype=native_dtype(dataset.dtypes[alpha or 0] if bare.bands else np.uint8, source.name),
        channel_names=None,
        nodata=None,
        value_scale=None,
        color_table=None,
        reader=bare,
    )


def _fingerprint(dataset: Any) -> dict[str, Any]:
    """Of all files that GDAL reads for it, a VRT's sources and masks beside it too."""
    first, *others = [file_fingerprint(path) for path in map(Path, dataset.files) if path.is_file()]
    return {**first, "others": others} if others else first


def _tiling(dataset: Any) -> str:
    rows, columns = dataset.block_shapes[0]
    codec = dataset.compression.value.lower() if dataset.compression else "none or unknown"
    return f"GDAL {dataset.driver}, blocks {rows}x{columns}, compression {codec}"
