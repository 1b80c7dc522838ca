"""The door to rasterio: where a TIFF lies on the ground, and all other files that GDAL reads, window by window."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.georeference import ControlPoint, Georeference
from tilekit.place import RemotePath
from tilekit.sources.quiet import without_warnings
from tilekit.sources.tiff_log import listening

LOGGERS = (
    "rasterio",
    *(f"rasterio.{part}" for part in ("_base", "_env", "_err", "_filepath", "_io", "crs", "env", "session")),
)

NETWORK_DRIVERS = {
    *("WMS", "WMTS", "WCS", "HTTP", "EEDA", "EEDAI", "PLMOSAIC", "DAAS", "STACIT", "STACTA"),
    "XYZ",  # any text with three columns of numbers
}
"""Drivers that a file never gets: a local file must not make this program fetch others."""

UNKNOWN_CRS = "crs not found"

SETTINGS = {"GDAL_CACHEMAX": "64", "GDAL_NUM_THREADS": "1", "GDAL_VRT_ENABLE_PYTHON": "NO"}
"""Unless the user set them: megabytes of decoded blocks that a process keeps, and threads in which JPEG 2000 decodes.
GDAL's own 5% of memory and all cores suit one process, not one of many. Code of Python inside a VRT is never run.
"""


@dataclass(frozen=True)
class RasterFacts:
    """What GDAL knows of a raster beside its pixels; tuples have one entry per band."""

    georeference: Georeference | None
    """At full resolution."""
    pixel_size: tuple[float, float] | None
    """(y, x) in micrometers of a projected CRS; None for degrees, and where there is no transform."""
    value_scale: tuple[tuple[float, float], ...] | None
    names: tuple[str, ...] | None


def raster_facts(path: Path, page: Any) -> RasterFacts:
    """What GDAL knows of a page of a TIFF that has geo tags; refuses it where the CRS cannot be told."""
    if isinstance(path, RemotePath) and page.index:
        raise InputError(f"{path}: its place on the ground is told by its page {page.index}; copy it to a local path")
    name = f"GTIFF_DIR:off:{page.offset}:{path}" if page.index else str(path)
    with opened(name, str(path), driver="GTiff", url=path if isinstance(path, RemotePath) else None) as (
        dataset,
        complaints,
    ):
        return facts_of(dataset, complaints, str(path))


@contextmanager
def opened(
    name: str, shown: str, *, driver: str | None = None, overview: int | None = None, url: RemotePath | None = None
) -> Iterator[tuple[Any, list[str]]]:
    """A dataset, and the list in which GDAL's complaints gather; its errors become InputError about `shown`."""
    with listening(LOGGERS, logging.INFO) as complaints:
        dataset = _open_url(url) if url else _open(name, shown, driver, overview)
        try:
            yield dataset, complaints
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{shown}: cannot be read by GDAL ({_reason(error)}); copy or write it again") from None
        finally:
            dataset.close()


def _import_rasterio(shown: str) -> Any:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import rasterio
    except ImportError:
        raise InputError(f"{shown}: needs rasterio; pip install 'tilekit[geo]'") from None
    return rasterio


def _open(name: str, shown: str, driver: str | None, overview: int | None) -> Any:
    rasterio = _import_rasterio(shown)
    options = {} if overview is None else {"overview_level": overview}
    try:
        with without_warnings(), rasterio.Env() as env:
            drivers = driver or sorted({*env.drivers()} - NETWORK_DRIVERS)
            return rasterio.io.DatasetReader(name, driver=drivers, **options)
    except Exception as error:
        raise InputError(f"{shown}: cannot be opened by GDAL ({_reason(error)}); copy or write it again") from None


def _open_url(path: RemotePath) -> Any:
    """A TIFF that Python reads for GDAL; nothing is looked for beside it."""
    rasterio = _import_rasterio(str(path))

    def give(name: str, *_: Any, **__: Any) -> Any:
        if not name.endswith("image.tif"):
            raise FileNotFoundError(name)
        return path.open("rb")

    try:
        with without_warnings():
            return rasterio.open("image.tif", driver="GTiff", opener=give)
    except Exception as error:
        raise InputError(f"{path}: cannot be opened by GDAL ({_reason(error)}); copy or write it again") from None


def gdal_knows(path: Path) -> bool:
    """True where rasterio is installed and GDAL has a reader for this file."""
    try:
        with opened(str(path), str(path)):
            return True
    except InputError:
        return False


def facts_of(dataset: Any, complaints: Sequence[str], shown: str) -> RasterFacts:
    """What GDAL knows of an open dataset; refuses a CRS of which it complained."""
    transform = None if dataset.transform.is_identity else tuple(dataset.transform[:6])
    points, crs = ((), dataset.crs) if transform else dataset.gcps
    crs = crs or dataset.crs
    if unknown := next((line for line in complaints if UNKNOWN_CRS in line), None):
        raise refused_crs(unknown.split(UNKNOWN_CRS)[-1].strip(" :'"), shown)
    gcps = tuple(ControlPoint(p.row, p.col, p.x, p.y, p.z or 0.0) for p in points)
    located = crs or transform or gcps
    scales = tuple(zip(map(float, dataset.scales), map(float, dataset.offsets), strict=True))
    return RasterFacts(
        Georeference(crs.to_wkt(version="WKT2_2019") if crs else None, transform, gcps) if located else None,
        _pixel_size(crs, transform),
        scales if any(pair != (1.0, 0.0) for pair in scales) else None,
        tuple(dataset.descriptions) if all(dataset.descriptions) else None,
    )


def refused_crs(crs: str, shown: str) -> InputError:
    """The refusal of a CRS that PROJ does not know."""
    return InputError(
        f"{shown}: its CRS ({crs}) is not one that PROJ knows; give it a known one by gdal_edit.py -a_srs, "
        "or name a corrected file"
    )


def _pixel_size(crs: Any, transform: Sequence[float] | None) -> tuple[float, float] | None:
    """Lengths of a step down and a step right, in micrometers."""
    if transform is None or not crs or not crs.is_projected:
        return None
    a, b, _, d, e, _ = transform
    micrometers = crs.linear_units_factor[1] * 1e6
    return hypot(b, e) * micrometers, hypot(a, d) * micrometers


def _reason(error: BaseException) -> str:
    """The first line of what began it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [""])[0] or type(error).__name__


@dataclass
class GdalReader:
    """Reads windows of one level through a dataset per thread."""

    name: str
    shown: str
    driver: str
    overview: int | None
    bands: tuple[int, ...]
    """Numbers from 1, in the order presented; none to read the mask."""
    palette: NDArray[np.uint8] | None = None
    """Color (index, channel) to present instead of the first band."""
    channels: tuple[int, ...] = ()
    """Of the palette's channels, those presented."""

    def __post_init__(self) -> None:
        self._local = threading.local()

    def read(self, box: Box) -> NDArray[Any]:
        window = (box.start[-2], box.stop[-2]), (box.start[-1], box.stop[-1])
        with listening(LOGGERS):
            dataset = self._dataset()
            try:
                if not self.bands:
                    return np.asarray(dataset.read_masks(1, window=window))
                if self.palette is not None:
                    index = dataset.read(1, window=window)
                    return np.stack([self.palette[index, c] for c in self.channels[box.slices[0]]])
                bands = self.bands[box.slices[0]] if len(box.start) == 3 else self.bands
                return np.asarray(dataset.read(list(bands), window=window))
            except Exception as error:
                raise InputError(
                    f"{self.shown}: box {box.start} to {box.stop} cannot be read by GDAL ({_reason(error)}); "
                    "copy or write it again"
                ) from None

    def _dataset(self) -> Any:
        if not hasattr(self._local, "dataset"):
            self._local.dataset = _open(self.name, self.shown, self.driver, self.overview)
        return self._local.dataset
