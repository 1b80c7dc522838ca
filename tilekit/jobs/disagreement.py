"""Where two predictions differ: a label layer that says, pixel by pixel, which of them is right."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit import ngff
from tilekit.engine import Progress, Receipt, Stage, execute
from tilekit.evaluation import NOTHING
from tilekit.jobs.output import Pyramid, complete_pyramid, keep_nothing, set_status, stage_folder
from tilekit.jobs.pairs import Pair
from tilekit.jobs.scoring import Counted, images_of
from tilekit.ledger import mark_started
from tilekit.overlaps import Overlaps, merged
from tilekit.packing import pack, read_arrays
from tilekit.predictor import VOID
from tilekit.run import Runner
from tilekit.store import put_file, update_group
from tilekit.tiling import block_side, plan_pyramid

STAGE = "disagreement"
LAYER = "labels/disagreement"
NAMES = ("both right", "both wrong, alike", "only the first right", "only the second right", "both wrong, each its way")
VERSION = "0.5"
UNMATCHED = NOTHING - 1
"""Meaning of a predicted object that is none of the truth's."""
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """What a task needs."""

    pair: Pair
    pyramid: Pyramid
    meanings: Path
    """Folder of what the values of the maps mean, a file per image and map."""
    folder: Path


def write_disagreement(counted: list[Counted], out: Path, runner: Runner, progress: Progress) -> list[str]:
    """Write the layer of each pair, below `out` or, of several, below a store in it; paths of the layers.

    Values are the positions of NAMES, and void. Objects are alike where they match one object of the truth.
    """
    pairs = counted[0].config.pairs
    layers = []
    for number, pair in enumerate(pairs):
        store = out if len(pairs) == 1 else out / f"{pair.name}.zarr"
        folder = stage_folder(out, STAGE) / "meanings" / str(number)
        for image, (_, indices) in enumerate(images_of(counted[0].config, number)):
            tables = [c.raw_table(indices) for c in counted]
            for name, (values, meanings) in _meanings(counted, tables, number).items():
                put_file(folder, f"{image}-{name}", pack({"values": values, "meanings": meanings}))
        _write_layer(pair, store, folder, runner, progress)
        layers.append(str(store / LAYER))
    return layers


def _meanings(counted: list[Counted], tables: list[Overlaps], number: int) -> dict[str, tuple[Array, Array]]:
    """For each map its values, sorted, and what they mean in the truth's numbers (uint64)."""
    found: dict[str, tuple[Array, Array]] = {}
    for k, (c, table) in enumerate(zip(counted, tables, strict=True)):
        meant = c.meant(table, number)
        found["truth"] = _meaning(table.truth, meant.truth)
        values, meanings = _meaning(table.prediction, meant.prediction)
        found[str(k)] = values, meanings if c.config.rules.kind == "classes" else _matched(merged(meant), meanings)
    return found


def _meaning(raw: Array, meant: Array) -> tuple[Array, Array]:
    values, first = np.unique(raw, return_index=True)
    return values, meant[first]


def _matched(table: Overlaps, ids: Array) -> Array:
    """The truth's object that each predicted one matches with an IoU above a half; 0 for background."""
    table = table.where(table.truth != NOTHING)
    areas = []
    for values in (table.truth, table.prediction):
        _, where = np.unique(values, return_inverse=True)
        areas.append(np.bincount(where, weights=table.counts)[where])
    good = (table.truth > 0) & (table.prediction > 0) & (3 * table.counts > areas[0] + areas[1])
    partner = dict(zip(table.prediction[good].tolist(), table.truth[good].tolist(), strict=True))
    return np.array([0 if i == 0 else partner.get(i, UNMATCHED) for i in ids.tolist()], np.uint64)


def _write_layer(pair: Pair, store: Path, meanings: Path, runner: Runner, progress: Progress) -> None:
    side = block_side(pair.plane_shape, (1, 1))
    levels, passes = plan_pyramid(pair.plane_shape, side)
    pyramid = Pyramid(
        out=store,
        name=LAYER,
        leading=pair.shape[:-2],
        axes=pair.axes,
        channel_axis=None,
        dtype="|u1",
        levels=tuple(levels),
        passes=tuple(passes),
        version=VERSION,
        is_labels=True,
        fill=VOID,
    )

    def prepare() -> None:
        set_status(store, VERSION, "running")
        update_group(store / "labels", VERSION, ngff.as_attributes(VERSION, labels=["disagreement"]))
        entry = ngff.multiscales(
            "disagreement", pair.axes, len(levels), VERSION, pixel_size=pair.truth.pixel_size, method="majority"
        )
        content = {"multiscales": entry, "image-label": ngff.image_label(NAMES, VOID, VERSION)}
        update_group(store / LAYER, VERSION, ngff.as_attributes(VERSION, **content))
        pyramid.create()

    config = LayerConfig(pair, pyramid, meanings, stage_folder(store, STAGE))
    n_blocks = len(pyramid.grid(passes[0]))
    execute(Stage(STAGE, store, write_block, config, n_blocks, {}, keep_nothing, prepare), runner, progress)
    complete_pyramid(pyramid, STAGE, runner, progress)
    set_status(store, VERSION, "complete")


def write_block(index: int, config: LayerConfig) -> Receipt:
    """Write one block of the layer."""
    redone = mark_started(config.folder, index)
    pair, step = config.pair, config.pyramid.passes[0]
    block = config.pyramid.grid(step).block(index)
    image = block.plane[0] if pair.axes[0] == "t" else 0
    maps = (("truth", pair.truth), *((str(k), s) for k, s in enumerate(pair.predictions)))
    truth, first, second = (
        _translate(pair.read(source, block), *_load(config.meanings / f"{image}-{name}")) for name, source in maps
    )
    layer = disagreement(first, second, truth)
    pixels = layer.reshape((1,) * len(block.plane) + layer.shape)
    return Receipt(config.pyramid.write_block(step, block.plane, block.box, pixels), {}, redone)


def disagreement(first: Array, second: Array, truth: Array) -> NDArray[np.uint8]:
    """Positions in NAMES, void where the truth is NOTHING."""
    right, other = first == truth, second == truth
    layer = np.where(first == second, 1, 4).astype(np.uint8)
    layer[right & other], layer[right & ~other], layer[other & ~right] = 0, 2, 3
    layer[truth == NOTHING] = VOID
    return layer


@lru_cache(maxsize=8)
def _load(path: Path) -> tuple[Array, Array]:
    held = read_arrays(path)
    return held["values"], held["meanings"]


def _translate(pixels: Array, values: Array, meanings: Array) -> Array:
    """What each pixel means."""
    if pixels.dtype == np.uint8:
        table = np.zeros(256, np.uint64)
        table[values.astype(np.int64)] = meanings
        return table[pixels]
    translated: Array = meanings[np.searchsorted(values, pixels.astype(values.dtype))]
    return translated
