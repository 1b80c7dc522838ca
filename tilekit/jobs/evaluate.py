"""Scores of images of any size: overlaps are counted once, block by block, and scored when all are there."""

from __future__ import annotations

import hashlib
import json
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tilekit.boundaries import count_slice
from tilekit.engine import Progress, Receipt, Report, Stage, execute, no_progress
from tilekit.errors import InputError
from tilekit.evaluation import Rules
from tilekit.jobs.output import clear_output, stage_folder, writing
from tilekit.jobs.pairs import Pair
from tilekit.ledger import FOLDER, Summary, mark_started
from tilekit.overlaps import count_overlaps
from tilekit.run import Runner
from tilekit.store import put_file
from tilekit.tiling import Block, BlockGrid, block_side

STAGE = "evaluate"


@dataclass(frozen=True)
class CountConfig:
    """What a task needs."""

    pairs: tuple[Pair, ...]
    rules: Rules
    block: int | None
    """Side of a block; None to choose it by the image's size."""
    out: Path

    @cached_property
    def grids(self) -> list[BlockGrid]:
        """The blocks of each pair; boundary maps are taken slice by slice."""
        is_whole = self.rules.kind == "boundaries"
        grids = []
        for pair in self.pairs:
            side = max(pair.plane_shape) if is_whole else self.block or block_side(pair.plane_shape, (1, 1))
            grids.append(BlockGrid(pair.shape[:-2], pair.plane_shape, side))
        return grids

    @cached_property
    def starts(self) -> list[int]:
        """Number of the first block of each pair, and of all blocks."""
        return np.cumsum([0, *map(len, self.grids)]).tolist()  # type: ignore[no-any-return]

    def locate(self, index: int) -> tuple[int, Block]:
        """The pair that a block belongs to, and the block."""
        pair = bisect_right(self.starts, index) - 1
        return pair, self.grids[pair].block(index - self.starts[pair])

    def key(self, index: int, prediction: int) -> str:
        """Where the counts of a block lie below the output."""
        return f"{FOLDER}/{STAGE}/counts/{index}-{prediction}"


def count_block(index: int, config: CountConfig) -> Receipt:
    """Count one block, for each prediction, into a file of its own; a truth that cannot be scored is told at once."""
    redone = mark_started(stage_folder(config.out, STAGE), index)
    number, block = config.locate(index)
    pair = config.pairs[number]
    truth = pair.read(pair.truth, block)
    shards = []
    try:
        for k, source in enumerate(pair.predictions):
            found = pair.read(source, block)
            if config.rules.kind == "boundaries":
                data = count_slice(_as_probability(found, source.name), truth).tobytes()
            else:
                table = count_overlaps(found, truth)
                config.rules.truth_of(table, pair.truth.name)
                data = table.to_bytes()
            shards.append(put_file(config.out, config.key(index, k), data))
    except InputError as error:
        return Receipt([], {"refused": str(error)}, redone)
    return Receipt(shards, {}, redone)


def _as_probability(pixels: Any, name: str) -> Any:
    """Floats of 0 to 1 as they are, integers as shares of their dtype's largest value (of 1 where none is larger)."""
    if pixels.dtype.kind != "f":
        return pixels.astype(np.float64) / (np.iinfo(pixels.dtype).max if pixels.max(initial=0) > 1 else 1)
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError(f"{name}: holds {pixels.min()} to {pixels.max()}, probabilities are 0 to 1; scale it")
    return pixels


def fold_counts(total: Summary, part: Summary) -> Summary:
    """Nothing is summed here; raises what a block was refused for."""
    if "refused" in part:
        raise InputError(part["refused"])
    return {}


@contextmanager
def opened(out: Path | None, *, overwrite: bool) -> Iterator[Path]:
    """The output, held; a folder that is gone afterwards where none is asked for."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="tilekit-") as folder:
            yield Path(folder)
        return
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / FOLDER / STAGE).is_dir()):
        raise InputError(f"{out}: exists and holds something else; choose another --out")
    with writing(out):
        if overwrite:
            clear_output(out)
        yield out


def count_pairs(config: CountConfig, runner: Runner, progress: Progress = no_progress) -> Report:
    """Count what was not counted yet."""
    sources = tuple(s for p in config.pairs for s in (*p.predictions, p.truth))
    prints = [dict(s.fingerprint) for s in sources]
    digest = hashlib.sha256(json.dumps(prints, sort_keys=True, default=str).encode()).hexdigest()
    arguments = {"images": len(config.pairs), "files": digest, "block": config.block, **config.rules.to_json()}
    stage = Stage(STAGE, config.out, count_block, config, config.starts[-1], arguments, fold_counts, sources=sources)
    return execute(stage, runner, progress)
