"""Samples: boxes of annotated planes, read box by box from several threads; small ones are kept in memory.

Everything that is read lies in the image's own pixels: a box that reaches outside shows what it mirrors, of image,
truth and weights alike. Truth and objects outside the sample's own box are never looked at, as they may be another
part's.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.training.config import Config
from flows.training.meaning import Meaning
from flows.training.pairs import Example
from flows.training.truth import LabelMap, Truth, as_classes
from tilekit.api import label_objects
from tilekit.box import Box
from tilekit.components import find_runs, paint
from tilekit.jobs.drawing import UNKNOWN
from tilekit.jobs.input import Input, show
from tilekit.mirror import read_mirrored
from tilekit.predictor import VOID
from tilekit.sources import Source, open_image
from tilekit.weights import border_weights, reach, ridge

Array = NDArray[Any]
Classes = NDArray[np.uint8]
KEPT_BYTES = 64 << 20
"""A sample of no more decoded bytes is kept in memory ..."""
ALL_KEPT_BYTES = 4 << 30
"""... as long as all of them together have no more than this."""
MOST_OPEN = 64
"""Files that are open at a time; of a picture, this is its decoded pixels."""
BYTES_OF_TRUTH = 9
"""Classes, weights and ids of a pixel in memory."""


@dataclass(frozen=True, slots=True)
class Weighing:
    """How pixels are weighed."""

    kind: str
    """unet, class or none."""
    is_ids: bool
    """True where the truth holds ids of objects, all of class 1; False where it holds classes."""
    w0: float
    sigma: float
    ridge: bool
    """True: of ids, pixels of an object beside another become background."""
    of_classes: tuple[float, ...] = ()
    """Weight of each class; empty: 1 for all."""

    @classmethod
    def of(cls, config: Config) -> Weighing:
        """What a configuration says, before the classes are counted."""
        w = config.weights
        is_ids = config.data.kind == "ids"
        return cls(w.kind, is_ids, w.w0, w.sigma, w.ridge and is_ids)

    @property
    def reach(self) -> int:
        """Pixels around a place that its border term depends on."""
        return reach(self.sigma, self.w0) if self.kind == "unet" else 0


@dataclass(frozen=True, eq=False)
class Kept:
    """Arrays of the whole sample, made on first use."""

    arrays: dict[str, Array] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.RLock)

    def get(self, name: str, make: Callable[[], Array]) -> Array:
        with self.lock:
            if name not in self.arrays:
                self.arrays[name] = make()
            return self.arrays[name]

    def truth_alone(self) -> Kept:
        """Without what depends on the whole training part."""
        return Kept({name: self.arrays[name] for name in ("classes", "labels") if name in self.arrays})


@dataclass(frozen=True, eq=False)
class OpenFiles:
    """Files that were read last; the others are closed, as there may be more than can be open."""

    last: dict[int, Source] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)

    def use(self, sources: Sequence[Source]) -> None:
        """These are about to be read."""
        with self.lock:
            for source in sources:
                self.last.pop(id(source), None)
                self.last[id(source)] = source
            while len(self.last) > MOST_OPEN:
                self.last.pop(next(iter(self.last))).close()


@dataclass(frozen=True, eq=False)
class ImageSample:
    """A box of a plane with its truth; fulfils models.sample.Sample."""

    name: str
    box: Box
    image: Input
    plane: tuple[int, ...]
    known: Truth
    weighing: Weighing
    connectivity: int
    """Of the objects of a class map that is kept in memory."""
    files: OpenFiles
    """Of all samples."""
    labelled: LabelMap | None = None
    """The objects of a class map that is not."""
    centers: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    kept: Kept | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Of the plane."""
        return self.image.grid.shape

    @property
    def has_objects(self) -> bool:
        """True where the truth's objects are known, or are labelled for the border term."""
        return self.weighing.is_ids or self.weighing.kind == "unet"

    def read(self, box: Box) -> Array:
        """Raw values (c, y, x) of a box that may reach outside the image."""
        return read_mirrored(lambda b: self._part("pixels", self._pixels, b), box, self.shape)

    def truth(self, box: Box) -> Classes:
        """Classes (y, x); VOID where nothing is known, or the place is not in `self.box`."""
        return read_mirrored(lambda b: self._part("classes", self._classes, b), box, self.shape)

    def weights(self, box: Box) -> NDArray[np.float32]:
        """Weight in the loss (y, x); 0 where void."""
        return read_mirrored(lambda b: self._part("weights", self._weights, b), box, self.shape)

    def objects(self, box: Box) -> Array:
        """Ids of objects (y, x) in a box inside the image, ridged where asked for, 0 for none and not in `self.box`."""
        return self._within(self._ids, box, 1, np.dtype(np.int64), 0)

    def border(self, box: Box) -> NDArray[np.float32]:
        """The border term (y, x) of a box inside the image; 0 outside `self.box`."""
        return self._within(self._border, box, self.weighing.reach + 1, np.dtype(np.float32), 0)

    def with_facts(
        self, fill: Sequence[float], of_classes: Sequence[float], centers: Mapping[str, NDArray[np.int64]]
    ) -> ImageSample:
        """The sample once the whole training part is known: what stands for nodata, class weights, centers."""
        return replace(
            self,
            image=replace(self.image, fill=tuple(fill)),
            weighing=replace(self.weighing, of_classes=tuple(of_classes)),
            centers=centers,
            kept=None if self.kept is None else self.kept.truth_alone(),
        )

    def _part(self, name: str, read: Callable[[Box], Array], box: Box) -> Array:
        """A box inside the image, out of memory where the sample is kept."""
        if self.kept is None:
            return read(box)
        whole = self.kept.get(name, lambda: read(Box.whole(self.shape)))
        y, x = box.slices
        return whole[..., y, x].copy()

    def opened(self) -> tuple[Input, Truth]:
        """Image and truth, about to be read."""
        self.files.use(self.sources)
        return self.image, self.known

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files that are read."""
        maps = [m.source for m in (self.known, self.labelled) if isinstance(m, LabelMap)]
        return (self.image.source, *maps)

    def close(self) -> None:
        """Let go of the files; the next read opens them again."""
        for source in self.sources:
            source.close()

    def _pixels(self, box: Box) -> Array:
        image, _ = self.opened()
        return image.read(self.plane, box)

    def _within(self, read: Callable[[Box], Array], box: Box, rim: int, dtype: np.dtype[Any], other: int) -> Array:
        """`read` of the part of a box that is in `self.box`, seen with a rim of pixels that are, too; else `other`."""
        out = np.full(box.shape, other, dtype)
        inner = box.intersect(self.box)
        if inner.n_pixels:
            wide = inner.grow((rim, rim), (rim, rim)).intersect(self.box)
            out[inner.relative_to(box).slices] = read(wide)[inner.relative_to(wide).slices]
        return out

    def _classes(self, box: Box) -> Classes:
        return self._within(self._known_classes, box, 1, np.dtype(np.uint8), VOID)

    def _known_classes(self, box: Box) -> Classes:
        values = self._known(box)
        if self.weighing.ridge:
            values = np.where(values > 0, ridge(np.maximum(values, 0)).astype(values.dtype), values)
        found: Classes = (values > 0 if self.weighing.is_ids else values).astype(np.uint8)
        found[values == UNKNOWN] = VOID
        return found

    def _known(self, box: Box) -> Array:
        """Ids or classes as the truth has them, UNKNOWN too where the image shows nothing."""
        image, known = self.opened()
        values, valid = known.read(box), image.valid(self.plane, box)
        return values if valid is None else np.where(valid, values, UNKNOWN)

    def _ids(self, box: Box) -> Array:
        """Ids, 0 for none."""
        _, known = self.opened()
        ids = known.objects(box)
        if ids is None and self.labelled is not None:
            ids = self.labelled.objects(box)
        elif ids is None:
            assert self.kept is not None
            ids = self.kept.get("labels", self._label)[box.slices]
        assert ids is not None
        return ridge(ids) if self.weighing.ridge else ids

    def _label(self) -> Array:
        """The components of the whole plane's classes."""
        _, known = self.opened()
        classes = known.read(Box.whole(self.shape)).astype(np.uint8)  # UNKNOWN becomes VOID
        runs = find_runs(classes, self.connectivity, VOID)
        ids = np.zeros(classes.shape, np.int32)
        paint(runs, np.arange(len(runs.first) + 1, dtype=np.int32), ids)
        return ids

    def _border(self, box: Box) -> NDArray[np.float32]:
        return border_weights(self._ids(box), self.weighing.w0, self.weighing.sigma)

    def _weights(self, box: Box) -> NDArray[np.float32]:
        classes, table = self._classes(box), np.zeros(256, np.float32)
        if self.weighing.of_classes:
            table[: len(self.weighing.of_classes)] = self.weighing.of_classes
        else:
            table[:VOID] = 1
        weights = table[classes]
        if self.weighing.kind == "unet":
            weights += np.where(classes == 0, self.border(box), 0)
        return weights


def open_samples(pieces: Sequence[tuple[Example, Box]], config: Config, scratch: Path) -> list[ImageSample]:
    """A sample for each box of a plane, without having read it.

    Where the border term of class maps is asked for that are too large for memory, their objects are labelled in Zarr
    below `scratch`, once.
    """
    samples, held, files = [], 0, OpenFiles()
    for example, box in pieces:
        n_bytes = _decoded_bytes(example.image)
        is_kept = n_bytes <= KEPT_BYTES and held + n_bytes <= ALL_KEPT_BYTES
        held += n_bytes if is_kept else 0
        truth, weighing = example.truth, Weighing.of(config)
        labelled = None
        if isinstance(truth, LabelMap) and weighing.kind == "unet" and not (weighing.is_ids or is_kept):
            labelled = _label_in_zarr(truth, config.data.connectivity, scratch)
        samples.append(
            ImageSample(
                name=example.name if box == example.box else f"{example.name} {show(box)}",
                box=box,
                image=example.image,
                plane=example.plane,
                known=truth,
                weighing=weighing,
                connectivity=config.data.connectivity,
                files=files,
                labelled=labelled,
                kept=Kept() if is_kept else None,
            )
        )
    return samples


def _decoded_bytes(image: Input) -> int:
    y, x = image.grid.shape
    return y * x * (len(image.channels) * image.source.dtype.itemsize + BYTES_OF_TRUTH)


def _label_in_zarr(truth: LabelMap, connectivity: int, scratch: Path) -> LabelMap:
    """The objects of a class map's planes, labelled unless an earlier run did it."""
    classes = as_classes(truth.source, truth.channel, truth.meaning)
    digest = hashlib.sha256(repr((sorted(classes.fingerprint.items()), connectivity)).encode()).hexdigest()[:16]
    out = scratch / f"objects-{digest}.zarr"
    label_objects(classes, out, connectivity=connectivity)
    return LabelMap(open_image(out / "labels/objects", as_labels=True), truth.plane, 0, Meaning("ids"))
