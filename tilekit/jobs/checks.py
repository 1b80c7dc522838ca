"""What is checked of an image and a network against each other, before anything is written."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.jobs.input import read_channels
from tilekit.predictor import Predictor
from tilekit.resample import EQUAL, MAX_UPSAMPLING, Grid, Ratio
from tilekit.sources import Source
from tilekit.sources.source import number_channels

PIXEL_SIZE_TOLERANCE = 1.5
"""How far the pixel size of a level that the user names may be from the network's, as a ratio."""
SAMPLES, SAMPLE_SIDE, SAMPLE_PIXELS = 3, 128, 1 << 22
"""Boxes along each axis, their side, and pixels of a coarse level, that are looked at to know a gray image."""


def choose_channels(
    source: Source, predictor: Predictor, asked: Sequence[int | str] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The channels that the network takes, in its order, and those that must equal the first, in a gray image."""
    n = source.shape[source.axes.index("c")] if "c" in source.axes else 1
    takes, others = predictor.in_channels, [c for c in range(n) if c != source.alpha]
    if asked is not None:
        channels = number_channels(asked, n, source.channel_names, source.name)
        if len(channels) == takes:
            return channels, ()
        raise InputError(
            f"{source.name}: {len(channels)} channels asked for, but the network takes {takes}; "
            f"name {takes} of the {n} with --channels"
        )
    if (named := _channels_by_name(source, predictor)) is not None:
        return named, ()
    if n == takes:
        return tuple(range(n)), ()
    if len(others) == takes:
        return tuple(others), ()
    if takes == 1 and len(others) == 3 and _is_gray(source, others):
        return (others[0],), tuple(others[1:])
    raise InputError(
        f"{source.name}: {n} channels, but the network takes {takes}; name {takes} of the {n} with --channels"
    )


def _channels_by_name(source: Source, predictor: Predictor) -> tuple[int, ...] | None:
    """The channels that the network names; None where either has no names, or a gray image may have others."""
    wanted = getattr(predictor, "channel_names", None)
    names = [name.casefold() for name in source.channel_names or ()]
    if not wanted or not names or all(re.fullmatch(r"channel[ _:]?\d+", name) for name in names):
        return None
    missing = [name for name in wanted if names.count(name.casefold()) != 1]
    if not missing:
        return tuple(names.index(name.casefold()) for name in wanted)
    others = [c for c in range(len(names)) if c != source.alpha]
    if len(wanted) == 1 and len(others) == 3 and _is_gray(source, others):
        return None
    raise InputError(
        f"{source.name}: the network was trained on channel {missing[0]!r}, but the image's are called "
        f"{', '.join(source.channel_names or ())}; say with --channels which {len(wanted)} it takes"
    )


def _is_gray(source: Source, channels: Sequence[int]) -> bool:
    """True where these channels are equal on the coarsest level, where it is small, and on some boxes."""
    coarsest = min(range(len(source.levels)), key=lambda k: math.prod(source.levels[k][-2:]))
    boxes = [(source, box) for box in _sample_boxes(source)]
    if coarsest != source.level and math.prod(source.levels[coarsest][-2:]) <= SAMPLE_PIXELS:
        small = replace(source.reference, level=coarsest).open()
        boxes.append((small, Box.whole(small.shape[-2:])))
    plane = (0,) * (len(source.shape) - 3)
    for image, box in boxes:
        first, *rest = (read_channels(image, (c,), plane, box) for c in channels)
        if not all(np.array_equal(first, other, equal_nan=first.dtype.kind == "f") for other in rest):
            return False
    return True


def _sample_boxes(source: Source) -> list[Box]:
    ranges = []
    for n in source.shape[-2:]:
        starts = {int(i) for i in np.linspace(0, max(n - SAMPLE_SIDE, 0), SAMPLES)}
        ranges.append([(a, min(a + SAMPLE_SIDE, n)) for a in sorted(starts)])
    return [Box((y0, x0), (y1, x1)) for (y0, y1), (x0, x1) in product(*ranges)]


def choose_grid(
    source: Source, predictor: Predictor, levels: Sequence[tuple[Sequence[int], Ratio]]
) -> tuple[int, Grid]:
    """The level of the output that the network reads, and its pixels: of its pixel size where both are known.

    `levels` are the output's, as shape and (y, x) pixels of the image per pixel. Taken is the one whose pixels are
    nearest to the network's and not larger.
    """
    asked, size = predictor.pixel_size, source.pixel_size
    if asked is None:
        return 0, Grid.of(source.shape)
    if size is None:
        raise InputError(
            f"{source.name}: has no pixel size, but the network was trained at {asked[0]:g} micrometres per pixel; "
            "give --pixel-size, or --level 0 to take the image as it is"
        )
    factor = (asked[0] / size[0], asked[1] / size[1])
    if min(factor) * MAX_UPSAMPLING * (1 + EQUAL) < 1:
        raise InputError(
            f"{source.name}: {size[0]:g} micrometres per pixel, but the network was trained at {asked[0]:g}, more than "
            f"{MAX_UPSAMPLING:g} times finer; take a finer image, or correct --pixel-size"
        )
    fitting = [
        k
        for k, (_, scale) in enumerate(levels)
        if all(s <= f * (1 + EQUAL) for s, f in zip(scale, factor, strict=True))
    ]
    level = max(fitting, key=lambda k: levels[k][1], default=0)
    return level, Grid.fitted(source.shape, levels[level][0], levels[level][1], factor)


def check_pixel_size(source: Source, predictor: Predictor) -> None:
    """Refuse a level, named by the user, that is far from the scale that the network was trained at."""
    if source.pixel_size is None or predictor.pixel_size is None:
        return
    ratios = [t / s for s, t in zip(source.pixel_size, predictor.pixel_size, strict=True)]
    if all(1 / PIXEL_SIZE_TOLERANCE <= r <= PIXEL_SIZE_TOLERANCE for r in ratios):
        return
    fitting = source.level + round(math.log2(max(ratios[0], 1e-9)))
    way_out = (
        f"use --level {fitting}, or none"
        if 0 <= fitting < len(source.levels)
        else "no level of it fits; leave --level out, or correct --pixel-size"
    )
    raise InputError(
        f"{source.name}: {source.pixel_size[0]:g} micrometres per pixel, but the network was trained "
        f"at {predictor.pixel_size[0]:g}; {way_out}"
    )
