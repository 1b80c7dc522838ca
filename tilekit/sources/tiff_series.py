"""Which pages of a TIFF make the image: one series of several, the levels of its pyramid, its mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilekit.errors import InputError
from tilekit.sources.source import Reference
from tilekit.sources.tiff_photometric import MIN_IS_WHITE, PALETTE

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

PLAIN_KINDS = ("generic", "uniform", "shaped")
"""Kinds of series of which nothing says that pages of another kind belong to the same image."""


@dataclass(frozen=True)
class Choice:
    """The series that is the image."""

    index: int
    """Its number in the file."""
    n_images: int
    """Series of the file that are neither masks nor levels."""
    levels: tuple[TiffPageSeries, ...]
    """Full size first."""
    masks: tuple[TiffPageSeries, ...]
    """Transparency masks of any size."""

    def mask_of(self, level: TiffPageSeries) -> TiffPageSeries | None:
        """The mask of the size of a level."""
        return next((mask for mask in self.masks if _sides(mask) == _sides(level)), None)


@dataclass(frozen=True)
class Opened:
    """A TIFF that is being described."""

    reference: Reference
    path: Path
    fingerprint: dict[str, Any]
    tiff: TiffFile
    choice: Choice

    @property
    def full(self) -> TiffPageSeries:
        """Level 0."""
        return self.choice.levels[0]

    @property
    def series(self) -> TiffPageSeries:
        """The level asked for."""
        return self.choice.levels[self.reference.level]


def choose_series(tiff: TiffFile, wanted: int | None, path: Path) -> Choice:
    """The series asked for, or the only image of the file; refuses several images, and levels that do not fit."""
    everything = list(tiff.series)
    if wanted is not None and not 0 <= wanted < len(everything):
        raise InputError(
            f"{path}: series {wanted} asked for, the file has {len(everything)}; use 0 to {len(everything) - 1}"
        )
    images = _images(everything)
    main = _first(images or everything) if wanted is None else everything[wanted]
    levels, others = _levels(main, everything, strict=wanted is None, path=path)
    alone = [s for s in images if s is main or s in others]
    if wanted is None and main.kind in PLAIN_KINDS and len(alone) > 1:
        second = next(s for s in alone if s is not main)
        i = everything.index(second)
        raise InputError(
            f"{path}: holds {len(alone)} images, {_describe(main)} and {_describe(second)} among them; "
            f"choose one with --series N (0 to {len(everything) - 1}; these are {everything.index(main)} and {i})"
        )
    masks = tuple(level for s in everything if s.keyframe.is_mask and s is not main for level in s.levels)
    return Choice(everything.index(main), max(len(alone), 1), levels, masks)


def _images(everything: Sequence[TiffPageSeries]) -> list[TiffPageSeries]:
    """Series that are neither masks nor marked as reduced; pages of their own before those of sub-IFDs."""
    whole = [s for s in everything if not s.keyframe.is_mask and not s.keyframe.is_reduced]
    return [s for s in whole if not s.keyframe.is_subifd] + [s for s in whole if s.keyframe.is_subifd]


def _first(images: Sequence[TiffPageSeries]) -> TiffPageSeries:
    """The first image; in SCN files, whose first is an overview of the slide, the largest."""
    return max(images, key=lambda s: prod(_sides(s))) if images[0].kind == "scn" else images[0]


def _levels(
    main: TiffPageSeries, everything: Sequence[TiffPageSeries], strict: bool, path: Path
) -> tuple[tuple[TiffPageSeries, ...], list[TiffPageSeries]]:
    """Levels of the pyramid, those that tifffile leaves apart included, and the series that are none.

    A level that does not fit is refused where `strict`, and else left out: the user has named the one image.
    """
    apart = [s for s in everything if s is not main and not s.keyframe.is_mask]
    below = [s for s in apart if main.kind in PLAIN_KINDS and _is_level(s, main)]
    smaller = [*main.levels[1:], *(level for s in below for level in s.levels)]
    levels = [main]
    for level in sorted(smaller, key=lambda s: prod(_sides(s)), reverse=True) if below else smaller:
        misfit = _misfit(main, levels[-1], level)
        if not misfit:
            levels.append(level)
        elif strict:
            raise InputError(
                f"{path}: level {len(levels)} of its pyramid, {_describe(level)}, {misfit}; "
                f"write the pyramid again, or read it without with --series {everything.index(main)}"
            )
    return tuple(levels), [s for s in apart if s not in below]


def _is_level(series: TiffPageSeries, main: TiffPageSeries) -> bool:
    """True where the file means a series as a level: from sub-IFDs of the image's first page, or marked as reduced."""
    index = series.keyframe.treeindex
    if len(index) > 1 and index[:-1] == main.keyframe.treeindex:
        return True
    return series.keyframe.is_reduced and (series.axes, series.dtype) == (main.axes, main.dtype)


def _misfit(full: TiffPageSeries, previous: TiffPageSeries, level: TiffPageSeries) -> str:
    """Why this is no level below the previous one; empty where it is."""
    one_is_special = {int(level.keyframe.photometric), int(full.keyframe.photometric)} & {MIN_IS_WHITE, PALETTE}
    if (level.axes, level.dtype, _other_sides(level)) != (full.axes, full.dtype, _other_sides(full)) or (
        one_is_special and level.keyframe.photometric != full.keyframe.photometric
    ):
        return f"is of another kind than the full {_describe(full)}"
    (h, w), (up, left), (height, width) = _sides(level), _sides(previous), _sides(full)
    if h > up or w > left:
        return f"is larger than the level before, {_describe(previous)}"
    # Sides rounded up or down from a common scale s are off by at most 1: |h - height/s| <= 1, |w - width/s| <= 1.
    if abs(h * width - w * height) > height + width:
        return f"has another aspect ratio than the full {_describe(full)}"
    return ""


def _sides(series: TiffPageSeries) -> tuple[int, int]:
    return series.keyframe.imagelength, series.keyframe.imagewidth


def _other_sides(series: TiffPageSeries) -> list[int]:
    return [n for a, n in zip(series.axes, series.shape, strict=True) if a not in "YX"]


def _describe(series: Any) -> str:
    return f"{'x'.join(map(str, series.shape))} {series.axes.lower()} {series.dtype}"
