"""The door to zarr: arrays of Zarr 2 and 3, alone or as levels of an OME-NGFF image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.bucket import patient
from tilekit.errors import InputError
from tilekit.place import as_path
from tilekit.sources.array import AXES_BY_DIMENSIONS, is_color_last
from tilekit.sources.ngff import (
    OLD_AXES,
    Multiscale,
    check_levels,
    describe_other_group,
    is_series_layout,
    parse_multiscale,
    physical_yx,
    physical_z,
)
from tilekit.sources.quiet import without_warnings
from tilekit.sources.reading import of_the_disk
from tilekit.sources.source import (
    CANONICAL_AXES,
    Reference,
    Source,
    check_level,
    check_shape,
    chosen_channels,
    fitting_nodata,
    level_scale,
    native_dtype,
    pick_names,
    scaled,
    with_channels,
)
from tilekit.sources.zarr_chunks import Chunks, direct_chunks
from tilekit.sources.zarr_documents import attributes_of, first_line, is_array, open_array
from tilekit.sources.zarr_meaning import parse_meaning
from tilekit.sources.zarr_place import find_georeference

if TYPE_CHECKING:
    import zarr

ARRAY_DOCUMENTS = ("zarr.json", ".zarray", ".zattrs")


@dataclass(frozen=True)
class ZarrReader:
    """Reads an array whose stored axes are reordered to canonical ones."""

    path: Path
    pixels: zarr.Array[Any]
    order: tuple[int, ...]
    """Stored axis of each axis presented."""
    channels: tuple[int, ...] | None
    axis: int
    """Axis of the channels as presented; unused where none are chosen."""
    direct: Chunks | None = None
    """The same pixels, read without zarr where their layout allows."""

    def read(self, box: Box) -> NDArray[Any]:
        if self.channels is None:
            return self._read(box.slices, box)
        axis, wanted = self.axis, self.channels[box.slices[self.axis]]
        parts = [(*box.slices[:axis], slice(c, c + 1), *box.slices[axis + 1 :]) for c in wanted]
        if self.pixels.chunks[self.order[axis]] == 1:
            return np.concatenate([self._read(part, box) for part in parts], axis)
        low, high = min(wanted), max(wanted) + 1
        span = self._read((*box.slices[:axis], slice(low, high), *box.slices[axis + 1 :]), box)
        return np.take(span, [c - low for c in wanted], axis)

    def _read(self, slices: tuple[slice, ...], box: Box) -> NDArray[Any]:
        stored = [slice(0)] * len(slices)
        for part, place in zip(slices, self.order, strict=True):
            stored[place] = part
        try:
            pixels = self.direct.read(stored) if self.direct else _read(self.path, self.pixels, tuple(stored))
        except Exception as error:
            if failed := of_the_disk(error, self.path):
                raise failed from None
            reason = "it claims more bytes than fit" if isinstance(error, MemoryError) else first_line(error)
            raise InputError(
                f"{self.path}: a chunk in box {box.start} to {box.stop} cannot be decoded ({reason}); "
                "copy or write the store again"
            ) from None
        return pixels.transpose(self.order)


@patient
def _read(path: Path, pixels: zarr.Array[Any], stored: tuple[slice, ...]) -> NDArray[Any]:
    """By zarr, from the array at this path."""
    return np.asarray(pixels[stored])


@dataclass(frozen=True)
class Image:
    """One level of an image in a store, found."""

    path: Path
    """Folder of the group, or of a plain array."""
    multiscale: Multiscale | None
    level: int


def open_zarr(reference: Reference) -> Source:
    """An array, a level of an OME-NGFF image, or the first series of a bioformats2raw store as a source."""
    path = as_path(reference.source)
    with without_warnings():
        image = _find_image(path, reference.level)
        arrays = [open_array(p) for p in _array_paths(image)]
        return _describe(reference, image, arrays)


def _find_image(path: Path, level: int) -> Image:
    if is_array(path):
        return _find_around_array(path, level)
    attributes = attributes_of(path)
    if multiscale := parse_multiscale(attributes, str(path)):
        check_level(level, len(multiscale.paths), str(path))
        return Image(path, multiscale, level)
    if hint := describe_other_group(attributes):
        raise InputError(f"{path}: is {hint.format(path=path)}")
    if is_series_layout(attributes):
        return _find_image(_subfolder(path, "0"), level)
    held = sorted(child.name for child in path.iterdir() if child.is_dir() and is_array(child))
    way_out = f"open one of its arrays, such as {path}/{held[0]}" if held else "name an array or an image below it"
    raise InputError(f"{path}: a Zarr group that says of no image; {way_out}")


def _find_around_array(path: Path, level: int) -> Image:
    """The image of which this array is a level, else the array alone."""
    for folder in list(path.parents)[:3]:
        if not any((folder / document).exists() for document in ("zarr.json", ".zattrs", ".zgroup")):
            continue
        multiscale = None if is_array(folder) else parse_multiscale(attributes_of(folder), str(folder))
        place = path.relative_to(folder).as_posix()
        if multiscale and place in multiscale.paths:
            check_level(level, 1, str(path))
            return Image(folder, multiscale, multiscale.paths.index(place))
    check_level(level, 1, str(path))
    return Image(path, None, 0)


def _subfolder(path: Path, name: str) -> Path:
    if not (path / name).is_dir():
        raise InputError(f"{path}: says that its first image is {name}, which is not there; copy it again")
    return path / name


def _array_paths(image: Image) -> list[Path]:
    return [image.path] if image.multiscale is None else [image.path / p for p in image.multiscale.paths]


def _describe(reference: Reference, image: Image, arrays: list[zarr.Array[Any]]) -> Source:
    pixels = arrays[image.level]
    place = _array_paths(image)[image.level]
    check_shape(pixels.shape, str(place))
    dtype = native_dtype(pixels.dtype, str(place))
    stored = _stored_axes(image, pixels, str(place))
    axes = "".join(a for a in CANONICAL_AXES if a in stored)
    order = tuple(stored.index(a) for a in axes)
    full = tuple(pixels.shape[i] for i in order)
    if image.multiscale is not None:
        check_levels(image.multiscale, stored, [a.shape for a in arrays], str(image.path))
    n_channels = full[axes.index("c")] if "c" in axes else 1
    group = attributes_of(image.path) if image.multiscale else {}
    meaning = parse_meaning(attributes_of(place), group, image.multiscale, n_channels)
    channels = chosen_channels(reference, axes, full, str(place), meaning.channel_names)
    levels = tuple(with_channels([a.shape[i] for i in order], axes, channels) for a in arrays)
    scale, size, translation = _geometry(image, levels)
    chosen = channels if channels is not None else range(n_channels)
    return Source(
        reference=reference,
        name=image.path.name,
        axes=axes,
        shape=levels[image.level],
        dtype=dtype,
        levels=levels,
        level=image.level,
        fingerprint=_fingerprint(place),
        tiling=_tiling(pixels),
        segment_bytes=prod(pixels.chunks) * pixels.dtype.itemsize,
        pixel_size=scaled(reference.pixel_size, scale) or size,
        slice_spacing=physical_z(image.multiscale, image.level) if image.multiscale else None,
        scale=scale,
        translation=translation,
        channel_names=pick_names(meaning.channel_names, n_channels, channels),
        nodata=fitting_nodata(meaning.nodata if reference.nodata is None else reference.nodata, dtype),
        wavelengths=meaning.wavelengths and tuple(meaning.wavelengths[c] for c in chosen),
        value_scale=meaning.value_scale and tuple(meaning.value_scale[c] for c in chosen),
        color_table=meaning.color_table,
        alpha=next((i for i, c in enumerate(chosen) if c == meaning.alpha), None),
        mask=_open_mask(reference, image, meaning.mask, levels[image.level][-2:]),
        georeference=find_georeference(_array_paths(image), arrays, image.level, scale, group),
        reader=ZarrReader(place, pixels, order, channels, axes.find("c"), direct_chunks(place, pixels)),
    )


def _open_mask(reference: Reference, image: Image, name: str | None, shape: tuple[int, ...]) -> Source | None:
    """The mask that belongs to the image, at its level."""
    if name is None or not (image.path / name).is_dir():
        return None
    mask = open_zarr(Reference(source=str(image.path / name), opener=reference.opener, level=image.level))
    if mask.shape != shape:
        raise InputError(f"{image.path / name}: a mask of shape {mask.shape} for an image of {shape}; write it again")
    return mask


def _stored_axes(image: Image, pixels: zarr.Array[Any], name: str) -> str:
    """Letters of the stored axes, from the image's metadata, the array's dimension names, or their number."""
    n = pixels.ndim
    letters: str | None = None
    if image.multiscale is not None:
        letters = "".join(image.multiscale.axes) or OLD_AXES[-n:]
    else:
        letters = _dimension_letters(pixels, name) or (
            "yxc" if is_color_last(pixels.shape) else AXES_BY_DIMENSIONS.get(n)
        )
    if letters is None or len(letters) != n or len(set(letters)) != n or not {"y", "x"} <= set(letters):
        raise InputError(
            f"{name}: shape {pixels.shape} with axes {letters}; each of its {n} axes must be one of t, c, z, y, x"
        )
    return letters


def _dimension_letters(pixels: zarr.Array[Any], name: str) -> str | None:
    """Names of the dimensions where each is one of t, c, z, y, x."""
    names = getattr(pixels.metadata, "dimension_names", None) or attributes_of(as_path(name)).get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list | tuple):
        return None
    letters = [str(name).lower() for name in names]
    known = len(set(letters)) == len(letters) and all(a in CANONICAL_AXES and len(a) == 1 for a in letters)
    return "".join(letters) if known and {"y", "x"} <= set(letters) else None


def _geometry(
    image: Image, levels: tuple[tuple[int, ...], ...]
) -> tuple[tuple[float, float], tuple[float, float] | None, tuple[float, float]]:
    """Scale against level 0, pixel size and translation of the level."""
    by_shape = level_scale(levels[0], levels[image.level])
    multiscale = image.multiscale
    if multiscale is None:
        return by_shape, None, (0.0, 0.0)
    size, at = physical_yx(multiscale, image.level)
    base, own = multiscale.scales[0], multiscale.scales[image.level]
    moved = multiscale.translations[image.level]
    if base is None or own is None or not multiscale.axes:
        return by_shape, size, at or (0.0, 0.0)
    y, x = multiscale.axes.index("y"), multiscale.axes.index("x")
    if not all(0 < n < float("inf") for n in (base[y], base[x], own[y], own[x])):
        return by_shape, size, at or (0.0, 0.0)
    if at is None:
        at = (0.0, 0.0) if moved is None else (moved[y] / base[y], moved[x] / base[x])
    return (own[y] / base[y], own[x] / base[x]), size, at


def _tiling(pixels: zarr.Array[Any]) -> str:
    shards = f", shards {'x'.join(map(str, pixels.shards))}" if pixels.shards else ""
    codecs = ", ".join(_codec_name(c) for c in pixels.compressors) or "none"
    return (
        f"Zarr {pixels.metadata.zarr_format} chunks {'x'.join(map(str, pixels.chunks))}{shards}, compression {codecs}"
    )


def _codec_name(codec: Any) -> str:
    name = getattr(codec, "codec_id", None) or type(codec).__name__.removesuffix("Codec").lower()
    inner = getattr(codec, "cname", None)
    return f"{name} {getattr(inner, 'value', inner)}" if inner else str(name)


def _fingerprint(path: Path) -> dict[str, Any]:
    """Where the array is and the digest of its metadata; chunks rewritten in place do not show."""
    digest = hashlib.sha256()
    for document in ARRAY_DOCUMENTS:
        if (path / document).exists():
            digest.update((path / document).read_bytes())
    return {"path": str(path), "metadata_sha256": digest.hexdigest()}
