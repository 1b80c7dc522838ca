"""Every image under a folder: opened as other libraries read it, or refused in one line; prints a table.

    python benchmarks/formats.py [FOLDER] [--json] [--words WORD ...]

FOLDER is by default that of real images beside the checkout. Random boxes of each image that opens, of every level, are
compared with `format_oracles`. Ends with status 1 where pixels or facts differ, or a refusal is not one line that names
the image.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.format_oracles import Truth, geography, is_zarr_array, n_series, quiet, truths, valid_pixels
from tilekit import open_image
from tilekit.errors import InputError
from tilekit.sources import Source

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TIFF_SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".qptiff")
SUFFIXES = (
    *TIFF_SUFFIXES,
    ".png",
    ".jpg",
    ".jpeg",
    ".jp2",
    ".bmp",
    ".gif",
    ".npy",
    ".h5",
    ".hdf5",
    ".nc",
    ".vrt",
    ".zip",
)
ZARR_DOCUMENTS = {"zarr.json", ".zarray", ".zgroup"}
BOXES = 5
LONGEST = 600
"""Pixels of a box's side at most."""


@dataclass(frozen=True)
class Row:
    """What came of one image."""

    name: str
    state: str
    """equal, differs, refused, or unchecked where no other library reads the pixels."""
    text: str
    """The refusal, what differs, or by which libraries the pixels are the same."""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    axes: str = ""
    pixel_size: tuple[float, float] | None = None
    crs: str | None = None
    n_levels: int = 0


def paths(folder: Path) -> Iterator[Path]:
    """Image files and Zarr nodes below a folder."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        if ZARR_DOCUMENTS & {*files}:
            yield Path(root)
        yield from sorted(Path(root, name) for name in files if Path(name).suffix.lower() in SUFFIXES)


def rows_of(path: Path, folder: Path) -> Iterator[Row]:
    """The row of a path, and where a file holds several images, one of each."""
    yield row_of(path, None, folder)
    n = n_series(path) if path.suffix.lower() in TIFF_SUFFIXES else 1
    if n > 1:
        yield from (row_of(path, i, folder) for i in range(n))


def row_of(path: Path, series: int | None, folder: Path) -> Row:
    """One image opened and compared, or refused."""
    name = str(path.relative_to(folder)) + ("" if series is None else f"[{series}]")
    try:
        with quiet():
            source = open_image(path, series=series)
            source.read([slice(0, 1)] * len(source.shape))
    except InputError as error:
        said = str(error)
        clear = path.name in said and "\n" not in said and len(said) > len(str(path)) + 10
        return Row(name, "refused" if clear else "differs", said.replace(str(path), path.name))
    problems, readers = compare(source, path, series)
    return Row(
        name=name,
        state="differs" if problems else "equal" if readers else "unchecked",
        text="; ".join(problems) or ", ".join(readers) or "no other library reads it",
        shape=source.shape,
        dtype=str(source.dtype),
        axes=source.axes,
        pixel_size=source.pixel_size,
        crs=short_crs(source),
        n_levels=len(source.levels),
    )


def compare(source: Source, path: Path, series: int | None) -> tuple[list[str], list[str]]:
    """What differs from other libraries, and which of them could read the image."""
    problems = geography_differs(source, path) if series in (None, 0) else []
    readers: list[str] = []
    for level in range(1 if is_zarr_array(path) else len(source.levels)):
        try:
            with quiet():
                found = truths(path, series, level)
        except Exception as error:  # whatever another library makes of an odd file
            problems += [f"level {level}: another library: {error!r:.100}"] * (level > 0)
            continue
        try:
            with quiet():
                differences = {t.by: pixels_differ(open_image(path, series=series, level=level), t) for t in found}
        except InputError as error:
            problems.append(f"level {level}: {error}")
            continue
        problems += [f"level {level}: {text}" for text in differences.values() if text]
        readers += [by for by, text in differences.items() if not text and by not in readers]
    return problems, readers


def pixels_differ(source: Source, truth: Truth) -> str:
    """How random boxes of the image differ from the truth; "" where they do not."""
    sizes = dict(zip(source.axes, source.shape, strict=True))
    axes = "".join(a for a in source.axes if a in "yx" or sizes[a] > 1)
    shape = tuple(sizes[a] for a in axes)
    if (axes, shape, source.dtype) != (truth.axes, truth.shape, truth.dtype):
        return f"{axes} {shape} {source.dtype}, by {truth.by} {truth.axes} {truth.shape} {truth.dtype}"
    for box in random_boxes(shape, source.name):
        places = dict(zip(axes, box, strict=True))
        ours = source.read([places.get(a, slice(0, 1)) for a in source.axes])
        ours = ours.reshape([places[a].stop - places[a].start for a in axes])
        theirs = truth.read(box)
        if ours.shape != theirs.shape or not np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"):
            difference = np.abs(ours.astype(float) - theirs).max() if ours.shape == theirs.shape else theirs.shape
            return f"box {[(s.start, s.stop) for s in box]} differs from {truth.by} by {difference}"
    return ""


def random_boxes(shape: Sequence[int], name: str) -> list[tuple[slice, ...]]:
    """The first and last pixels, and boxes anywhere, the same in every run."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    sides = [min(n, LONGEST) for n in shape]
    corners = [[0] * len(shape), [n - side for n, side in zip(shape, sides, strict=True)]]
    boxes = [tuple(slice(a, a + n) for a, n in zip(corner, sides, strict=True)) for corner in corners]
    for _ in range(BOXES):
        starts = [int(rng.integers(0, n)) for n in shape]
        lengths = [int(rng.integers(1, LONGEST)) for _ in shape]
        boxes.append(tuple(slice(a, min(n, a + m)) for a, m, n in zip(starts, lengths, shape, strict=True)))
    return boxes


def geography_differs(source: Source, path: Path) -> list[str]:
    """Where CRS, transform, control points, nodata or number of levels are not rasterio's."""
    facts = None if path.is_dir() or path.suffix == ".zip" else geography(path)
    if facts is None:
        return []
    from rasterio.crs import CRS

    ours = source.georeference
    crs = CRS.from_wkt(ours.crs) if ours is not None and ours.crs else None
    transform = ours.transform if ours is not None else None
    same = {
        "crs": crs == facts["crs"],
        "transform": transform == facts["transform"]
        or (None not in (transform, facts["transform"]) and np.allclose(transform, facts["transform"], 1e-12)),
        "gcps": (len(ours.gcps) if ours is not None else 0) == facts["gcps"],
        # the nodata of a palette is an index, which the colors do not have: it is a mask
        "nodata": source.mask is not None
        if facts["palette"]
        else source.nodata == facts["nodata"] or facts["nodata"] != facts["nodata"],
        "mask": source.mask is None or mask_is(source, path),
        "levels": len(source.levels) == facts["levels"],
    }
    given = {"crs": crs, "transform": transform, "gcps": ours and len(ours.gcps), "nodata": source.nodata}
    given |= {"levels": len(source.levels), "mask": "differs"}
    return [f"{key} {given[key]}, by rasterio {facts[key]}" for key, equal in same.items() if not equal]


def mask_is(source: Source, path: Path) -> bool:
    """Whether the mask beside the pixels is that of rasterio."""
    assert source.mask is not None
    boxes = random_boxes(source.shape[-2:], source.name)
    return all(np.array_equal(source.mask.read(box) != 0, valid_pixels(path, box)) for box in boxes)


def short_crs(source: Source) -> str | None:
    """EPSG code or name of the CRS."""
    where = source.georeference
    if where is None or where.crs is None:
        return None if where is None else "no CRS, " + ("transform" if where.transform else f"{len(where.gcps)} GCPs")
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        crs = CRS.from_user_input(where.crs)
    except CRSError:
        return "unknown to PROJ"
    code = crs.to_epsg()
    return (f"EPSG:{code}" if code else crs.name) + (f", {len(where.gcps)} GCPs" if where.gcps else "")


def line(row: Row) -> str:
    """A row of the table."""
    size = "" if row.pixel_size is None else "x".join(f"{v:.4g}" for v in row.pixel_size)
    text = f"{row.name[-58:]:<59}{row.state:<10}"
    if row.shape:
        text += f"{'x'.join(map(str, row.shape)):<17}{row.dtype:<8}{row.axes:<6}{size:<16}"
        text += f"{row.crs or '':<14}{row.n_levels:<2} "
    return text + row.text


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DATA)
    parser.add_argument("--words", nargs="*", default=(), help="only images whose path holds one of these")
    parser.add_argument("--json", action="store_true", help="one JSON object per line, then the summary")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder}: no such folder")
    if not options.json:
        print(
            f"{'image':<59}{'':<10}{'shape':<17}{'dtype':<8}{'axes':<6}{'pixel, um':<16}{'CRS':<14}levels, read as by"
        )
    rows = []
    for path in paths(options.folder):
        if options.words and not any(word in str(path) for word in options.words):
            continue
        for row in rows_of(path, options.folder):
            rows.append(row)
            print(json.dumps(asdict(row)) if options.json else line(row), flush=True)
    summary: dict[str, Any] = {"images": len(rows), "opened": sum(bool(r.shape) for r in rows)}
    summary |= {state: sum(r.state == state for r in rows) for state in ("equal", "differs", "unchecked", "refused")}
    print(json.dumps(summary) if options.json else ", ".join(f"{n} {what}" for what, n in summary.items()))
    return int(summary["differs"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
