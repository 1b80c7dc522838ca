"""Several images as one: the images of a folder, of a glob or of a CSV, and where the output of each goes."""

from __future__ import annotations

import csv
import glob
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.params import SegmentParameters, checked, parse_channels, parse_pixel_size
from tilekit.copies import find
from tilekit.errors import InputError, RunError
from tilekit.place import as_path, beside
from tilekit.sources import ZARR_DOCUMENTS

OVERRIDES = ("pixel_size", "channels", "nodata", "mask")
"""Columns of a CSV that replace an option for one image."""
NO_IMAGES = {
    *(
        ".csv",
        ".doc",
        ".docx",
        ".html",
        ".ini",
        ".json",
        ".log",
        ".md",
        ".pdf",
        ".toml",
        ".tsv",
        ".txt",
        ".xlsx",
        ".yaml",
    ),
    *(".aux", ".dbf", ".geojson", ".gpkg", ".ovr", ".prj", ".shp", ".shx", ".tfw", ".wld", ".xml"),
    *(".md5", ".py", ".safetensors", ".sh", ".sha256"),
}
"""Names of files that lie in folders of images and are none."""


class BatchError(RunError):
    """Some images of a run failed; the others are done."""

    def __init__(self, message: str, rows: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.rows = rows
        """The whole table, as `tilekit segment --json` prints it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of several."""

    image: Path
    out: Path
    parameters: SegmentParameters
    left_out: str | None = None
    """Why it is not tried; None where it is."""


def is_several(image: str | Path) -> bool:
    """True for a CSV, for a folder that is no Zarr store, and for a pattern that is not itself a file's name."""
    path = as_path(image)
    if path.is_dir():
        return not _is_zarr(path)
    return path.suffix.lower() == ".csv" or (glob.has_magic(str(path)) and not path.exists())


def list_images(images: str | Path, out: str | Path, parameters: SegmentParameters) -> list[Item]:
    """The images of a folder (without its subfolders), a glob or a CSV, in order; refuses two with one output."""
    place, out = as_path(images), as_path(out)
    if place.is_dir():
        items = list(_in_folder(place, out, parameters))
    elif place.suffix.lower() == ".csv" and not glob.has_magic(str(place)):
        items = list(_in_csv(place, out, parameters))
    else:
        found = sorted(find(place))
        items = [Item(path, _out_of(path, out), parameters) for path in found if path.is_file() or _is_zarr(path)]
    if all(item.left_out for item in items):
        kind = "a folder that is no Zarr store and holds no image" if place.is_dir() else "no image there"
        raise InputError(f"{images}: {kind}; name an image, or a folder, glob or CSV of images")
    if out.suffix == ".zarr" or out.is_file() or _is_zarr(out):
        raise InputError(f"{out}: {images} is several images; give a folder for their stores")
    _check_outputs([item for item in items if not item.left_out])
    return items


def entries(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """What lies in a folder, hidden files apart, in order; with the reason where it is no image by its name."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        reason = None
        if path.is_dir() and not _is_zarr(path):
            reason = f"a folder; name its images by a glob such as '{path}/*.tif'"
        elif path.suffix.lower() in NO_IMAGES:
            reason = f"no image by its name ({path.suffix})"
        yield path, reason


def _in_folder(folder: Path, out: Path, parameters: SegmentParameters) -> Iterator[Item]:
    for path, reason in entries(folder):
        item = Item(path, _out_of(path, out), parameters, reason)
        if reason is None and out.resolve() == folder.resolve() and item.out.resolve() != path.resolve():
            raise InputError(
                f"{out}: is the folder of the images; choose another, so that stores and images stay apart"
            )
        yield item


def _in_csv(path: Path, out: Path, parameters: SegmentParameters) -> Iterator[Item]:
    """Rows of a CSV; paths are relative to its folder, outputs to `out`."""
    for where, row in read_csv(path, ("image",), ("out", *OVERRIDES)):
        image = beside(path.parent, row["image"])
        place = beside(out, row["out"]) if row.get("out") else _out_of(image, out)
        yield Item(image, place, _parameters_of(row, path.parent, parameters, where))


def read_csv(path: Path, needed: Sequence[str], others: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV with a header, each with its place in words; refuses one without the columns that are needed,
    or with any but these."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder; check the path") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text in UTF-8; save it as CSV UTF-8") from None
    reader = csv.DictReader(io.StringIO(text), restkey="", strict=True)
    try:
        header = reader.fieldnames or []
        if not set(needed) <= set(header) <= {*needed, *others} or len(set(header)) < len(header):
            raise InputError(
                f"{path}: its columns are {', '.join(header)[:300]}; give {' and '.join(needed)} and, of "
                f"{', '.join(others)}, any"
            )
        for row in reader:
            where = f"{path} line {reader.line_num}"
            if "" in row or not all(row[name] for name in needed) or None in row.values():
                raise InputError(f"{where}: does not fit the {len(header)} columns of the header; correct it")
            yield where, row
    except csv.Error as error:
        raise InputError(f"{path}: is no CSV after line {reader.line_num} ({error}); correct it") from None


def _parameters_of(row: dict[str, str], folder: Path, common: SegmentParameters, where: str) -> SegmentParameters:
    """The options of a row: those of the command line, replaced where the row says otherwise."""
    given = {name: row[name] for name in OVERRIDES if row.get(name)}
    if given.get("mask", "auto") != "auto":
        given["mask"] = str(beside(folder, given["mask"]))
    try:
        own: SegmentParameters = checked(SegmentParameters, **{**common.model_dump(), **given})
        parse_channels(own.channels)
        parse_pixel_size(own.pixel_size)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return own


def _out_of(image: Path, out: Path) -> Path:
    """OUT/NAME.zarr, NAME without .tif, .ome.tif, .ome.zarr and the like."""
    return out / f"{image.with_suffix('').name.removesuffix('.ome')}.zarr"


def _check_outputs(items: list[Item]) -> None:
    taken: dict[Path, Path] = {}
    for item in items:
        other = taken.setdefault(item.out.resolve(), item.image)
        if other is not item.image:
            raise InputError(
                f"{other} and {item.image} would both become {item.out}; rename one, or give a CSV with a column out"
            )


def _is_zarr(path: Path) -> bool:
    return any((path / document).exists() for document in ZARR_DOCUMENTS)
