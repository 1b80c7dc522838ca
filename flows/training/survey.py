"""One pass over all samples before training: what the data hold, and one line for what is wrong with them.

Whatever is stored with the model (normalization, class weights) is of the training part alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.training.centers import Draw, draw_border, draw_class, lists_of
from flows.training.config import Config
from flows.training.meaning import Meaning
from flows.training.pairs import Example, list_examples
from flows.training.samples import ImageSample, open_samples
from flows.training.split import PARTS, Candidate, split
from tilekit.box import Box, grid_boxes
from tilekit.engine import Progress, no_progress
from tilekit.errors import InputError
from tilekit.jobs.input import Input, read_channels
from tilekit.jobs.statistics import block_statistics
from tilekit.predictor import VOID
from tilekit.stats import ChannelStats
from tilekit.weights import class_weights

BLOCK = 2048
"""Side of what is read at once, in pixels."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a sample holds: a row of the table of pairs."""

    name: str
    part: str
    group: str
    """Or the sequence that it is a frame of."""
    shape: tuple[int, int]
    """Of the sample's box (y, x)."""
    pixels: tuple[int, ...]
    """Of each class."""
    void: int
    """Pixels where nothing is known."""
    objects: int | None
    """None where the truth holds classes whose objects are not labelled."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything that training and the model's card need to know of the data."""

    samples: Mapping[str, Sequence[ImageSample]]
    """By part: train, validation and test."""
    rows: Sequence[Row]
    class_names: tuple[str, ...]
    class_weights: tuple[float, ...]
    """N / (K N_k); empty where classes are not weighted."""
    normalization: Mapping[str, Any]
    """As models.save takes it."""
    channels: int
    channel_names: tuple[str, ...] | None
    pixel_size: tuple[float, float] | None
    """Micrometres (y, x), where all images have one."""


@dataclass(frozen=True, slots=True, eq=False)
class _Counted:
    """Sums over a sample."""

    stats: tuple[ChannelStats, ...]
    pixels: NDArray[np.int64]
    """By class, (256,)."""
    objects: int | None
    draws: tuple[Draw, ...]


def survey(config: Config, halo: int, scratch: Path, progress: Progress = no_progress) -> Survey:
    """The samples of a configuration, read once and checked; `halo` is the network's, `scratch` a folder to write to.

    Deterministic. InputError in one line for data that cannot be trained on.
    """
    try:
        return _survey(config, halo, scratch, progress)
    except InputError as error:
        if str(error).startswith("["):  # what is wrong is what the configuration says
            raise InputError(f"{config.file}: {error}") from None
        raise


def _survey(config: Config, halo: int, scratch: Path, progress: Progress) -> Survey:
    examples, names = list_examples(config)
    candidates = [Candidate(e.name, e.sequence, e.number, e.group, e.part, e.shape) for e in examples]
    pieces = split(candidates, config.split, halo)
    samples = open_samples([(examples[p.index], p.box) for p in pieces], config, scratch)
    counted = []
    for i, (piece, sample) in enumerate(zip(pieces, samples, strict=True)):
        progress("survey", i, len(samples))
        counted.append(_count(sample, i, is_train=piece.part == "train", config=config))
    progress("survey", len(samples), len(samples))
    parts = [piece.part for piece in pieces]
    _check_known(parts, samples, counted, config)
    names = names or _names(config, counted)
    weights = _class_weights(parts, counted, names, config)
    lists = lists_of([d for c in counted for d in c.draws], len(samples), weights, len(names), config.training.seed)
    fills = _fills(samples, counted)
    ready = [
        sample.with_facts(fill, weights, own if part == "train" else {})
        for sample, fill, own, part in zip(samples, fills, lists, parts, strict=True)
    ]
    image = examples[0].image
    return Survey(
        samples={part: [s for s, own in zip(ready, parts, strict=True) if own == part] for part in PARTS},
        rows=[
            Row(
                s.name,
                p.part,
                examples[p.index].group or examples[p.index].sequence,
                (s.box.shape[0], s.box.shape[1]),
                tuple(c.pixels[: len(names)].tolist()),
                int(c.pixels[VOID]),
                c.objects,
            )
            for s, p, c in zip(samples, pieces, counted, strict=True)
        ],
        class_names=names,
        class_weights=weights,
        normalization=_normalization(parts, counted, config),
        channels=len(image.channels),
        channel_names=_channel_names(examples),
        pixel_size=_pixel_size(examples),
    )


def _count(sample: ImageSample, index: int, *, is_train: bool, config: Config) -> _Counted:
    """Sums over the blocks of a sample; positions are drawn where it is for training."""
    stats = [ChannelStats() for _ in sample.image.channels]
    pixels, draws = np.zeros(256, np.int64), []
    ids: set[int] | None = set() if sample.has_objects else None
    for number, box in enumerate(grid_boxes(sample.box, (BLOCK, BLOCK))):
        for total, part in zip(stats, _statistics(sample, box), strict=True):
            total.add(part)
        classes = sample.truth(box)
        pixels += np.bincount(classes.ravel(), minlength=256)
        if ids is not None:
            ids.update(np.unique(sample.objects(box)).tolist())
        if is_train:
            generator = np.random.default_rng([config.training.seed, index, number])
            present = np.flatnonzero(np.bincount(classes.ravel(), minlength=256)[:VOID]).tolist()
            draws += [draw_class(classes, k, box, index, generator) for k in present]
            if config.weights.kind == "unet":
                border = draw_border(np.where(classes == 0, sample.border(box), 0), box, index, generator)
                draws += [border] if border else []
    if not sample.plane:
        sample.close()
    return _Counted(tuple(stats), pixels, None if ids is None else len(ids - {0}), tuple(draws))


def _statistics(sample: ImageSample, box: Box) -> list[ChannelStats]:
    """Of each channel in a box; refuses values that no network can take."""
    image, _ = sample.opened()
    source = image.source
    has_alpha = source.alpha is not None and source.alpha not in image.channels
    channels = (*image.channels, source.alpha) if has_alpha and source.alpha is not None else image.channels
    pixels = read_channels(source, channels, sample.plane, box)
    _check_finite(pixels[: len(image.channels)], sample, box)
    mask = None if source.mask is None else source.mask.read(box)
    summary = block_statistics(pixels, source.nodata, len(image.channels) if has_alpha else None, mask)
    return [ChannelStats.from_json(summary[str(c)]) for c in range(len(image.channels))]


def _check_finite(pixels: NDArray[Any], sample: ImageSample, box: Box) -> None:
    if pixels.dtype.kind != "f":
        return
    wrong, nodata = ~np.isfinite(pixels), sample.image.source.nodata
    if nodata is not None:  # as everywhere: NaN is nodata, too
        wrong &= ~np.isnan(pixels) & (pixels != nodata)
    if wrong.any():
        c, y, x = (int(i[0]) for i in np.nonzero(wrong))
        way_out = "set [data] nodata = nan to leave such out" if nodata is None else "correct the file"
        raise InputError(
            f"{sample.name}: {np.count_nonzero(wrong)} values are NaN or infinite, one at y {box.start[0] + y}, x "
            f"{box.start[1] + x} of channel {sample.image.channels[c]}; {way_out}"
        )


def _check_known(
    parts: Sequence[str], samples: Sequence[ImageSample], counted: Sequence[_Counted], config: Config
) -> None:
    """Refuse images, or parts, of which nothing is known."""
    known = [int(c.pixels[:VOID].sum()) for c in counted]
    for part in dict.fromkeys(parts):
        if not sum(n for n, own in zip(known, parts, strict=True) if own == part):
            raise InputError(f"[split] {part}: not one pixel of its truth is known; check map, void and the boxes")
    for n, sample in zip(known, samples, strict=True):
        if not n and config.split.by != "region":
            y, x = sample.box.shape
            raise InputError(f"{sample.name}: not one of the {y} x {x} pixels of its truth is known; leave it out")


def _names(config: Config, counted: Sequence[_Counted]) -> tuple[str, ...]:
    """Names of classes without names."""
    largest = max(int(np.flatnonzero(c.pixels[:VOID]).max(initial=0)) for c in counted)
    n = Meaning.of(config.data).n_classes or max(largest + 1, 2)
    return ("background", *(f"class {k}" for k in range(1, n)))


def _class_weights(
    parts: Sequence[str], counted: Sequence[_Counted], names: Sequence[str], config: Config
) -> tuple[float, ...]:
    pixels = sum((c.pixels for c, part in zip(counted, parts, strict=True) if part == "train"), np.zeros(256, np.int64))
    counts = pixels[: len(names)].tolist()
    if 0 in counts:
        k = counts.index(0)
        raise InputError(
            f"[split] train: has not one pixel of class {k} ({names[k]}), of the others {max(counts)}, of void "
            f"{int(pixels[VOID])}; train on images that show it, or leave the class out"
            + ('; of a mask of 0 and 255 say map = "0=0,255=1"' if pixels[VOID] else "")
        )
    return class_weights(counts) if config.weights.kind != "none" else ()


def _fills(samples: Sequence[ImageSample], counted: Sequence[_Counted]) -> list[tuple[float, ...]]:
    """What each sample's network sees in place of nodata: the means of the channels of its file."""
    files: dict[str, list[ChannelStats]] = {}
    for sample, c in zip(samples, counted, strict=True):
        stats = files.setdefault(_file(sample.image), [ChannelStats() for _ in c.stats])
        for total, part in zip(stats, c.stats, strict=True):
            total.add(part)
    means = {file: tuple(s.mean if s.count else 0.0 for s in stats) for file, stats in files.items()}
    return [means[_file(sample.image)] for sample in samples]


def _file(image: Input) -> str:
    return str(image.source.reference.source)


def _normalization(parts: Sequence[str], counted: Sequence[_Counted], config: Config) -> dict[str, Any]:
    """The rule that models.save takes, from the training part."""
    rule, total = config.normalization, [ChannelStats() for _ in counted[0].stats]
    for c, part in zip(counted, parts, strict=True):
        if part == "train":
            for all_, own in zip(total, c.stats, strict=True):
                all_.add(own)
    if rule.kind in ("range", "none"):
        return {"kind": rule.kind}
    if rule.kind == "mean_std":
        first, second = [s.mean for s in total], [s.std for s in total]
        spread = second
    else:
        first, second = ([s.percentile(q) for s in total] for q in rule.percentiles)
        spread = [high - low for low, high in zip(first, second, strict=True)]
    if flat := [c for c, n in enumerate(spread) if not n > 0]:
        raise InputError(
            f"[normalization] {rule.kind}: channel {flat[0]} is {first[flat[0]]:g} throughout the training part; "
            'leave it out of [data] channels, or take kind = "range"'
        )
    names = ("mean", "std") if rule.kind == "mean_std" else ("low", "high")
    return {"kind": rule.kind, names[0]: first, names[1]: second}


def _pixel_size(examples: Sequence[Example]) -> tuple[float, float] | None:
    """That of all images, to a hundredth; None where one has none, or they differ."""
    sizes = [e.image.source.pixel_size for e in examples]
    first = sizes[0]
    if first is None or any(s is None or not np.allclose(s, first, rtol=0.01) for s in sizes):
        return None
    return first


def _channel_names(examples: Sequence[Example]) -> tuple[str, ...] | None:
    """Those that all images give the channels."""
    found = {
        names if (names := e.image.source.channel_names) is None else tuple(names[c] for c in e.image.channels)
        for e in examples
    }
    return found.pop() if len(found) == 1 else None
