"""Another view of a source: axes renamed and reordered, and one time or one slice alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.sources.source import CANONICAL_AXES, Reader, Reference, Source

POSITIONS = ("t", "z")
"""Axes of which one position can be chosen."""


@dataclass(frozen=True)
class ViewReader:
    """Reads boxes of the view from the source behind it."""

    reader: Reader
    order: tuple[int | None, ...]
    """For every axis of the source behind, its axis in the view; None where one position is chosen."""
    chosen: tuple[int, ...]
    """That position; 0 elsewhere."""

    def read(self, box: Box) -> NDArray[Any]:
        starts = [at if i is None else box.start[i] for i, at in zip(self.order, self.chosen, strict=True)]
        stops = [at + 1 if i is None else box.stop[i] for i, at in zip(self.order, self.chosen, strict=True)]
        pixels = self.reader.read(Box(tuple(starts), tuple(stops)))
        dropped = tuple(k for k, i in enumerate(self.order) if i is None)
        kept = [i for i in self.order if i is not None]
        return pixels.squeeze(dropped).transpose([kept.index(i) for i in range(len(kept))])


def view(source: Source, reference: Reference) -> Source:
    """The source as its reference asks for it: `axes` renames the axes presented, `t` and `z` choose positions."""
    letters = _renamed(source, reference.axes)
    chosen = {a: at for a in POSITIONS if (at := getattr(reference, a)) is not None}
    for a, at in chosen.items():
        n = source.shape[letters.index(a)] if a in letters else 0
        if not 0 <= at < n:
            told = f"use 0 to {n - 1}" if n else "leave it out"
            raise InputError(f"{source.name}: {a} {at} asked for, the image has {n} positions along {a}; {told}")
    if letters == source.axes and not chosen:
        return source
    axes = "".join(a for a in CANONICAL_AXES if a in letters and a not in chosen)
    places = [letters.index(a) for a in axes]
    order = tuple(None if a in chosen else axes.index(a) for a in letters)
    assert source.reader is not None
    keeps_slices = "z" in axes and letters.find("z") == source.axes.find("z")
    renames_channels = letters.find("c") != source.axes.find("c")
    return replace(
        source,
        axes=axes,
        shape=tuple(source.shape[i] for i in places),
        levels=tuple(tuple(level[i] for i in places) for level in source.levels),
        slice_spacing=source.slice_spacing if keeps_slices else None,
        channel_names=None if renames_channels else source.channel_names,
        wavelengths=None if renames_channels else source.wavelengths,
        value_scale=None if renames_channels else source.value_scale,
        alpha=None if renames_channels else source.alpha,
        reader=ViewReader(source.reader, order, tuple(chosen.get(a, 0) for a in letters)),
    )


def _renamed(source: Source, axes: str | None) -> str:
    letters = (axes or source.axes).lower()
    if len(letters) != len(source.axes) or len(set(letters)) != len(letters) or not set("yx") <= set(letters):
        raise InputError(
            f"{source.name}: axes {axes!r} given, but the image has {len(source.axes)} of shape {source.shape}; "
            f"name each once, y and x among them"
        )
    if not set(letters) <= set(CANONICAL_AXES):
        raise InputError(f"{source.name}: axes {axes!r} given; each must be one of t, c, z, y, x")
    return letters
