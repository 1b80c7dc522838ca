"""What the jobs have in common: how a pyramid is created, written by blocks and completed by later passes."""

from __future__ import annotations

import errno
import shutil
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit import __version__, geozarr, ngff
from tilekit.box import Box
from tilekit.boxes import Boxes
from tilekit.copies import remove_tree
from tilekit.engine import Progress, Receipt, Report, Stage, execute
from tilekit.errors import InputError, RunError
from tilekit.georeference import Georeference
from tilekit.ledger import FOLDER, Summary, mark_started, read_arguments
from tilekit.lock import lock
from tilekit.place import RemotePath
from tilekit.pyramid import Draw, Drawn, halve_labels, halve_mean
from tilekit.run import Runner
from tilekit.sources import Source, open_image
from tilekit.store import (
    create_array,
    group_attributes,
    is_array_of,
    is_store,
    read_region,
    store_version,
    sweep_partial,
    update_group,
    write_region,
    write_values,
)
from tilekit.tiling import CHUNK, BlockGrid, Level, Pair, Pass, check_single_writer, plan_pyramid

Array = NDArray[Any]
MAX_FILES = 10**5
"""Files of a pyramid without shards from which on its chunks are larger."""
MAX_CHUNK = 2048
"""Side of a chunk beyond which no one who reads a little of it would be served well."""


@dataclass(frozen=True, slots=True)
class Pyramid:
    """A multiscale array inside an output."""

    out: Path
    """The output, a Zarr group."""
    name: str
    """Path of the pyramid's group below the output, "" for the image itself."""
    leading: tuple[int, ...]
    """Sides of the leading axes, (t,) (c,) (z,)."""
    axes: str
    channel_axis: int | None
    """Which leading axis is walked inside a block rather than by blocks."""
    dtype: str
    levels: tuple[Level, ...]
    passes: tuple[Pass, ...]
    version: str
    is_labels: bool
    fill: int | float = 0
    nodata: float | None = None
    georeference: Georeference | None = None
    """Of level 0."""

    @property
    def planes(self) -> tuple[int, ...]:
        """Sides of the leading axes that blocks walk."""
        return tuple(n for i, n in enumerate(self.leading) if i != self.channel_axis)

    def grid(self, step: Pass) -> BlockGrid:
        return BlockGrid(self.planes, self.levels[step.source].shape, step.side)

    def path(self, level: int) -> str:
        return f"{self.name}/{level}" if self.name else str(level)

    def region(self, plane: tuple[int, ...], box: Box) -> tuple[slice, ...]:
        """The part of a level's array that a block is: its plane, all channels, its box."""
        lead = [slice(i, i + 1) for i in plane]
        if self.channel_axis is not None:
            lead.insert(self.channel_axis, slice(0, self.leading[self.channel_axis]))
        return (*lead, *box.slices)

    def halve(self, pixels: Array) -> Array:
        return halve_labels(pixels) if self.is_labels else halve_mean(pixels, self.nodata)

    def create(self) -> None:
        """Make the empty arrays of all levels, where one is missing or damaged."""
        check_single_writer(self.levels, self.passes)
        if self._exists():
            return
        if self.georeference is not None and self.version != "0.4":
            shapes = [level.shape for level in self.levels]
            update_group(self.out / self.name, self.version, geozarr.group_attributes(self.georeference, shapes))
        for k, level in enumerate(self.levels):
            dimensions, attributes = self._place(k)
            if (missing := self.missing) is not None:
                attributes["_FillValue"] = encode_fill(missing, self.dtype)
            create_array(
                self.out / self.path(k),
                level,
                self.leading,
                self.axes,
                np.dtype(self.dtype),
                self.version,
                fill=missing if self.version == "0.4" else self.fill,
                dimensions=dimensions,
                attributes=attributes,
            )

    @property
    def missing(self) -> int | float | None:
        """The value that readers are told to take for nothing; None where every value means something."""
        is_told = self.is_labels or self.nodata is not None or self.fill != self.fill
        return self.fill if is_told else None

    def _place(self, k: int) -> tuple[list[str], dict[str, Any]]:
        """Names of a level's dimensions and its attributes, once what they refer to has been written.

        OME-NGFF 0.5 wants the axes as names on all levels, so there is one pair of coordinate arrays, of level 0; in
        0.4 each level has its own.
        """
        suffix = f"_{k}" if k and self.version == "0.4" else ""
        dimensions = [f"{a}{suffix}" if a in "yx" else a for a in self.axes]
        if self.georeference is None:
            return dimensions, {}
        place, shape = self.georeference.at_scale((2.0**k, 2.0**k)), self.levels[k].shape
        folder = self.out / self.name
        for axis, (values, attributes) in geozarr.coordinates(place, shape).items():
            if k == 0 or suffix:
                write_values(folder / f"{axis}{suffix}", values, [f"{axis}{suffix}"], self.version, attributes)
        mapping = geozarr.grid_mapping_attributes(place)
        write_values(folder / geozarr.grid_mapping_name(k), np.array(0), [], self.version, mapping)
        return dimensions, geozarr.array_attributes(place, k, shape, self.version)

    def _exists(self) -> bool:
        return all(
            is_array_of(self.out / self.path(k), level, self.leading, self.dtype) for k, level in enumerate(self.levels)
        )

    def write_block(self, step: Pass, plane: tuple[int, ...], box: Box, pixels: Array) -> list[Any]:
        """Write a block (leading..., y, x) of level `step.source` on every level of its pass; records of its shards."""
        if pixels.dtype != np.dtype(self.dtype):
            raise TypeError(f"{self.out / self.name}: pixels are {pixels.dtype}, the array is {np.dtype(self.dtype)}")
        shards: list[Any] = []
        for k in range(step.source, step.levels[-1] + 1):
            if k > step.source:
                pixels, box = self.halve(pixels), box.coarser(2)
            if k in step.levels:
                region = self.region(plane, box)
                shards += write_region(
                    self.out, self.path(k), self.levels[k], self.version, region, pixels, fill=self.fill
                )
        return shards

    def write_drawn(self, plane: tuple[int, ...], box: Box, draw: Draw) -> list[Any]:
        """`write_block` of the first pass, for labels that `draw` fills in."""
        step, level, region = self.passes[0], self.levels[0], self.region(plane, box)
        shape = tuple(s.stop - s.start for s in region)
        if level.chunk % 2 or step.levels == (0,):
            draw(whole := np.empty(box.shape, self.dtype), 0, 0)
            return self.write_block(step, plane, box, whole.reshape(shape))
        drawn = Drawn(shape, np.dtype(self.dtype), draw)
        shards = write_region(self.out, self.path(0), level, self.version, region, drawn, fill=self.fill)
        further = replace(step, source=1, levels=step.levels[1:])
        return shards + self.write_block(further, plane, box.coarser(2), drawn.halved)


def encode_fill(value: int | float, dtype: Any) -> int | str:
    """A value for `_FillValue` as xarray writes it to Zarr 3: floats as 8 little-endian bytes in base64."""
    if np.dtype(dtype).kind == "f":
        return b64encode(pack("<d", value)).decode()
    return int(value)


def lay_levels(
    shape: Pair, block: int, planes: int, *, chunk: int | None, sharded: bool
) -> tuple[tuple[Level, ...], tuple[Pass, ...]]:
    """The levels of a pyramid and the passes that write them; larger chunks where files would be too many.

    `planes` is the number of 2-D planes (all channels, slices and times). A chunk that is given stays as it is.
    """
    side = chunk or CHUNK
    if chunk is None and not sharded:
        while side < MAX_CHUNK and planes * (shape[0] / side) * (shape[1] / side) * 4 / 3 > MAX_FILES:
            side *= 2
    levels, passes = plan_pyramid(shape, block, chunk=side, sharded=sharded)
    return tuple(levels), tuple(passes)


@dataclass(frozen=True, slots=True)
class CoarseConfig:
    """What a task of a later pass needs."""

    pyramid: Pyramid
    step: Pass
    folder: Path


def coarsen_block(index: int, config: CoarseConfig) -> Receipt:
    """Read a block of the coarsest level so far and write the next levels."""
    redone = mark_started(config.folder, index)
    pyramid, step = config.pyramid, config.step
    block = pyramid.grid(step).block(index)
    pixels = read_region(pyramid.out / pyramid.path(step.source), pyramid.region(block.plane, block.box))
    return Receipt(pyramid.write_block(step, block.plane, block.box, pixels), {}, redone)


def keep_nothing(total: Summary, part: Summary) -> Summary:
    return {}


def complete_pyramid(
    pyramid: Pyramid, stage: str, runner: Runner, progress: Progress, boxes: Boxes | None = None
) -> list[Report]:
    """Run the later passes, each a stage of its own; `boxes` tell which blocks may have changed since another run."""
    reports = []
    for number, step in enumerate(pyramid.passes[1:], start=2):
        name = f"{stage}-{number}"
        config = CoarseConfig(pyramid, step, stage_folder(pyramid.out, name))
        grid = pyramid.grid(step)
        job = Stage(
            name,
            pyramid.out,
            coarsen_block,
            config,
            len(grid),
            {},
            keep_nothing,
            requests=boxes.over(grid, step.source) if boxes else None,
            grid=grid,
        )
        reports.append(execute(job, runner, progress))
    return reports


def write_metadata(pyramid: Pyramid, source: Source, meaning: dict[str, Any]) -> None:
    """OME-NGFF's of a pyramid made from a source: its place, what is in it, and its name among the labels."""
    version = pyramid.version
    group, _, name = pyramid.name.rpartition("/")
    entry = ngff.multiscales(
        name or source.name,
        pyramid.axes,
        len(pyramid.levels),
        version,
        pixel_size=source.pixel_size,
        slice_spacing=source.slice_spacing,
        translation=source.translation,
        method="majority" if pyramid.is_labels else "mean",
    )
    if group:
        attributes = group_attributes(pyramid.out / group)
        listed = [other for other in attributes.get("ome", attributes).get("labels", []) if other != name]
        update_group(pyramid.out / group, version, ngff.as_attributes(version, labels=[*listed, name]))
    update_group(pyramid.out / pyramid.name, version, ngff.as_attributes(version, multiscales=entry, **meaning))


def is_sharded(out: Path, version: str, source: Source) -> bool:
    """Labels are sharded where the image is; where it is not tilekit's, unless it has a place on the ground."""
    ingested = read_arguments(out, "ingest")
    unasked = source.georeference is None
    return version != "0.4" and (ingested["shard"] != ingested["chunk"] if ingested else unasked)


def stage_folder(out: Path, stage: str) -> Path:
    return out / FOLDER / stage


def now() -> str:
    """The time of provenance, in seconds, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def set_status(out: Path, version: str, status: str, **facts: Any) -> None:
    """Set the root attribute `tilekit`: status running or complete, and provenance."""
    known = group_attributes(out).get("tilekit", {})
    update_group(out, version, {"tilekit": {**known, **facts, "status": status, "version": __version__}})


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Hold an output: locked against other runs, and swept of files that a killed writer left half-written.

    What was complete stays so where the run is refused.
    """
    with lock(out):
        status = None
        with suppress(InputError):  # torn, and perhaps about to be overwritten
            status = group_attributes(out).get("tilekit", {}).get("status")
        try:
            sweep_partial(out)
            yield
            sweep_partial(out)
        except InputError:
            if status == "complete":
                set_status(out, store_version(out), status)
            raise
        except OSError as error:
            where = error.filename or out
            raise RunError(
                f"{where}: {error.strerror or error}; mend the cause and run the same command again to continue"
            ) from error


def clear_output(out: Path) -> None:
    """Remove all that an earlier run wrote; the caller holds the lock."""
    for path in (*out.iterdir(), *(out / FOLDER).iterdir()):
        if path.is_dir() and path.name != FOLDER:
            remove_tree(path)
        elif path.is_file() and path.name != "lock":
            path.unlink()


def check_output(out: Path, *, overwrite: bool, stage: str = "ingest") -> None:
    """Refuse an output where something lies that `stage` did not begin; even `overwrite` removes Zarr stores alone."""
    if isinstance(out, RemotePath):
        out.check_writable()
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not is_store(out) and not (out / FOLDER).is_dir()):
        raise InputError(f"{out}: exists and is no Zarr store; choose another output")
    if is_store(out) and read_arguments(out, stage) is None and not overwrite:
        raise InputError(
            f"{out}: is a Zarr store that tilekit's {stage} did not begin; choose another output, or use --overwrite"
        )


def check_disk(out: Path, need: int) -> None:
    """Refuse where the output, less what of it is there already, surely does not fit."""
    if isinstance(out, RemotePath):
        return  # nobody says how much fits
    place = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    there = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) if need > free else 0
    if need > free + there:
        raise InputError(
            f"{out}: needs about {_size(need)}, {_size(free + there)} are free; free some, or choose another disk"
        ) from OSError(errno.ENOSPC, "too little space")


def _size(n: int) -> str:
    """Bytes for people: the unit in which the number shows.

    >>> _size(0), _size(512_000), _size(3 * 10**12)
    ('0 bytes', '512.00 kB', '3.00 TB')
    """
    for unit, bytes_of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= bytes_of:
            return f"{n / bytes_of:.2f} {unit}"
    return f"{n} bytes"


def as_source(image: Any, **options: Any) -> Source:
    """An image given as path, array or source."""
    return image if hasattr(image, "fingerprint") else open_image(image, **options)
