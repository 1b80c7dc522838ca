"""Outlines: the polygons of labeled objects, a row of blocks at a time, with the columns of their table.

An object belongs to the block that holds the upper left corner of its box, and is traced in a window that shows it
whole; one larger than a quarter of a block is traced block by block, and its parts are united.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit import ngff
from tilekit.copies import remove_tree, staged
from tilekit.engine import Progress, Receipt, Report, Stage, execute
from tilekit.jobs.measure import TABLE
from tilekit.jobs.output import keep_nothing, stage_folder
from tilekit.ledger import FOLDER, is_whole, mark_started
from tilekit.outlines import (
    KINDS,
    Geometry,
    area_in,
    check_outlines,
    geo_metadata,
    in_degrees,
    merge,
    on_the_ground,
    to_mapping,
    to_wkb,
    trace,
)
from tilekit.run import Runner
from tilekit.sources import Source, open_image
from tilekit.stall import moved
from tilekit.store import group_attributes, shard_record
from tilekit.tables import TableWriter, read_parts, read_rows
from tilekit.tiling import BlockGrid

Array = NDArray[Any]
Row = dict[str, Any]


def check_can_outline(kind: str, classes: Source) -> None:
    """Refuse polygons that cannot be written of this class map."""
    check_outlines(kind, classes.georeference, classes.name)


@dataclass(frozen=True, slots=True)
class OutlineConfig:
    """What a task needs."""

    out: Path
    """Where the file is written, below `tables`, and what lies between."""
    kind: str
    table: Path
    """Of the objects."""
    labels: Source
    grid: BlockGrid
    class_names: dict[int, str]

    @property
    def stage(self) -> str:
        return f"label-{self.kind}"

    def part(self, row: int) -> str:
        suffix = "parquet" if self.kind == "geoparquet" else "json"
        return f"{FOLDER}/{self.stage}-parts/{row}.{suffix}"

    @property
    def crs(self) -> str | None:
        """Of coordinates other than pixels."""
        place = self.labels.georeference
        return None if place is None or place.transform is None else place.crs


def run_outlines(
    store: Path, grid: BlockGrid, kind: str, runner: Runner, progress: Progress, out: Path | None = None
) -> list[Report]:
    """Write the polygons of the labels of a store, into the store or `out`; nothing to do where they are sound."""
    out = out or store
    labels = open_image(store / "labels/objects", as_labels=True)
    config = OutlineConfig(out, kind, store / TABLE, labels, grid, class_names(store / "labels/classes"))
    file = f"{config.stage}-file"
    if is_whole(out, file, FOLDER):
        return []
    n_rows = len(grid) // grid.per_axis[1]
    stages = [(config.stage, outline_row, n_rows), (file, join_rows, 1)]
    reports = [execute(Stage(s, out, task, config, n, {}, keep_nothing), runner, progress) for s, task, n in stages]
    remove_tree((out / config.part(0)).parent)
    return reports


def class_names(label: Path) -> dict[int, str]:
    """Names of the values of a label map in a store, as far as it says them."""
    return {p["label-value"]: p["class"] for p in image_label(label).get("properties", []) if "class" in p}


def image_label(label: Path) -> dict[str, Any]:
    """What OME-NGFF says of a label map: names and colors of its values."""
    attributes = group_attributes(label)
    return dict(attributes.get("ome", attributes).get("image-label", {}))


def outline_row(row: int, config: OutlineConfig) -> Receipt:
    """Trace the objects of a row of blocks into a part of the file."""
    redone = mark_started(stage_folder(config.out, config.stage), row)
    key = config.part(row)
    if config.kind == "geoparquet":
        with TableWriter(config.out, key, {"geo": geo_metadata(config.crs)}) as table:
            for columns, outlines in _outlines(row, config):
                table.write(_with_geometry(columns, outlines, config))
    else:
        (config.out / key).parent.mkdir(parents=True, exist_ok=True)
        with staged(config.out / key) as partial, partial.open("w") as file:
            for columns, outlines in _outlines(row, config):
                file.writelines(f"{json.dumps(feature)}\n" for feature in _features(columns, outlines, config))
    return Receipt([shard_record(config.out, key)], {}, redone)


def join_rows(_: int, config: OutlineConfig) -> Receipt:
    """Put the parts together, in the order of rows."""
    redone = mark_started(stage_folder(config.out, f"{config.stage}-file"), 0)
    n_rows = len(config.grid) // config.grid.per_axis[1]
    parts = [config.out / config.part(row) for row in range(n_rows)]
    key = f"tables/{KINDS[config.kind]}"
    if config.kind == "geoparquet":
        with TableWriter(config.out, key, {"geo": geo_metadata(config.crs)}) as table:
            for part in parts:
                moved()
                for columns in read_parts(part) if part.exists() else ():
                    table.write(columns)
    else:
        with staged(config.out / key) as partial, partial.open("w") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            before = "\n"
            for part in parts:
                moved()
                with part.open() as lines:
                    for line in lines:
                        file.write(before + line.rstrip("\n"))
                        before = ",\n"
            file.write("\n]}\n")
    return Receipt([shard_record(config.out, key)], {}, redone)


def _outlines(row: int, config: OutlineConfig) -> Iterator[tuple[Row, list[Geometry]]]:
    """Objects of a row of blocks, block by block: columns of their table, and their outlines in pixels."""
    grid = config.grid
    first = grid.block(row * grid.per_axis[1])
    top, bottom = first.box.start[0], first.box.stop[0]
    planes = zip(config.labels.axes[:-2], first.plane, strict=True)
    where = [("y0", ">=", top), ("y0", "<", bottom), *((axis, "==", i) for axis, i in planes)]
    table = read_rows(config.table, where)
    column = table["x0"] // grid.side
    for number in np.unique(column):
        own = {name: values[column == number] for name, values in table.items()}
        large = (own["y1"] - own["y0"] > grid.side // 4) | (own["x1"] - own["x0"] > grid.side // 4)
        found = _trace_window(own, ~large, first.plane, config) if not large.all() else {}
        for i in np.flatnonzero(large):
            found[int(own["id"][i])] = _trace_large({k: int(own[k][i]) for k in BOX}, first.plane, config)
        yield own, [found[int(i)] for i in own["id"]]


BOX = ("id", "y0", "x0", "y1", "x1")


def _trace_window(own: Row, chosen: Array, plane: tuple[int, ...], config: OutlineConfig) -> dict[int, Geometry]:
    """Outlines of objects that one window shows whole, by id."""
    ids, y0, x0, y1, x1 = (own[name][chosen] for name in BOX)
    start, stop = (int(y0.min()), int(x0.min())), (int(y1.max()), int(x1.max()))
    labels = _read(plane, start, stop, config)
    numbers = np.zeros(int(ids.max() - ids.min()) + 2, np.int32)
    numbers[ids - ids.min() + 1] = np.arange(1, len(ids) + 1)
    shown = np.where((labels >= ids.min()) & (labels <= ids.max()), labels - (ids.min() - 1).astype(labels.dtype), 0)
    found = trace(numbers[shown], start)
    return {int(ids[number - 1]): outline for number, outline in found.items()}


def _trace_large(box: dict[str, int], plane: tuple[int, ...], config: OutlineConfig) -> Geometry:
    """The outline of one object, united from its parts in windows of a block's size."""
    side, parts = config.grid.side, list[Geometry]()
    for y in range(box["y0"], box["y1"], side):
        for x in range(box["x0"], box["x1"], side):
            labels = _read(plane, (y, x), (min(y + side, box["y1"]), min(x + side, box["x1"])), config)
            parts += trace((labels == box["id"]).astype(np.int32), (y, x)).values()
    return merge(parts)


def _read(plane: tuple[int, ...], start: tuple[int, int], stop: tuple[int, int], config: OutlineConfig) -> Array:
    pixels = config.labels.read([*((i, i + 1) for i in plane), *zip(start, stop, strict=True)])
    return pixels.reshape(pixels.shape[-2:])


def _placed(outline: Geometry, config: OutlineConfig) -> tuple[Geometry, float | None]:
    """An outline in the image's CRS with its area in square meters; in pixels where the image has none."""
    place = config.labels.georeference
    if config.crs is None or place is None or place.transform is None:
        return outline, None
    ground = on_the_ground(outline, place.transform)
    return ground, area_in(config.crs)(ground)


def _with_geometry(columns: Row, outlines: list[Geometry], config: OutlineConfig) -> Row:
    placed = [_placed(outline, config) for outline in outlines]
    ground = {"area_m2": [area for _, area in placed]} if config.crs is not None else {}
    return {**columns, **ground, "geometry": [to_wkb(geometry) for geometry, _ in placed]}


def _features(columns: Row, outlines: list[Geometry], config: OutlineConfig) -> Iterator[dict[str, Any]]:
    rows = [{name: _plain(values[i]) for name, values in columns.items()} for i in range(len(outlines))]
    for row, outline in zip(rows, outlines, strict=True):
        if config.kind == "qupath":
            yield _qupath_feature(row, outline, config)
        else:
            assert config.crs is not None
            geometry, area = _placed(outline, config)
            shape = to_mapping(in_degrees(geometry, config.crs, config.labels.name))
            yield {"type": "Feature", "id": row["id"], "geometry": shape, "properties": {**row, "area_m2": area}}


def _qupath_feature(row: Row, outline: Geometry, config: OutlineConfig) -> dict[str, Any]:
    plane = {"c": -1, "z": row.get("z", 0), "t": row.get("t", 0)}
    kind = row["class"]
    color = ngff.class_colors(kind + 1)[kind][:3]
    said = ("id", "class", "touches_edge", "t", "z")
    return {
        "type": "Feature",
        "geometry": {**to_mapping(outline), "plane": plane},
        "properties": {
            "objectType": "detection",
            "name": str(row["id"]),
            "classification": {"name": config.class_names.get(kind, f"class {kind}"), "color": list(color)},
            "measurements": {name: value for name, value in row.items() if name not in said and value is not None},
        },
    }


def _plain(value: Any) -> Any:
    """A number as JSON has it; None for what it has not."""
    plain = value.item()
    return None if plain != plain else plain
