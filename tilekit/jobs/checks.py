"""What is checked of an image, a network and a mask against each other, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilekit.errors import InputError
from tilekit.predictor import Predictor
from tilekit.sources import Source, open_image
from tilekit.sources.source import number_channels

PIXEL_SIZE_TOLERANCE = 1.5
"""How far an image's pixel size may be from the one that the network was trained at, as a ratio."""


def choose_channels(source: Source, predictor: Predictor, asked: Sequence[int | str] | None) -> tuple[int, ...]:
    n = source.shape[source.axes.index("c")] if "c" in source.axes else 1
    channels = tuple(range(n)) if asked is None else number_channels(asked, n, source.channel_names, source.name)
    if len(channels) != predictor.in_channels:
        raise InputError(
            f"{source.name}: {len(channels)} channels, but the network takes {predictor.in_channels}; "
            f"name {predictor.in_channels} of the {n} with --channels"
        )
    return channels


def check_pixel_size(source: Source, predictor: Predictor) -> None:
    """Refuse an image that is far from the scale that the network was trained at, with the level that fits."""
    if source.pixel_size is None or predictor.pixel_size is None:
        return
    ratios = [t / s for s, t in zip(source.pixel_size, predictor.pixel_size, strict=True)]
    if all(1 / PIXEL_SIZE_TOLERANCE <= r <= PIXEL_SIZE_TOLERANCE for r in ratios):
        return
    fitting = source.level + round(math.log2(max(ratios[0], 1e-9)))
    way_out = (
        f"use --level {fitting}"
        if 0 <= fitting < len(source.levels)
        else "no level of it fits; resample it, or correct --pixel-size"
    )
    raise InputError(
        f"{source.name}: {source.pixel_size[0]:g} micrometres per pixel, but the network was trained "
        f"at {predictor.pixel_size[0]:g}; {way_out}"
    )


def open_mask(mask: str | None, source: Source) -> Source | None:
    if mask is None:
        return None
    opened = open_image(mask)
    if tuple(opened.shape[-2:]) != tuple(source.shape[-2:]):
        raise InputError(
            f"{mask}: {opened.shape[-2:]} pixels, but the image has {source.shape[-2:]}; "
            "give a mask of the image's size"
        )
    return opened
