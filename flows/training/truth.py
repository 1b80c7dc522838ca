"""The truth of one plane of an image, box by box: a label map in a file, or polygons drawn on the image's grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flows.training.meaning import Meaning
from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.jobs.input import read_channels
from tilekit.jobs.pairs import labels_in
from tilekit.sources import Source, open_image

Array = NDArray[Any]


class Truth(Protocol):
    """Ids or classes from 0, UNKNOWN where nothing is known."""

    def read(self, box: Box) -> Array:
        """Those of a box (y, x) inside the image, signed integers."""

    def objects(self, box: Box) -> Array | None:
        """Ids of the objects there, 0 for none; None where they are to be labelled first."""


@dataclass(frozen=True, slots=True)
class LabelMap:
    """A plane of a file."""

    source: Source
    plane: tuple[int, ...]
    channel: int
    meaning: Meaning

    def read(self, box: Box) -> Array:
        return self.meaning.read(read_channels(self.source, (self.channel,), self.plane, box)[0], self.source.name)

    def objects(self, box: Box) -> Array | None:
        return np.maximum(self.read(box), 0) if self.meaning.kind == "ids" else None


def open_labels(path: Path, image: Source, kind: str) -> Source:
    """A label map with as many pixels as the image, on whichever of its levels; one of integers, and of one channel."""
    place = labels_in(path, kind) or path
    source = open_image(place, as_labels=True)
    if source.dtype.kind == "f":
        what = "object ids" if kind == "ids" else "classes"
        raise InputError(f"{place}: the truth is {source.dtype}, {what} are integers; store them as such")
    fitting = [k for k, shape in enumerate(source.levels) if shape[-2:] == image.shape[-2:]]
    if not fitting:
        raise InputError(
            f"{place}: the truth is {source.shape[-2]} x {source.shape[-1]} pixels, its image {image.name} "
            f"{image.shape[-2]} x {image.shape[-1]}; give maps of one size"
        )
    return source if fitting[0] == 0 else open_image(place, as_labels=True, level=fitting[0])


def label_channel(source: Source) -> int:
    """The one channel of a label map, beside alpha."""
    n = source.shape[source.axes.index("c")] if "c" in source.axes else 1
    channels = [c for c in range(n) if c != source.alpha]
    if len(channels) != 1:
        raise InputError(f"{source.name}: has {n} channels, a truth has one; store the labels as one channel")
    return channels[0]


@dataclass(frozen=True, slots=True)
class MeantReader:
    """Reads a label map as classes that `label_objects` takes: uint8, without an axis of channels."""

    source: Source
    meaning: Meaning
    channel: int
    axis: int
    """Of the channels; -1 where there is none."""

    def read(self, box: Box) -> Array:
        start, stop = list(box.start), list(box.stop)
        if self.axis >= 0:
            start.insert(self.axis, self.channel)
            stop.insert(self.axis, self.channel + 1)
        pixels = self.source.read(Box(tuple(start), tuple(stop))).reshape(box.shape)
        return self.meaning.read(pixels, self.source.name).astype(np.uint8)  # UNKNOWN becomes 255


def as_classes(source: Source, channel: int, meaning: Meaning) -> Source:
    """A label map as a map of classes, all planes of it; not to be pickled."""
    axis = source.axes.find("c")
    return replace(
        source,
        axes=source.axes.replace("c", ""),
        shape=tuple(n for i, n in enumerate(source.shape) if i != axis),
        dtype=np.dtype(np.uint8),
        levels=(tuple(n for i, n in enumerate(source.shape) if i != axis),),
        level=0,
        nodata=None,
        alpha=None,
        channel_names=None,
        fingerprint={**source.fingerprint, "channel": channel, "meaning": repr(meaning)},
        reader=MeantReader(source, meaning, channel, axis),
    )
