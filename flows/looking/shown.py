"""What of a store is shown, and how: channels with color and contrast, label maps with names and colors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box, grid_boxes
from tilekit.errors import InputError
from tilekit.sources import Source, open_image
from tilekit.sources.ngff import ome_attributes
from tilekit.sources.zarr_documents import attributes_of

Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)
PRIMARIES: tuple[Color, ...] = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
PAIR: tuple[Color, ...] = ((0, 255, 0), (255, 0, 255))
TRUE_COLORS = ("red", "green", "blue")
"""Names of the channels of a photograph."""
AT_ONCE = 3
"""Channels that are shown at first, where an image has more."""
BAND = 4096
"""Side in pixels of what is read at once of a level that is too large to show."""
LOWEST, HIGHEST = 1.0, 99.0
"""Percentiles that become black and white where the store does not say."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel as it is shown: `low` is black, `high` its full color; added to the others."""

    number: int
    name: str
    color: Color
    low: float
    high: float
    least: float
    """Lowest value of the channel."""
    most: float
    shown: bool


@dataclass(frozen=True, slots=True)
class Labels:
    """A label map of a store."""

    name: str
    source: Source
    names: dict[int, str]
    """Names of the values, where the store has them: then these are classes, else ids."""
    colors: dict[int, Color]
    """Of those values that are not clear."""


def open_store(out: Path) -> tuple[Source | None, list[Labels]]:
    """The image of a store, None where it holds labels alone, and its label maps. InputError where it has neither."""
    if not out.is_dir():
        raise InputError(f"{out}: no such store; name an OME-Zarr, such as the output of tilekit segment")
    attributes = ome_attributes(attributes_of(out))
    labels = [found for name in _label_names(out) if (found := _open_labels(out, name))]
    image = open_image(out) if attributes.get("multiscales") or not labels else None
    return image, labels


def _label_names(out: Path) -> list[str]:
    """Names that the group of labels lists, of folders that are there."""
    folder = out / "labels"
    listed = ome_attributes(attributes_of(folder)).get("labels") if folder.is_dir() else None
    names = listed if isinstance(listed, list) else []
    return [n for n in names if isinstance(n, str) and ".." not in n and (folder / n).is_dir() and n.strip("/") == n]


def _open_labels(out: Path, name: str) -> Labels | None:
    """None for what holds no whole numbers."""
    path = out / "labels" / name
    source = open_image(path)
    label = ome_attributes(attributes_of(path)).get("image-label")
    label = label if isinstance(label, Mapping) else {}
    names = {v: str(row["class"]) for v, row in _by_value(label.get("properties")).items() if "class" in row}
    rgba = {v: row.get("rgba") for v, row in _by_value(label.get("colors")).items()}
    colors = {v: color for v, c in rgba.items() if (color := _color(c)) is not None}
    return Labels(name, source, names, colors) if source.dtype.kind in "iu" else None


def _by_value(rows: Any) -> dict[int, Mapping[str, Any]]:
    found = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    return {row["label-value"]: row for row in found if isinstance(row.get("label-value"), int)}


def _color(rgba: Any) -> Color | None:
    """None for a color that is clear, or is none."""
    if not isinstance(rgba, list) or len(rgba) not in (3, 4) or not all(isinstance(n, int) for n in rgba):
        return None
    r, g, b = (min(max(n, 0), 255) for n in rgba[:3])
    return (r, g, b) if len(rgba) == 3 or rgba[3] > 0 else None


def channels_of(image: Source, out: Path) -> list[Channel]:
    """The image's channels but an alpha mask; contrast as the store has it, else by its coarsest level."""
    attributes = attributes_of(out)
    n = image.shape[image.axes.index("c")] if "c" in image.axes else 1
    told = _rows(ome_attributes(attributes), "omero", "channels", n)
    statistics = _rows(attributes, "tilekit", "statistics", n)
    numbers = [c for c in range(n) if c != image.alpha]
    colors = _channel_colors([_hex_color(told[c].get("color")) for c in numbers])
    sample: NDArray[Any] | None = None
    found = []
    for place, c in enumerate(numbers):
        limits = _limits_told(told[c], statistics[c])
        if limits is None:
            sample = coarse_plane(image) if sample is None else sample
            limits = _limits_seen(sample[c])
        name = image.channel_names[c] if image.channel_names else told[c].get("label") or f"channel {c}"
        found.append(Channel(c, str(name), colors[place], *limits, shown=place < AT_ONCE))
    return _true_colors(found)


def _true_colors(channels: list[Channel]) -> list[Channel]:
    """One contrast for red, green and blue, so that what is white or pink stays so."""
    rgb = [c for c in channels if c.name in TRUE_COLORS]
    if len(rgb) != len(TRUE_COLORS):
        return channels
    low, high = min(c.low for c in rgb), max(c.high for c in rgb)
    least, most = min(c.least for c in rgb), max(c.most for c in rgb)
    return [replace(c, low=low, high=high, least=least, most=most) if c in rgb else c for c in channels]


def _rows(attributes: Mapping[str, Any], key: str, inner: str, n: int) -> list[Mapping[str, Any]]:
    """What a group says of each of n channels; empty where it does not."""
    group = attributes.get(key)
    rows = group.get(inner) if isinstance(group, Mapping) else None
    fits = isinstance(rows, list) and len(rows) == n and all(isinstance(row, Mapping) for row in rows)
    return rows if fits and rows else [{}] * n


def _channel_colors(told: list[Color | None]) -> list[Color]:
    """Colors as told; where several channels are told one and the same, those that tell them apart."""
    n = len(told)
    if n > 1 and len(set(told)) == 1:
        return [*(PAIR if n == 2 else PRIMARIES), *[WHITE] * n][:n]
    return [color or WHITE for color in told]


def _hex_color(text: Any) -> Color | None:
    try:
        r, g, b = bytes.fromhex(text.strip("#")[:6])
    except (ValueError, AttributeError):
        return None
    return r, g, b


def _limits_told(omero: Mapping[str, Any], statistics: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """(low, high, least, most) of the omero metadata, else of tilekit's statistics."""
    window = omero.get("window")
    if isinstance(window, Mapping):
        found = [window.get(k) for k in ("start", "end", "min", "max")]
    else:
        percentiles = statistics.get("percentiles")
        percentiles = percentiles if isinstance(percentiles, Mapping) else {}
        found = [percentiles.get("1"), percentiles.get("99"), statistics.get("min"), statistics.get("max")]
    if not all(isinstance(n, int | float) and isfinite(n) for n in found):
        return None
    return _spread(*map(float, found))  # type: ignore[arg-type]


def _limits_seen(pixels: NDArray[Any]) -> tuple[float, float, float, float]:
    values = pixels[np.isfinite(pixels)] if pixels.dtype.kind == "f" else pixels
    if not values.size:
        return 0.0, 1.0, 0.0, 1.0
    low, high = np.percentile(values, [LOWEST, HIGHEST])
    return _spread(float(low), float(high), float(values.min()), float(values.max()))


def _spread(low: float, high: float, least: float, most: float) -> tuple[float, float, float, float]:
    """The same with `high` above `low`, and both inside."""
    high = high if high > low else low + 1
    return low, high, min(least, low), max(most, high)


def coarse_plane(image: Source, side: int = 1024) -> NDArray[Any]:
    """The middle plane (c, y, x) at the coarsest level, thinned to at most `side` pixels a side."""
    return read_plane(image, len(image.levels) - 1, side=side)


def read_plane(
    image: Source, level: int, *, box: tuple[slice, slice] | None = None, side: int | None = None
) -> NDArray[Any]:
    """A box of the middle plane of a level (c, y, x), all channels; c is 1 where the image has no such axis.

    Where it is more than `side` pixels a side every n-th is kept, and BAND x BAND of them are in memory at once.
    """
    source = image if level == image.level else replace(image.reference, level=level).open()
    y, x = box or (slice(0, source.shape[-2]), slice(0, source.shape[-1]))
    asked = Box((y.start, x.start), (y.stop, x.stop))
    lead = [(0, n) if a == "c" else (n // 2, n // 2 + 1) for a, n in zip(source.axes[:-2], source.shape, strict=False)]
    step = 1 if side is None else -(-max(asked.shape) // side)
    n_channels = source.shape[source.axes.index("c")] if "c" in source.axes else 1
    kept = np.empty((n_channels, *(-(-n // step) for n in asked.shape)), source.dtype)
    band = max(BAND // step, 1) * step
    for part in grid_boxes(asked, (band, band)):
        pixels = source.read([*lead, *zip(part.start, part.stop, strict=True)])[..., ::step, ::step]
        here = part.relative_to(asked).coarser(step)
        kept[:, *here.slices] = pixels.reshape(-1, *pixels.shape[-2:])
    return kept
