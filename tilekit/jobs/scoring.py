"""Scores from what was counted: of each image, pooled, and compared."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tilekit.boundaries import boundary_scores, counts_of
from tilekit.box import Box, grid_boxes
from tilekit.comparison import paired_differences
from tilekit.engine import Progress, no_progress
from tilekit.errors import InputError
from tilekit.evaluation import NOTHING, Rules
from tilekit.jobs.evaluate import CountConfig, count_pairs
from tilekit.jobs.pairs import Pair
from tilekit.object_scores import count_objects, object_scores
from tilekit.overlaps import Overlaps, count_overlaps, merged, sum_overlaps
from tilekit.run import Runner
from tilekit.scores import class_scores, confusion_of, highest_class

VIEW = 512
"""Side in pixels of the tiles among which the worst are looked for."""
N_WORST = 6
SCORES: dict[str, Any] = {"classes": class_scores, "ids": object_scores, "boundaries": boundary_scores}


def evaluate_pairs(
    pairs: Sequence[Pair],
    rules: Rules,
    runner: Runner,
    *,
    out: Path,
    block: int | None = None,
    is_drawn: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Scores of one or more images, by the keys of docs/scores.md; of two predictions, of both and how they differ.

    `is_drawn` adds what pictures need: the worst tiles, and a layer of where two disagree, written below `out`.
    The caller holds `out`. InputError for values that cannot be scored, and where the truth holds nothing to score.
    """
    started = time.perf_counter()
    config = CountConfig(tuple(pairs), rules, block, out)
    report = count_pairs(config, runner, progress)
    counted = [Counted(config, k) for k in range(len(pairs[0].predictions))]
    scored = [score(c) for c in counted]
    common: dict[str, Any] = {"blocks": report.blocks, "redone": report.redone}
    if is_drawn:
        common["worst"] = worst_tiles(counted[0])
    common["seconds"] = round(time.perf_counter() - started, 3)
    if len(scored) == 1:
        return {**scored[0], **common}
    first, second = scored
    differences = paired_differences(first["images"], second["images"])
    result = {"kind": rules.kind, "first": first, "second": second, "differences": differences, **common}
    if is_drawn and rules.kind != "boundaries":
        from tilekit.jobs.disagreement import write_disagreement

        result["disagreement"] = write_disagreement(counted, out, runner, progress)
    return result


class Counted:
    """What was counted of one prediction."""

    def __init__(self, config: CountConfig, prediction: int) -> None:
        self.config, self.prediction = config, prediction

    def data(self, index: int) -> bytes:
        return (self.config.out / self.config.key(index, self.prediction)).read_bytes()

    @cached_property
    def is_coded(self) -> bool:
        """True where the prediction is written in the truth's numbers, in all images."""
        if self.config.rules.mapping is None:
            return False
        values = [np.unique(Overlaps.from_bytes(self.data(i)).prediction) for i in range(self.config.starts[-1])]
        return self.config.rules.is_coded(np.unique(np.concatenate(values)))

    def raw_table(self, indices: Sequence[int]) -> Overlaps:
        """The overlaps of some blocks, in the values of the maps."""
        return sum_overlaps(Overlaps.from_bytes(self.data(i)) for i in indices)

    def table(self, indices: Sequence[int]) -> Overlaps:
        """The overlaps of some blocks of one image, as they are meant, each pair once."""
        table = self.meant(self.raw_table(indices), self.config.locate(indices[0])[0])
        return table if self.config.rules.mapping is None else merged(table)

    def meant(self, table: Overlaps, pair: int) -> Overlaps:
        """A table of a pair with what its values mean in their place, row by row."""
        named = self.config.pairs[pair]
        names = named.predictions[self.prediction].name, named.truth.name
        return self.config.rules.prepare(table, *names, coded=self.is_coded)


def worst_tiles(counted: Counted) -> list[dict[str, Any]]:
    """The worst tile of each of the worst blocks, worst first; none of boundary maps."""
    config, kind = counted.config, counted.config.rules.kind
    if kind == "boundaries":
        return []
    wrong = [(count_wrong(counted.table([i]), kind), -i) for i in range(config.starts[-1])]
    found = []
    for _, index in sorted(wrong, reverse=True)[:N_WORST]:
        number, block = config.locate(-index)
        pair = config.pairs[number]
        maps = [pair.read(source, block) for source in (pair.predictions[counted.prediction], pair.truth)]
        tiles = []
        for box in grid_boxes(Box.whole(block.box.shape), (VIEW, VIEW)):
            table = merged(counted.meant(count_overlaps(*(pixels[box.slices] for pixels in maps)), number))
            tiles.append((count_wrong(table, kind), box.shift(block.box.start)))
        most, box = max(tiles, key=lambda tile: tile[0])
        ranges = [list(r) for r in zip(box.start, box.stop, strict=True)]
        found.append({"image": pair.name, "plane": list(block.plane), "box": ranges, "wrong": most})
    return sorted((tile for tile in found if tile["wrong"]), key=lambda tile: -tile["wrong"])


def count_wrong(table: Overlaps, kind: str) -> int:
    """Pixels of a tile that are wrong: of another class, or outside the best overlap of their object."""
    table = table.where(table.truth != NOTHING)
    if kind == "classes":
        return int(table.counts[table.truth != table.prediction].sum())
    best = []
    for values in (table.truth, table.prediction):
        _, where = np.unique(values, return_inverse=True)
        largest = np.zeros(where.max(initial=-1) + 1, np.int64)
        np.maximum.at(largest, where, table.counts)
        best.append(int(largest.sum()))
    return int(table.counts.sum()) - min(best)


def score(counted: Counted) -> dict[str, Any]:
    """Pooled scores of one prediction, their means over images, and those of each image."""
    config, kind = counted.config, counted.config.rules.kind
    of_kind = SCORES[kind]
    named = [image for number in range(len(config.pairs)) for image in images_of(config, number)]
    parts = {name: _sums(counted, indices) for name, indices in named}
    if kind == "classes":
        k = max(map(len, parts.values()))
        parts = {name: _widened(part, k) for name, part in parts.items()}
    first, *others = parts.values()
    pooled = of_kind(sum(others, start=first))
    _check_truth(config, pooled)
    images = [{"image": name, **of_kind(part)} for name, part in parts.items()]
    means = {name: _mean([row[name] for row in images]) for name, value in pooled.items() if isinstance(value, float)}
    return {"kind": kind, "is_mapped": counted.is_coded, **pooled, "mean_of_images": means, "images": images}


def _sums(counted: Counted, indices: Sequence[int]) -> Any:
    """What the scores of an image are made of, and what adds over images once its classes are as many."""
    kind = counted.config.rules.kind
    if kind == "boundaries":
        return sum(counts_of(counted.data(i)) for i in indices)
    table = counted.table(indices)
    return _confusion(table) if kind == "classes" else count_objects(table, void=NOTHING)


def _check_truth(config: CountConfig, pooled: dict[str, Any]) -> None:
    """Refuse a truth that holds nothing to score."""
    truth = config.pairs[0].truth.name if len(config.pairs) == 1 else f"{len(config.pairs)} images"
    if config.rules.kind == "ids" and not pooled["truth_objects"]:
        raise InputError(f"{truth}: the truth holds no object (all is 0 or void); give one that does, or score classes")
    if config.rules.kind == "classes" and not pooled["pixels"]:
        raise InputError(f"{truth}: all of the truth is void; say what its values mean by --void and --map")


def images_of(config: CountConfig, number: int) -> Iterator[tuple[str, list[int]]]:
    """Name and blocks of each image of a pair: the pair, or each of its times."""
    pair, start, stop = config.pairs[number], config.starts[number], config.starts[number + 1]
    if pair.axes[0] != "t":
        yield pair.name, list(range(start, stop))
        return
    n = (stop - start) // pair.shape[0]
    for t in range(pair.shape[0]):
        yield f"{pair.name} t={t}", list(range(start + t * n, start + (t + 1) * n))


def _confusion(table: Overlaps) -> Any:
    known = [highest_class(v[v != NOTHING]) for v in (table.truth, table.where(table.truth != NOTHING).prediction)]
    return confusion_of(table, max(*known, 0) + 1, void=NOTHING)


def _widened(counts: Any, k: int) -> Any:
    """A confusion with more classes."""
    wide = np.zeros((k, k + 1), np.int64)
    n = len(counts)
    wide[:n, :n], wide[:n, k] = counts[:, :n], counts[:, n]
    return wide


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if v == v]
    return sum(known) / len(known) if known else float("nan")
