"""What OME-NGFF metadata says about an image: axes, levels, pixel size, names. Plain dictionaries in, no zarr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilekit.errors import InputError
from tilekit.sources.source import CANONICAL_AXES
from tilekit.sources.units import micrometers

OLD_AXES = "tczyx"
"""Axes of versions 0.1 and 0.2, which do not name them."""


@dataclass(frozen=True)
class Multiscale:
    """The first multiscale image of a group."""

    paths: tuple[str, ...]
    """Arrays of its levels, relative to the group."""
    axes: tuple[str, ...]
    """Canonical letters in the order in which they are stored; empty where an old version does not say."""
    units: tuple[str | None, ...]
    """Unit of each axis."""
    scales: tuple[tuple[float, ...] | None, ...]
    """Per level, size of a pixel along each stored axis, in its unit; None where not stated."""
    translations: tuple[tuple[float, ...] | None, ...]
    """Per level, position of the first pixel, likewise."""
    channel_names: tuple[str, ...] | None
    """Labels of the omero metadata."""
    wavelengths: tuple[float | None, ...] | None
    """Of the omero metadata, in nanometers."""


def ome_attributes(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The OME part of a group's attributes: under "ome" since 0.5, the attributes themselves before."""
    ome = attributes.get("ome")
    return ome if isinstance(ome, Mapping) else attributes


def parse_multiscale(attributes: Mapping[str, Any], name: str) -> Multiscale | None:
    """The first multiscale image that the attributes describe, or None; refuses metadata that contradict themselves."""
    ome = ome_attributes(attributes)
    if not ome.get("multiscales") or isinstance(ome["multiscales"], Mapping):  # the latter is GeoZarr's, not OME's
        return None
    try:
        return _parse(ome["multiscales"][0], ome)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{name}: its multiscales metadata are broken ({error!r}); name one of its arrays") from None


def _parse(image: Mapping[str, Any], ome: Mapping[str, Any]) -> Multiscale:
    datasets = image["datasets"]
    axes = image.get("axes") or []
    letters = tuple(_letter(axis) for axis in axes)
    common = image.get("coordinateTransformations") or []
    transforms = [(d.get("coordinateTransformations") or [], common) for d in datasets]
    return Multiscale(
        paths=tuple(_inside(str(d["path"])) for d in datasets),
        axes=letters,
        units=tuple(_unit(axis) for axis in axes),
        scales=tuple(_scale(own, shared) for own, shared in transforms),
        translations=tuple(_translation(own, shared) for own, shared in transforms),
        channel_names=_channel_names(ome),
        wavelengths=_wavelengths(ome),
    )


def _inside(path: str) -> str:
    """A path below the group; refuses one that leads elsewhere, to what its author may not read and the reader may."""
    if ".." in path.split("/"):
        raise InputError(f"its metadata name {path!r}, an array outside of it; name that one")
    return path.strip("/")


def _letter(axis: Any) -> str:
    """Canonical letter of an axis, by its type where it has one, else by its name."""
    name, kind = (axis, None) if isinstance(axis, str) else (str(axis["name"]), axis.get("type"))
    letter = {"time": "t", "channel": "c"}.get(str(kind), name[:1].lower())
    if letter not in CANONICAL_AXES:
        raise InputError(f"axis {name!r} is none of t, c, z, y, x; name one of its arrays")
    return letter


def _unit(axis: Any) -> str | None:
    unit = axis.get("unit") if isinstance(axis, Mapping) else None
    return unit if isinstance(unit, str) else None


def _find(transforms: Sequence[Mapping[str, Any]], kind: str) -> tuple[float, ...] | None:
    return next((tuple(float(n) for n in t[kind]) for t in transforms if t.get("type") == kind and kind in t), None)


def _scale(own: Sequence[Mapping[str, Any]], shared: Sequence[Mapping[str, Any]]) -> tuple[float, ...] | None:
    first, second = _find(own, "scale"), _find(shared, "scale")
    if first is None or second is None:
        return first or second
    return tuple(a * b for a, b in zip(first, second, strict=True))


def _translation(own: Sequence[Mapping[str, Any]], shared: Sequence[Mapping[str, Any]]) -> tuple[float, ...] | None:
    """Where the dataset's own transformations, then those of the image, move the first pixel."""
    first, factor, second = _find(own, "translation"), _find(shared, "scale"), _find(shared, "translation")
    if first is not None and factor is not None:
        first = tuple(a * b for a, b in zip(first, factor, strict=True))
    if first is None or second is None:
        return first or second
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _channels(ome: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    omero = ome.get("omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    return [c for c in channels or [] if isinstance(c, Mapping)]


def _channel_names(ome: Mapping[str, Any]) -> tuple[str, ...] | None:
    labels = [c.get("label") for c in _channels(ome)]
    return tuple(str(label) for label in labels) if labels and all(labels) else None


def _wavelengths(ome: Mapping[str, Any]) -> tuple[float | None, ...] | None:
    found = [c.get("emission_wavelength") for c in _channels(ome)]
    waves = tuple(float(w) if isinstance(w, int | float) else None for w in found)
    return waves if any(w is not None for w in waves) else None


def describe_other_group(attributes: Mapping[str, Any]) -> str | None:
    """What to open instead of a group that is not itself an image, as a path below it and what the group is."""
    ome = ome_attributes(attributes)
    if isinstance(plate := ome.get("plate"), Mapping):
        wells = [w.get("path") for w in plate.get("wells", []) if isinstance(w, Mapping)]
        return f"a plate of {len(wells)} wells; open a field of one, such as {{path}}/{wells[0]}/0" if wells else None
    if isinstance(well := ome.get("well"), Mapping):
        fields = [f.get("path") for f in well.get("images", []) if isinstance(f, Mapping)]
        return f"a well of {len(fields)} fields; open one, such as {{path}}/{fields[0]}" if fields else None
    if isinstance(labels := ome.get("labels"), list) and labels:
        return f"a group of {len(labels)} label images; open one, such as {{path}}/{labels[0]}"
    return None


def is_series_layout(attributes: Mapping[str, Any]) -> bool:
    """True for a group whose images are subgroups 0, 1, ... (bioformats2raw)."""
    return "bioformats2raw.layout" in ome_attributes(attributes)


def physical_yx(multiscale: Multiscale, level: int) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Pixel size and position of the first pixel of a level, (y, x) in micrometers; None where not stated."""
    scale, moved = multiscale.scales[level], multiscale.translations[level]
    if scale is None or not {"y", "x"} <= set(multiscale.axes):
        return None, None
    places = [multiscale.axes.index(a) for a in "yx"]
    per_unit = [micrometers(1.0, multiscale.units[i]) for i in places]
    if per_unit[0] is None or per_unit[1] is None or not all(0 < scale[i] < float("inf") for i in places):
        return None, None
    y, x = places
    size = (scale[y] * per_unit[0], scale[x] * per_unit[1])
    at = (0.0, 0.0) if moved is None else (moved[y] * per_unit[0], moved[x] * per_unit[1])
    return size, at


def physical_z(multiscale: Multiscale, level: int) -> float | None:
    """Micrometers from one slice of a level to the next; None where not stated."""
    scale = multiscale.scales[level]
    if scale is None or "z" not in multiscale.axes:
        return None
    z = multiscale.axes.index("z")
    return micrometers(scale[z], multiscale.units[z]) if 0 < scale[z] < float("inf") else None


def check_levels(multiscale: Multiscale, axes: str, shapes: Sequence[Sequence[int]], name: str) -> None:
    """Refuse a pyramid whose levels are not one image: `shapes` of all levels, along the stored `axes`."""
    for stated in (*multiscale.scales, *multiscale.translations):
        if stated is not None and len(stated) != len(axes):
            raise InputError(f"{name}: states {len(stated)} numbers for {len(axes)} axes; write its metadata again")
    full = shapes[0]
    for k, shape in enumerate(shapes[1:], 1):
        same = [len(shape) == len(full), *(shape[i] == full[i] for i, a in enumerate(axes) if a in "tc")]
        if not all(same) or not (_fits_scale(multiscale, k, full, shape) or _fits_aspect(axes, full, shape)):
            told = " and ".join("x".join(map(str, s)) for s in (full, shape))
            raise InputError(f"{name}: its levels 0 and {k}, {told}, are not one image; write the pyramid again")


def _fits_scale(multiscale: Multiscale, k: int, full: Sequence[int], shape: Sequence[int]) -> bool:
    """True where the stated scales explain the sides, to a pixel."""
    base, own = multiscale.scales[0], multiscale.scales[k]
    if base is None or own is None or min(own) <= 0:
        return False
    return all(abs(n - whole * b / o) <= 1 for n, whole, b, o in zip(shape, full, base, own, strict=True))


def _fits_aspect(axes: str, full: Sequence[int], shape: Sequence[int]) -> bool:
    """True where y and x are scaled alike, each side rounded up or down."""
    y, x = axes.index("y"), axes.index("x")
    return abs(shape[y] * full[x] - shape[x] * full[y]) <= full[y] + full[x]
