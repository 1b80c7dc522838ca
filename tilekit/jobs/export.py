"""Export: what a store holds, as a file for other programs: GeoTIFF, OME-TIFF, polygons. The store is only read.

A file is made in a folder beside its destination (NAME.exporting) and moved there when it is whole.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from tilekit.engine import Progress, no_progress
from tilekit.errors import InputError, RunError
from tilekit.geotiff import write_cog
from tilekit.jobs.finding import WORK
from tilekit.jobs.label import OBJECTS
from tilekit.jobs.outlines import check_can_outline, image_label, run_outlines
from tilekit.jobs.pairs import stem
from tilekit.jobs.predict import CLASSES, PROBABILITIES
from tilekit.ledger import FOLDER, stages
from tilekit.lock import lock
from tilekit.ometiff import write_ome_tiff
from tilekit.outlines import KINDS
from tilekit.place import is_url
from tilekit.rasters import Raster
from tilekit.run import Runner
from tilekit.sources import Source, open_image
from tilekit.store import group_attributes, is_store
from tilekit.tiling import BlockGrid

PLACES = {"classes": CLASSES, "objects": OBJECTS, "probabilities": PROBABILITIES, "image": ""}
"""What can be exported, by where it lies in a store."""
STAGES = {"classes": "predict", "objects": "label", "probabilities": "predict", "image": "ingest"}
"""Stages that write it begin with this."""
MISSING = {
    "classes": "run tilekit segment first",
    "objects": "run tilekit label first",
    "probabilities": "segment it with --probabilities",
    "image": "name a store with an image",
}
FORMATS = {"cog": ".tif", "ome-tiff": ".ome.tif", "geojson": ".geojson", "geoparquet": ".parquet", "qupath": ".geojson"}
"""Formats with the endings that they are given."""
VECTORS, LABELS = tuple(KINDS), ("classes", "objects")
TRACING = tuple(f"label-{kind}" for kind in KINDS)
"""Stages of polygons in the store, which nothing here depends on."""
BESIDE = (".aux.xml", ".ovr", ".msk")
"""Endings of what GDAL keeps beside a file."""
BLOCK = 4096


def export_store(
    store: Path,
    dest: Path | None,
    runner: Runner,
    *,
    what: str | None = None,
    format: str | None = None,
    t: int | None = None,
    z: int | None = None,
    overwrite: bool = False,
    block: int = BLOCK,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write one file; what is not said follows from the name of `dest`, and that from the store's. The keys of --json.

    `block` is the side of the windows in which polygons are traced; it changes no polygon.
    """
    started = time.perf_counter()
    what = what or ("objects" if (format or _format_of(dest)) in VECTORS else "classes")
    source = open_part(store, what)
    format = format or _format_of(dest, source)
    check_export(store, what, format, source, t=t, z=z)
    dest = dest or store.with_name(f"{stem(store)}-{what}{FORMATS[format]}")
    if is_url(dest):
        raise InputError(f"{dest}: exports are written to a local disk; name a DEST there")
    if dest.is_dir() or (dest.exists() and not overwrite):
        raise InputError(f"{dest}: exists{' and is a folder; name a file' if dest.is_dir() else '; use --overwrite'}")
    work = dest.with_name(f"{dest.name}.exporting")
    with lock(work):
        try:
            _clear(work)
            if format in VECTORS:
                made, facts = _write_polygons(store, source, format, runner, work, block, progress)
            else:
                made, facts = _write_raster(store, what, format, work, progress, t=t, z=z)
            _put(made, dest)
        except OSError as error:
            place = error.filename or dest
            raise RunError(f"{place}: {error.strerror or error}; mend the cause and run it again") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
    facts |= {"bytes": dest.stat().st_size, "seconds": round(time.perf_counter() - started, 3)}
    return {"output": str(dest), "what": what, "format": format, **facts}


def open_part(store: Path, what: str) -> Source:
    """Level 0 of what is to be exported; refuses what is not there, and what is not complete."""
    if not is_store(store):
        raise InputError(f"{store}: is no Zarr store; name an output of tilekit")
    place = store / PLACES[what]
    attributes = group_attributes(place)
    if "multiscales" not in attributes.get("ome", attributes):
        raise InputError(f"{store}: has no {PLACES[what] or 'image'}; {MISSING[what]}")
    own = [s for s in stages(store) if s["stage"].startswith(STAGES[what]) and not s["stage"].startswith(TRACING)]
    if any(s["done"] < s["blocks"] for s in own) or (what == "objects" and (store / WORK).exists()):
        raise InputError(f"{store}: {what} not complete; run the command that makes them again first")
    return open_image(place, as_labels=what in LABELS)


def _format_of(dest: Path | None, source: Source | None = None) -> str:
    """What a name stands for; one that stands for two things is decided by whether the source has a place."""
    place = source.georeference if source else None
    name = "" if dest is None else dest.name.lower()
    if dest is None or name.endswith((".tif", ".tiff")):
        is_ome = name.endswith((".ome.tif", ".ome.tiff")) or place is None
        return "ome-tiff" if is_ome else "cog"
    if name.endswith((".geojson", ".json")):
        is_qupath = name.endswith(".qupath.geojson") or place is None or place.crs is None or place.transform is None
        return "qupath" if is_qupath else "geojson"
    if name.endswith((".parquet", ".geoparquet")):
        return "geoparquet"
    raise InputError(f"{dest}: its name says of no format; end it with .tif, .geojson or .parquet, or give --format")


def check_export(store: Path, what: str, format: str, source: Source, *, t: int | None, z: int | None) -> None:
    """Refuse what a format cannot hold."""
    if format in VECTORS:
        if what != "objects":
            raise InputError(f"{store}: polygons are those of objects, not of {what}; leave --what out")
        if t is not None or z is not None:
            raise InputError(f"{store}: polygons are written of all planes, with their t and z; leave --t and --z out")
        check_can_outline(format, source)
        if format == "geoparquet" and not _count_objects(store):
            raise InputError(f"{store}: has no object, and GeoParquet takes its columns from one; choose geojson")
        return
    if what in LABELS and source.dtype.itemsize > 4:
        raise InputError(
            f"{store}: ids of {source.dtype.itemsize * 8} bits, which few programs read in a TIFF (32 at most); "
            "export polygons"
        )
    long = {a: n for a, n in zip(source.axes, source.shape, strict=True) if a in "tz" and n > 1}
    left = [a for a in long if {"t": t, "z": z}[a] is None]
    if format == "cog" and left:
        raise InputError(
            f"{store}: has {long[left[0]]} positions along {left[0]}, a GeoTIFF is of one; "
            f"choose it with --{left[0]}, or --format ome-tiff"
        )


def _write_raster(
    store: Path, what: str, format: str, work: Path, progress: Progress, *, t: int | None, z: int | None
) -> tuple[Path, dict[str, Any]]:
    label = image_label(store / CLASSES) if what == "classes" else {}
    raster = Raster.of(store / PLACES[what], is_labels=what in LABELS, label=label, t=t, z=z)
    made = work / "whole.tif"
    if format == "cog":
        write_cog(raster, made, work, progress)
    else:
        write_ome_tiff(raster, made, what, progress)
    facts = {"axes": raster.source.axes, "shape": list(raster.source.shape), "dtype": raster.dtype.name}
    return made, {**facts, "levels": len(raster.shapes)}


def _write_polygons(
    store: Path, labels: Source, format: str, runner: Runner, work: Path, block: int, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    (work / "tables").mkdir()
    grid = BlockGrid(labels.shape[:-2], (labels.shape[-2], labels.shape[-1]), block)
    run_outlines(store, grid, format, runner, progress, work)
    return work / "tables" / KINDS[format], {"objects": _count_objects(store)}


def _count_objects(store: Path) -> int:
    return int(group_attributes(store / OBJECTS).get("tilekit", {}).get("objects", 0))


def _clear(work: Path) -> None:
    """Remove what a killed run left behind; the caller holds the lock, which stays."""
    for path in work.iterdir():
        if path.is_file():
            path.unlink()
        elif path.name != FOLDER:
            shutil.rmtree(path)
    for path in (work / FOLDER).iterdir():
        if path.name != "lock":
            shutil.rmtree(path)


def _put(made: Path, dest: Path) -> None:
    """Move a file to its place, with what GDAL wrote beside it; what belonged to the file that was there goes."""
    with made.open("rb") as file:
        os.fsync(file.fileno())
    for suffix in BESIDE:
        dest.with_name(dest.name + suffix).unlink(missing_ok=True)
    made.replace(dest)
    for suffix in BESIDE:
        if (own := made.with_name(made.name + suffix)).exists():
            own.replace(dest.with_name(dest.name + suffix))
