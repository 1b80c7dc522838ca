"""Predictions and the truth that they are scored against: one image, or those of folders, paired by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.errors import InputError
from tilekit.jobs.drawing import draw_labels
from tilekit.place import as_path
from tilekit.sources import ZARR_DOCUMENTS, Source, open_image
from tilekit.tiling import Block

NO_MAPS = {".csv", ".json", ".md", ".txt", ".toml", ".xml", ".yaml", ".svg"}
"""Names of files beside label maps that are none."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One image: one or two predictions, and the truth."""

    name: str
    predictions: tuple[Source, ...]
    truth: Source

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides of the truth without leading axes of 1."""
        return _sides(self.truth)

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.truth.shape[-2], self.truth.shape[-1]

    @property
    def axes(self) -> str:
        return "".join(a for a, n in zip(self.truth.axes, self.truth.shape, strict=True) if n > 1 or a in "yx")

    def read(self, source: Source, block: Block) -> NDArray[Any]:
        """The pixels of a block of one of the maps, (y, x)."""
        position = iter(block.plane)
        lead = [(0, 1) if n == 1 else (i := next(position), i + 1) for n in source.shape[:-2]]
        box = [*lead, *zip(block.box.start, block.box.stop, strict=True)]
        return source.read(box).reshape(block.box.shape)


def _sides(source: Source) -> tuple[int, ...]:
    return (*(n for n in source.shape[:-2] if n > 1), *source.shape[-2:])


def list_pairs(predictions: Sequence[Any], truth: Any, kind: str) -> list[Pair]:
    """Pairs of maps given as paths, arrays or sources; of folders, those whose files have the same name.

    InputError where a folder lacks a file of the other's, shapes differ, or pixels are no labels.
    """
    given = [*predictions, truth]
    are_folders = [is_folder(item) for item in given]
    if not any(are_folders):
        return [_open_pair(_name_of(predictions[0]), predictions, truth, kind)]
    if not all(are_folders):
        single, folder = given[are_folders.index(False)], given[are_folders.index(True)]
        raise InputError(f"{single}: is one image and {folder} a folder of them; give images, or folders, alone")
    listed = [maps_in(as_path(folder)) for folder in given]
    names = sorted(listed[-1])
    for folder, found in zip(given, listed, strict=True):
        for other, wanted in zip(given, listed, strict=True):
            if missing := sorted(wanted.keys() - found.keys()):
                raise InputError(f"{folder}: has no {missing[0]}, which is in {other}; {len(missing)} such in all")
    if not names:
        raise InputError(f"{truth}: a folder without images; name one with label maps")
    return [_open_pair(name, [found[name] for found in listed[:-1]], listed[-1][name], kind) for name in names]


def is_folder(item: Any) -> bool:
    """True for a folder that is no Zarr store."""
    if not isinstance(item, str | Path):
        return False
    path = as_path(item)
    return path.is_dir() and not any((path / document).exists() for document in ZARR_DOCUMENTS)


def maps_in(folder: Path, left_out: Collection[str] = NO_MAPS) -> dict[str, Path]:
    """Label maps of a folder by their name without its ending; not files with the endings that are left out."""
    found: dict[str, Path] = {}
    for path in sorted(folder.expanduser().iterdir()):
        if path.name.startswith(".") or path.suffix.lower() in left_out or is_folder(path):
            continue
        name = stem(path)
        if name in found:
            raise InputError(f"{folder}: {found[name].name} and {path.name} have one name; keep one of them")
        found[name] = path
    return found


def stem(path: Path) -> str:
    """The name of a file or store without .tif, .ome.tif, .zarr and the like."""
    return path.with_suffix("").name.removesuffix(".ome")


def _name_of(item: Any) -> str:
    return as_path(item).name if isinstance(item, str | Path) else getattr(item, "name", "array")


def _open_pair(name: str, predictions: Sequence[Any], truth: Any, kind: str) -> Pair:
    opened = tuple(open_labels(p, kind) for p in predictions)
    drawn = draw_labels(as_path(truth), opened[0], kind) if isinstance(truth, str | Path) else None
    pair = Pair(name, opened, drawn or open_labels(truth, kind))
    for source in (*pair.predictions, pair.truth):
        _check(source, kind, is_truth=source is pair.truth)
    for source in pair.predictions:
        if _sides(source) != pair.shape:
            raise InputError(
                f"{name}: the prediction {source.name} is {_sides(source)} pixels, the truth {pair.truth.name} "
                f"{pair.shape}; give maps of one shape"
            )
    return pair


def open_labels(item: Any, kind: str, nodata: int | None = None) -> Source:
    """A label map of ids or classes; of an output of tilekit, the one in it. `nodata` replaces what the file says."""
    if isinstance(item, Source):
        return item if nodata is None else replace(item.reference, nodata=nodata).open()
    if isinstance(item, str | Path) and (inner := labels_in(as_path(item), kind)):
        item = inner
    return open_image(item, as_labels=True, nodata=nodata)


def labels_in(store: Path, kind: str) -> Path | None:
    """The label map inside an output of tilekit; None where the path is a label map itself."""
    place = store / "labels" / ("objects" if kind == "ids" else "classes")
    return place if any((place / document).exists() for document in ZARR_DOCUMENTS) else None


def kind_of(prediction: Any) -> str:
    """Ids or classes by the path of a store: labels/objects holds ids, all else is taken for classes."""
    parts = as_path(prediction).parts if isinstance(prediction, str | Path) else ()
    return "ids" if "objects" in parts and "labels" in parts else "classes"


def _check(source: Source, kind: str, *, is_truth: bool) -> None:
    if "c" in source.axes and source.shape[source.axes.index("c")] > 1:
        n = source.shape[source.axes.index("c")]
        raise InputError(f"{source.name}: has {n} channels, a label map has one; store the labels as one channel")
    if source.dtype.kind == "f" and (kind != "boundaries" or is_truth):
        what = "object ids" if kind == "ids" else "classes"
        raise InputError(f"{source.name}: pixels are {source.dtype}, {what} are integers; store them as such")
    if kind == "boundaries" and np.prod(source.shape[-2:]) > 1 << 28:
        raise InputError(
            f"{source.name}: {source.shape[-2]} x {source.shape[-1]} pixels a slice; boundary maps are scored slice by "
            "slice in memory, up to 2^28 pixels; cut it"
        )
