"""Images with their truth, plane by plane, opened without reading pixels, and refused where they do not fit."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from flows.training.config import Config
from flows.training.files import FilePair, list_files
from flows.training.meaning import Meaning
from flows.training.sections import Data
from flows.training.truth import LabelMap, Truth, label_channel, open_labels
from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.jobs.drawing import UNKNOWN, VectorFile, is_void, open_vector
from tilekit.jobs.input import Input
from tilekit.jobs.pairs import stem
from tilekit.sources import Source, open_image
from tilekit.sources.source import number_channels
from tilekit.tiling import Pair


@dataclass(frozen=True, slots=True)
class Example:
    """One plane of an image, and its truth."""

    name: str
    """Of the file without its ending, or its path where that is not unique; and the plane of a stack."""
    image: Input
    plane: tuple[int, ...]
    """Its position along the image's axes before y and x, without the channels'."""
    truth: Truth
    sequence: str
    """What it is a frame of: a stack, or files whose names differ in their last number alone."""
    number: int | None
    """Its place there; None where the name has no number."""
    group: str | None
    """As the configuration's expression or the CSV says; None where neither does."""
    part: str | None
    """As the CSV says."""

    @property
    def shape(self) -> Pair:
        return self.image.grid.shape

    @property
    def box(self) -> Box:
        return Box.whole(self.shape)


def list_examples(config: Config) -> tuple[list[Example], tuple[str, ...] | None]:
    """All planes of all images, in order, and the names of the classes where the configuration or vectors tell them.

    InputError in one line for what does not fit: sizes, axes, channels, types, missing files.
    """
    files, data = list_files(config), config.data
    vectors = {pair.truth: vector for pair in files if (vector := open_vector(pair.truth))}
    names = _class_names(data, list(vectors.values()))
    examples: list[Example] = []
    titles = _titles(files)
    for pair, title in zip(files, titles, strict=True):
        image = _open_image(pair.image, data)
        found = list(_planes(pair, title, image, vectors.get(pair.truth), names, config))
        for source in {image.source, *(e.truth.source for e in found if isinstance(e.truth, LabelMap))}:
            source.close()  # there may be more than files can be open
        examples += found
    _check_alike(examples)
    return examples, names


def _class_names(data: Data, vectors: Sequence[VectorFile]) -> tuple[str, ...] | None:
    """Names of the classes: those that are given, else those that the features have, in the order of the alphabet."""
    if data.class_names or data.kind == "ids" or not vectors:
        return data.class_names or (("background", "object") if data.kind == "ids" else None)
    kinds = {kind for vector in vectors for kind in vector.kinds(data.class_property)}
    texts = sorted(kind for kind in kinds if isinstance(kind, str) and not is_void(kind) and not kind.isdecimal())
    if None in kinds and len(kinds) > 1:
        raise InputError(f"{vectors[0].path}: some polygons have a class and some have none; give each one")
    if texts:
        return ("background", *(text for text in texts if text.casefold() != "background"))
    largest = max((int(kind) for kind in kinds if kind is not None and not is_void(str(kind))), default=1)
    return ("background", *(f"class {k}" for k in range(1, max(largest, 1) + 1)))


def _titles(files: Sequence[FilePair]) -> list[str]:
    """A name for each image, unique: of the file where that suffices, else with its folders below the common one."""
    stems = [stem(pair.image) for pair in files]
    if len(set(stems)) == len(stems):
        return stems
    paths = [pair.image.absolute() for pair in files]
    common = os.path.commonpath([path.parent for path in paths])
    titles = [path.relative_to(common).with_name(name).as_posix() for path, name in zip(paths, stems, strict=True)]
    title, n = Counter(titles).most_common(1)[0]
    if n > 1:
        raise InputError(
            f"{files[titles.index(title)].image}: {n} images are called {title}; rename them, or leave all but one out"
        )
    return titles


def _open_image(path: Path, data: Data) -> Input:
    """An image as the network is to see it."""
    source = open_image(path, level=data.level, nodata=data.nodata, pixel_size=data.pixel_size, axes=data.axes)
    n = source.shape[source.axes.index("c")] if "c" in source.axes else 1
    if data.channels is None:
        channels = tuple(c for c in range(n) if c != source.alpha)
    else:
        channels = number_channels(data.channels, n, source.channel_names, source.name)
    return Input.of(source, channels, (0.0,) * len(channels))


def _planes(
    pair: FilePair, title: str, image: Input, vector: VectorFile | None, names: tuple[str, ...] | None, config: Config
) -> Iterator[Example]:
    source, data = image.source, config.data
    axes = [(a, n) for a, n in zip(source.axes[:-2], source.shape[:-2], strict=True) if a != "c"]
    long = [i for i, (_, n) in enumerate(axes) if n > 1]
    if vector is not None and long:
        raise InputError(
            f"{pair.truth}: polygons do not say of which of the planes of {source.name}; give one image each"
        )
    labels = None if vector is not None else _labels_of(pair, image, data)
    group = _group_of(pair, config)
    found = re.fullmatch(r"(.*?)(\d+)(\D*)", stem(pair.image), re.DOTALL)
    for plane in product(*(range(n) for _, n in axes)):
        truth: Truth
        if vector is not None:
            truth = vector.shapes(
                source,
                names if data.kind == "classes" else None,
                class_property=data.class_property,
                outside=0 if data.outside == "background" else UNKNOWN,
            )
        else:
            assert labels is not None
            truth = LabelMap(
                labels, _plane_of(labels, [plane[i] for i in long]), label_channel(labels), Meaning.of(data)
            )
        where = "".join(f" {axes[i][0]}={plane[i]}" for i in long)
        if long:
            sequence, number = title, plane[long[0]]
        elif found:
            sequence, number = f"{title.removesuffix(found[0])}{found[1]}#{found[3]}", int(found[2])
        else:
            sequence, number = title, None
        yield Example(title + where, image, plane, truth, sequence, number, group, pair.part)


def _labels_of(pair: FilePair, image: Input, data: Data) -> Source:
    """The label map of an image: as many planes, and pixels."""
    labels = open_labels(pair.truth, image.source, data.kind)
    own, other = (
        tuple((a, n) for a, n in zip(s.axes[:-2], s.shape[:-2], strict=True) if a != "c" and n > 1)
        for s in (image.source, labels)
    )
    if [n for _, n in own] != [n for _, n in other]:
        first, second = (" x ".join(f"{n} {a}" for a, n in sides) or "one plane" for sides in (own, other))
        raise InputError(f"{pair.truth}: the truth has {second}, its image {image.source.name} {first}; give as many")
    return labels


def _plane_of(labels: Source, position: Sequence[int]) -> tuple[int, ...]:
    """Where a plane of the image is in the label map, whose axes of one pixel may be others."""
    rest = iter(position)
    sides = [n for a, n in zip(labels.axes[:-2], labels.shape[:-2], strict=True) if a != "c"]
    return tuple(next(rest) if n > 1 else 0 for n in sides)


def _group_of(pair: FilePair, config: Config) -> str | None:
    if config.split.group is None:
        return pair.group or None
    try:
        path = pair.image.relative_to(config.folder).as_posix()
    except ValueError:
        path = pair.image.as_posix()
    found = re.search(config.split.group, path)
    if not found or found[1] is None:
        raise InputError(f"{pair.image}: [split] group {config.split.group!r} finds nothing in {path}; correct it")
    return found[1]


def _check_alike(examples: Sequence[Example]) -> None:
    """Refuse images of different channels or types."""
    first = examples[0]
    for example in examples:
        n, other = len(example.image.channels), len(first.image.channels)
        if n != other:
            raise InputError(
                f"{example.name}: has {n} channel{'s' * (n > 1)}, {first.name} has {other}; name those to take in "
                "[data] channels, or leave images out"
            )
        types = [np.dtype(e.image.source.dtype) for e in (example, first)]
        if types[0] != types[1]:
            raise InputError(f"{example.name}: pixels are {types[0]}, those of {first.name} {types[1]}; convert them")
