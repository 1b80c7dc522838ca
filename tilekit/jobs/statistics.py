"""Statistics of a whole image: folded while it is ingested, or in a pass of their own over a store that others made."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.engine import Progress, Receipt, Stage, execute
from tilekit.errors import InputError
from tilekit.jobs.output import set_status, stage_folder
from tilekit.ledger import Summary, mark_started, write_atomic
from tilekit.run import Runner
from tilekit.sources import Source
from tilekit.stats import ChannelStats, channel_stats
from tilekit.store import group_attributes, store_version
from tilekit.tiling import BlockGrid

STAGE = "statistics"


@dataclass(frozen=True, slots=True)
class StatisticsConfig:
    """What a task needs."""

    source: Source
    grid: BlockGrid
    folder: Path


def statistics_of_block(index: int, config: StatisticsConfig) -> Receipt:
    """Sum up the channels of one block."""
    redone = mark_started(config.folder, index)
    block, source = config.grid.block(index), config.source
    position = iter(block.plane)
    ranges = [
        (0, n) if a == "c" else (i := next(position), i + 1)
        for a, n in zip(source.axes[:-2], source.shape[:-2], strict=True)
    ]
    box = Box((*(a for a, _ in ranges), *block.box.start), (*(b for _, b in ranges), *block.box.stop))
    mask = None if source.mask is None else source.mask.read(block.box)
    return Receipt([], block_statistics(source.read(box), source.nodata, source.alpha, mask), redone)


def block_statistics(
    pixels: NDArray[Any], nodata: float | None, alpha: int | None = None, mask: NDArray[Any] | None = None
) -> Summary:
    """Statistics of a block (..., y, x) of one plane, whose only axis longer than one before y is the channels'.

    Left out are pixels that are nodata or NaN, those where the mask (..., y, x) is 0, and those where the channel
    `alpha` is 0, but for that channel itself.
    """
    by_channel = pixels.reshape(-1, *pixels.shape[-2:])
    masked = None if mask is None else mask.reshape(by_channel.shape[1:]) != 0
    seen = masked if alpha is None else (by_channel[alpha] != 0) & (True if masked is None else masked)
    summary = {}
    for c, channel in enumerate(by_channel):
        valid = masked if c == alpha else seen
        shown = channel if valid is None or valid.all() else channel[valid]
        summary[str(c)] = channel_stats(shown, nodata).to_json()
    return summary


def fold_statistics(total: Summary, part: Summary) -> Summary:
    """Add the statistics of some blocks to those of others, channel by channel."""
    folded = dict(total)
    for channel, data in part.items():
        stats = ChannelStats.from_json(data)
        if channel in folded:
            stats.add(ChannelStats.from_json(folded[channel]))
        folded[channel] = stats.to_json()
    return folded


def plain(value: float | None) -> float | str | None:
    """Nodata as JSON has it: NaN and infinities by name."""
    return value if value is None or math.isfinite(value) else str(value)


def store_statistics(source: Source, out: Path, version: str, summary: Summary) -> list[ChannelStats]:
    """Keep them: what a person asks for in the root attribute `tilekit`, the histograms beside the ledger.

    An image without a single valid pixel raises InputError, as it has nothing to be shown or predicted.
    """
    stats = [ChannelStats.from_json(data) for _, data in sorted(summary.items(), key=lambda item: int(item[0]))]
    if not any(s.count for c, s in enumerate(stats) if c != source.alpha):
        n = math.prod(n for a, n in zip(source.axes, source.shape, strict=True) if a != "c")
        value = "" if source.nodata is None else f" (nodata is {plain(source.nodata)})"
        raise InputError(
            f"{source.name}: not one of its {n} pixels is valid{value}; "
            "give another image, or --nodata if that is wrong, with --overwrite"
        )
    write_atomic(out / ".tilekit" / "statistics.json", json.dumps([s.to_json() for s in stats]))
    set_status(out, version, "running", statistics=[s.summary() for s in stats], nodata=plain(source.nodata))
    return stats


def stored_statistics(out: Path) -> list[dict[str, Any]] | None:
    """Statistics of an image, one entry per channel; None where they were never computed."""
    stored: list[dict[str, Any]] | None = group_attributes(out).get("tilekit", {}).get("statistics")
    return stored


def needs_statistics(source: Source) -> bool:
    """True where pixels may be nodata, in whose place the network sees the channel's mean."""
    return source.nodata is not None or source.dtype.kind == "f" or source.alpha is not None or source.mask is not None


def run_statistics(
    source: Source, out: Path, side: int, runner: Runner, progress: Progress
) -> list[dict[str, Any]] | None:
    """Statistics of a store that has none, by a pass over its pixels."""
    planes = tuple(n for a, n in zip(source.axes[:-2], source.shape, strict=False) if a != "c")
    grid = BlockGrid(planes, (source.shape[-2], source.shape[-1]), side)
    config = StatisticsConfig(source, grid, stage_folder(out, STAGE))
    arguments = {"image": dict(source.fingerprint), "block": side, "nodata": plain(source.nodata)}
    stage = Stage(STAGE, out, statistics_of_block, config, len(grid), arguments, fold_statistics, grid=grid)
    store_statistics(source, out, store_version(out), execute(stage, runner, progress).summary)
    return stored_statistics(out)


def means(statistics: list[dict[str, Any]] | None, channels: Sequence[int]) -> tuple[float, ...]:
    """What the network sees in place of nodata, per channel: the mean; 0 where the image has no valid pixel."""
    return tuple(float(statistics[c]["mean"] or 0.0) if statistics else 0.0 for c in channels)


def warn_of_units(predictor: Any, out: Path, channels: Sequence[int]) -> None:
    """One line in the log where the image is in other units than those of the network's training."""
    statistics, doubt = stored_statistics(out), getattr(predictor, "doubt", None)
    if statistics and doubt and (said := doubt(means(statistics, channels))):
        logging.getLogger("tilekit").warning("%s: %s", out, said)
