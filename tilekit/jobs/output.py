"""What the jobs have in common: how a pyramid is created, written by blocks and completed by later passes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit import __version__
from tilekit.box import Box
from tilekit.engine import Progress, Receipt, Report, Stage, execute
from tilekit.errors import InputError, RunError
from tilekit.ledger import FOLDER, Summary, lock, mark_started, read_arguments
from tilekit.pyramid import halve_labels, halve_mean
from tilekit.run import Runner, SerialRunner
from tilekit.sources import Source, open_image
from tilekit.store import (
    create_array,
    group_attributes,
    is_array_of,
    is_store,
    read_region,
    sweep_partial,
    update_group,
    write_region,
)
from tilekit.tiling import BlockGrid, Level, Pass, check_single_writer

Array = NDArray[Any]


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
        for k, level in enumerate(self.levels):
            path = self.out / self.path(k)
            create_array(path, level, self.leading, self.axes, np.dtype(self.dtype), self.version, fill=self.fill)

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


def complete_pyramid(pyramid: Pyramid, stage: str, runner: Runner, progress: Progress) -> list[Report]:
    """Run the later passes, each a stage of its own."""
    reports = []
    for number, step in enumerate(pyramid.passes[1:], start=2):
        name = f"{stage}-{number}"
        config = CoarseConfig(pyramid, step, stage_folder(pyramid.out, name))
        job = Stage(name, pyramid.out, coarsen_block, config, len(pyramid.grid(step)), {}, keep_nothing)
        reports.append(execute(job, runner, progress))
    return reports


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
    """Hold an output: locked against other runs, and swept of files that a killed writer left half-written."""
    with lock(out):
        try:
            sweep_partial(out)
            yield
            sweep_partial(out)
        except OSError as error:
            where = error.filename or out
            raise RunError(
                f"{where}: {error.strerror or error}; mend the cause and run the same command again to continue"
            ) from error


def clear_output(out: Path) -> None:
    """Remove all that an earlier run wrote; the caller holds the lock."""
    for path in (*out.iterdir(), *(out / FOLDER).iterdir()):
        if path.is_dir() and path.name != FOLDER:
            shutil.rmtree(path)
        elif path.is_file() and path.name != "lock":
            path.unlink()


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse an output where something lies that tilekit did not begin; even `overwrite` removes Zarr stores alone."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not is_store(out) and not (out / FOLDER).is_dir()):
        raise InputError(f"{out}: exists and is no Zarr store; choose another output")
    if is_store(out) and read_arguments(out, "ingest") is None and not overwrite:
        raise InputError(
            f"{out}: is a Zarr store that tilekit did not begin; choose another output, or use --overwrite"
        )


def check_disk(out: Path, need: int) -> None:
    """Refuse where the output, less what of it is there already, surely does not fit."""
    place = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    there = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) if need > free else 0
    if need > free + there:
        raise InputError(
            f"{out}: needs about {need / 1e9:.2f} GB, {(free + there) / 1e9:.2f} GB are free; "
            "free some, or choose another disk"
        )


def as_source(image: Any, **options: Any) -> Source:
    """An image given as path, array or source."""
    return image if hasattr(image, "fingerprint") else open_image(image, **options)


def reachable(source: Source, out: Path, runner: Runner) -> Source:
    """A source that worker processes can open: an array in memory is put into a file for them."""
    pixels = getattr(source.reference, "source", None)
    if isinstance(runner, SerialRunner) or not isinstance(pixels, np.ndarray):
        return source
    path = out / FOLDER / "array.npy"
    np.save(path, pixels)
    return open_image(path, nodata=source.nodata, pixel_size=source.reference.pixel_size)
