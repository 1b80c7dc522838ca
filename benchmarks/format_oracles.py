"""What the pixels of a file are by libraries other than tilekit: tifffile, PIL, rasterio and zarr, and plain numpy.

Nothing of tilekit is imported. Palettes, MinIsWhite and orientation are applied here, as the eye sees an image.
"""

from __future__ import annotations

import json
import logging
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.windows
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image, ImageOps

CANONICAL = "tczyx"
BIG = 5e7
"""Pixels above which a TIFF is read by boxes, not whole."""
LOSSY = ("JPEG", "OJPEG", "WEBP", "JPEG_2000_LOSSY", "APERIO_JP2000_YCBC", "APERIO_JP2000_RGB")
"""Compressions whose decoders may differ by rounding, so that one of them is compared alone."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Truth:
    """An array of another library, and what makes it the image that is seen. Axes of size 1 are left out."""

    by: str
    axes: str
    """Canonical, without those of size 1 beside y and x."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[tuple[slice, ...]], Array]
    """Pixels of a box along these axes."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of libraries that read odd files."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def truths(path: Path, series: int | None, level: int = 0) -> list[Truth]:
    """All independent readings of a file; PIL and rasterio read its first image at full size alone."""
    if path.is_dir():
        return [_zarr(path, level)]
    suffix = path.suffix.lower()
    if suffix in (".png", ".jpg", ".jpeg"):
        return [_pil(path)]
    if suffix == ".npy":
        array = np.load(path)
        return [_truth("numpy", array, _letters("TCZYX"[-array.ndim :], array.shape), None)]
    if suffix not in (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".qptiff"):
        return [_bands(path)]
    found = [_tifffile(path, series or 0, level)]
    if not series and level == 0:
        found += [t for t in (_rasterio(path), _pil_tiff(path)) if t is not None]
    return found


def n_series(path: Path) -> int:
    """Images in a file; 1 where tifffile cannot say."""
    try:
        with quiet(), tifffile.TiffFile(path) as tiff:
            return len(tiff.series)
    except (tifffile.TiffFileError, ValueError, TypeError, IndexError):
        return 1


# TIFF by tifffile


def _tifffile(path: Path, index: int, level: int) -> Truth:
    with quiet(), tifffile.TiffFile(path) as tiff:
        levels = tiff.series[index].levels
        page = tiff.series[index].keyframe
        # directories below the first page are its smaller versions, also where tifffile lists them as images
        series = levels[level] if level < len(levels) else page.pages[level - 1]
        array: Any
        if level >= len(levels):
            array = series.asarray()
        elif series.size > BIG:
            store = tifffile.imread(path, aszarr=True, series=index, level=level)
            array = zarr.open_array(store, mode="r")
            weakref.finalize(array, store.close)
        else:
            array = series.asarray()
        return _seen(array, series.axes, page, "tifffile")


def _seen(array: Any, axes: str, page: tifffile.TiffPage, by: str) -> Truth:
    letters = _letters(axes, array.shape)
    tag = page.tags.get("Orientation")
    orientation = int(tag.value) if tag is not None and int(tag.value) in range(1, 9) else 1
    if orientation > 1:
        turned = _upright(np.moveaxis(np.asarray(array), (axes.index("Y"), axes.index("X")), (0, 1)), orientation)
        array = np.moveaxis(turned, (0, 1), (axes.index("Y"), axes.index("X")))
    table: Array | None = None
    photometric = getattr(page.photometric, "name", "")
    kind = np.dtype(array.dtype)
    if photometric == "PALETTE" and page.colormap is not None:
        table = np.asarray(page.colormap, np.int64).T
        table = (
            table.astype(np.uint16) if deep_colors(page) else (table // (256 if table.max() > 255 else 1)).astype("u1")
        )
    elif photometric == "MINISWHITE" and kind.kind in "bu":
        bits = int(page.bitspersample)
        table_dtype = np.uint8 if kind.kind == "b" else kind
        inverted = int(2**bits - 1)
        return _truth(by, array, letters, lambda part: (inverted - part.astype(np.int64)).astype(table_dtype))
    return _truth(by, array, letters, None if table is None else lambda part: table[part.astype(np.intp)], table)


def deep_colors(page: tifffile.TiffPage) -> bool:
    """Whether a palette's colors have 16 bits: they are neither 0 to 255 nor those times 256 or 257."""
    table = np.asarray(page.colormap, np.int64)
    return bool(table.max() > 255 and (table % 256).any() and (table % 257).any())


def _truth(
    by: str, array: Any, letters: str, change: Callable[[Array], Array] | None, table: Array | None = None
) -> Truth:
    """The array with these letters ("" for an axis of size 1), values changed, a palette's colors as a last axis c."""
    sizes = {a: n for a, n in zip(letters, array.shape, strict=True) if a != "_"}
    colors = 0 if table is None else table.shape[1]
    doubled = "s" in sizes and "c" in sizes
    sizes = {**sizes, **({"c": sizes.get("c", 1) * (sizes.pop("s", 1) * (colors or 1))})}
    axes = "".join(a for a in CANONICAL if a in "yx" or sizes.get(a, 1) > 1)

    def read(box: tuple[slice, ...]) -> Array:
        wanted = dict(zip(axes, box, strict=True))
        whole = slice(None)
        late = doubled or bool(colors)
        keys = [0 if a == "_" else whole if a in "cs" and late else wanted["c" if a == "s" else a] for a in letters]
        part = np.asarray(array[tuple(keys)])
        part = change(part) if change is not None else part.astype(np.uint8) if part.dtype == bool else part
        order = [a for a in letters if a != "_"] + (["s"] if colors else [])
        wish = [a for a in "tzyx" if a in order] + [a for a in "cs" if a in order]
        part = part.transpose([order.index(a) for a in wish])
        n_last = sum(a in "cs" for a in wish)
        if n_last == 2:
            part = part.reshape((*part.shape[:-2], -1))
        if n_last:
            part = np.moveaxis(part, -1, sum(a in "t" for a in wish))
            if late and "c" in axes:
                part = part[(whole,) * axes.index("c") + (wanted["c"],)]
        return part

    corner = read(tuple(slice(0, 1) for _ in axes))
    return Truth(by, axes, tuple(sizes.get(a, 1) for a in axes), corner.dtype.newbyteorder("="), read)


def _letters(axes: str, shape: Sequence[int]) -> str:
    """A letter of "tcszyx" per axis, "_" where it has one position; unnamed ones are the first free of z, t, c."""
    known = {"T": "t", "C": "c", "S": "s", "Z": "z", "Y": "y", "X": "x"}
    letters = ["_" if n == 1 and a not in "YX" else known.get(a, "?") for a, n in zip(axes, shape, strict=True)]
    for i, letter in enumerate(letters):
        if letter == "?":
            taken = {"c" if a == "s" else a for a in letters}
            letters[i] = next(a for a in "ztc" if a not in taken)
    return "".join(letters)


def _upright(image: Array, orientation: int) -> Array:
    """Rows and columns as they are seen, of an image (rows, columns, ...) stored in one of the eight orientations."""
    if orientation in (5, 6, 7, 8):
        image = np.swapaxes(image, 0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


# Pictures by PIL


def _pil(path: Path) -> Truth:
    with quiet(), Image.open(path) as stored:
        image = ImageOps.exif_transpose(stored)
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        elif image.mode == "CMYK":
            image = image.convert("RGB")
        elif image.mode == "1" and path.suffix == ".png":  # as PNG defines few bits
            image = image.convert("L")
        pixels = np.asarray(image)
    letters = "YXS"[: pixels.ndim]
    return _truth("PIL", pixels, _letters(letters, pixels.shape), None)


def _pil_tiff(path: Path) -> Truth | None:
    """Where PIL shows palette, MinIsWhite or orientation by itself: one image of at most 8 bits."""
    with quiet():
        try:
            with tifffile.TiffFile(path) as tiff:
                page = tiff.pages[0]
                assert isinstance(page, tifffile.TiffPage)
                shown = page.photometric.name in ("PALETTE", "MINISWHITE") or page.tags.valueof("Orientation", 1) > 1
                if not shown or len(tiff.pages) > 1 or page.bitspersample not in (1, 8):
                    return None
                if page.colormap is not None and deep_colors(page):  # PIL shows their upper 8 bits
                    return None
            return _pil(path)
        except (OSError, ValueError):
            return None


# GeoTIFF by rasterio


def _rasterio(path: Path) -> Truth | None:
    """Where the file says where it lies; None for codecs of which every decoder rounds its own way."""
    facts = geography(path)
    return None if facts is None or facts["lossy"] else _bands(path)


def _bands(path: Path) -> Truth:
    with quiet(), rasterio.open(path) as data:
        shape = (data.count, data.height, data.width)
        colors = None
        if data.colorinterp[0].name == "palette":
            colormap = data.colormap(1)
            colors = np.array([colormap[i][:3] for i in range(len(colormap))], np.uint8)
        dtype = np.dtype(data.dtypes[0])

    class Bands:
        def __init__(self) -> None:
            self.shape, self.dtype = shape, dtype

        def __getitem__(self, key: tuple[Any, ...]) -> Array:
            with quiet(), rasterio.open(path) as data:
                bands = np.arange(1, data.count + 1)[key[0]]
                pixels: Array = data.read(bands.tolist(), window=rasterio.windows.Window.from_slices(*key[1:]))
                return pixels

    change = None if colors is None else lambda part: colors[part]
    return _truth("rasterio", Bands(), _letters("CYX", shape), change, colors)


def geography(path: Path) -> dict[str, Any] | None:
    """CRS, transform, nodata, number of control points and levels by rasterio; None where the file says none."""
    try:
        with quiet(), rasterio.open(path) as data:
            points, point_crs = data.gcps
            if data.crs is None and data.transform.is_identity and not points:
                return None
            compression = data.compression.name.upper() if data.compression else ""
            return {
                "crs": data.crs or point_crs,
                "transform": None if data.transform.is_identity else tuple(data.transform)[:6],
                "nodata": data.nodata,
                "gcps": len(points),
                "levels": 1 + len(data.overviews(1)),
                "lossy": compression in LOSSY,
                "palette": data.colorinterp[0].name == "palette" and data.nodata is not None,
                "mask": "what it is by rasterio",
            }
    except rasterio.errors.RasterioError:
        return None


def valid_pixels(path: Path, box: tuple[slice, ...]) -> Array:
    """Where a GeoTIFF is valid by rasterio: its mask, alpha or nodata."""
    with quiet(), rasterio.open(path) as data:
        window = rasterio.windows.Window.from_slices(*box)
        valid: Array = data.dataset_mask(window=window) != 0
        return valid


# Zarr


def is_zarr_array(path: Path) -> bool:
    """Whether this is an array in a store, which may be one level of an image."""
    if (path / "zarr.json").exists():
        return json.loads((path / "zarr.json").read_text()).get("node_type") == "array"
    return (path / ".zarray").exists()


def _zarr(path: Path, level: int) -> Truth:
    node: Any = zarr.open(path, mode="r")
    if isinstance(node, zarr.Array):
        names = _array_axes(path, node)
        return _truth("zarr", node, _letters(names, node.shape), None)
    if "bioformats2raw.layout" in str(dict(node.attrs)):
        node = node["0"]
    attributes = dict(node.attrs)
    image = attributes.get("ome", attributes)["multiscales"][0]
    array: Any = node[image["datasets"][level]["path"]]
    axes = image.get("axes", "tczyx"[-array.ndim :])
    names = "".join(a["name"] if isinstance(a, dict) else a for a in axes)
    return _truth("zarr", array, _letters(names.upper(), array.shape), None)


def _array_axes(path: Path, node: Any) -> str:
    """Axes of an array by the multiscales of a group above it; else by their number alone."""
    for parent in path.parents[:3]:
        for document in ("zarr.json", ".zattrs"):
            if (parent / document).exists():
                text = json.loads((parent / document).read_text())
                attributes = text.get("attributes", text)
                for image in attributes.get("ome", attributes).get("multiscales", ()):
                    held = {(parent / d["path"]).resolve() for d in image["datasets"]}
                    if path.resolve() in held and image.get("axes"):
                        return "".join(a["name"] if isinstance(a, dict) else a for a in image["axes"]).upper()
    return "TCZYX"[-node.ndim :]
