"""Small valid files of every kind, to be spoiled."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from PIL import Image

N = 48
"""Side of an image in pixels."""

VRT = f"""<VRTDataset rasterXSize="{N}" rasterYSize="{N}">
  <SRS>EPSG:32633</SRS><GeoTransform>500000, 10, 0, 6000000, 0, -10</GeoTransform>
  <VRTRasterBand dataType="Byte" band="1" subClass="VRTSourcedRasterBand"><NoDataValue>7</NoDataValue></VRTRasterBand>
</VRTDataset>"""


def pixels(*shape: int, dtype: str = "uint8") -> np.ndarray[Any, Any]:
    """A gradient with some noise, so that codecs have work to do."""
    rng = np.random.default_rng(0)
    return (np.indices(shape).sum(0) * 3 + rng.integers(0, 9, shape)).astype(dtype)


def tiffs() -> dict[str, bytes]:
    """TIFF of every layout and of the common codecs."""
    gray, rgb, tile = pixels(N, N), pixels(N, N, 3), (16, 16)
    palette = np.repeat((np.arange(256) * 257).astype(np.uint16)[None], 3, 0)
    pyramid = io.BytesIO()
    with tifffile.TiffWriter(pyramid) as writer:
        writer.write(rgb, tile=tile, subifds=1, photometric="rgb", compression="deflate")
        writer.write(rgb[::2, ::2].copy(), tile=tile, subfiletype=1, photometric="rgb", compression="deflate")
    return {
        "raw-tiled": _tiff(gray, tile=tile),
        "raw-strips": _tiff(pixels(N, N, dtype="uint16"), rowsperstrip=7, byteorder=">"),
        "deflate-predictor": _tiff(gray, tile=tile, compression="deflate", predictor=True),
        "float-predictor": _tiff(pixels(N, N, dtype="float32"), compression="lzw", predictor=3, rowsperstrip=9),
        "jpeg": _tiff(rgb, tile=tile, compression="jpeg", photometric="ycbcr"),
        "jpeg2000": _tiff(gray, tile=(32, 32), compression="jpeg2000"),
        "zstd": _tiff(gray, tile=tile, compression="zstd"),
        "webp": _tiff(rgb, tile=tile, compression="webp", photometric="rgb"),
        "packbits": _tiff(gray, compression="packbits", rowsperstrip=9),
        "palette": _tiff(gray, photometric="palette", colormap=palette, rowsperstrip=9),
        "bilevel": _tiff(gray > 70, photometric="miniswhite", rowsperstrip=9),
        "planar": _tiff(pixels(3, N, N), planarconfig="separate", photometric="rgb", tile=tile),
        "bigtiff": _tiff(gray, tile=tile, bigtiff=True),
        "ome": _tiff(pixels(2, 3, N, N, dtype="uint16"), ome=True, metadata={"axes": "CZYX"}, tile=tile),
        "imagej": _tiff(pixels(4, N, N, dtype="uint16"), imagej=True, metadata={"axes": "TYX"}),
        "pyramid": pyramid.getvalue(),
        "geotiff": geotiff(),
    }


def _tiff(image: np.ndarray[Any, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    options = {"photometric": "minisblack", **options}
    tifffile.imwrite(file, image, **options)
    return file.getvalue()


def geotiff() -> bytes:
    """A georeferenced TIFF by GDAL, with nodata and an overview."""
    from rasterio.crs import CRS
    from rasterio.io import MemoryFile
    from rasterio.transform import Affine

    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            width=N,
            height=N,
            count=2,
            dtype="int16",
            crs=CRS.from_epsg(32633),
            transform=Affine(10, 0, 500000, 0, -10, 6000000),
            nodata=-1,
            tiled=True,
            blockxsize=16,
            blockysize=16,
            compress="deflate",
        ) as data:
            data.write(pixels(2, N, N, dtype="int16"))
        return bytes(memory.read())


def pictures() -> dict[str, bytes]:
    """PNG and JPEG of several modes."""
    rgb = Image.fromarray(pixels(N, N, 3))
    return {
        "gray.png": _picture(Image.fromarray(pixels(N, N)), "PNG"),
        "deep.png": _picture(Image.fromarray(pixels(N, N, dtype="uint16")), "PNG"),
        "rgba.png": _picture(rgb.convert("RGBA"), "PNG"),
        "palette.png": _picture(rgb.quantize(16), "PNG"),
        "bilevel.png": _picture(rgb.convert("1"), "PNG"),
        "gray.jpg": _picture(rgb.convert("L"), "JPEG"),
        "rgb.jpg": _picture(rgb, "JPEG"),
        "progressive.jpg": _picture(rgb, "JPEG", progressive=True),
    }


def _picture(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def others() -> dict[str, bytes]:
    """NumPy, HDF5, and rasters that GDAL reads."""
    import h5py

    gray = Image.fromarray(pixels(N, N))

    array, store = io.BytesIO(), io.BytesIO()
    np.save(array, pixels(N, N, dtype="uint16"))
    with h5py.File(store, "w") as file:
        file.create_dataset("image", data=pixels(N, N), chunks=(16, 16), compression="gzip")
    return {
        "array.npy": array.getvalue(),
        "store.h5": store.getvalue(),
        "raster.jp2": _picture(gray, "JPEG2000"),
        "raster.bmp": _picture(gray, "BMP"),
        "raster.gif": _picture(gray, "GIF"),
        "raster.webp": _picture(gray, "WEBP"),
        "raster.vrt": VRT.encode(),
    }


def stores(folder: Path) -> dict[str, Path]:
    """OME-Zarr of both versions, one with shards."""
    made = {}
    for version, shards in ((2, None), (3, None), (3, (32, 32))):
        path = folder / f"zarr{version}{'-shards' if shards else ''}.zarr"
        group = zarr.open_group(path, mode="w", zarr_format=version)  # type: ignore[arg-type]
        axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
        datasets = []
        for level in range(2):
            n = N >> level
            array = group.create_array(
                str(level), shape=(n, n), chunks=(16, 16), shards=shards, dtype="uint8", fill_value=0
            )
            array[:] = pixels(n, n)
            scale = {"type": "scale", "scale": [0.5 * 2**level] * 2}
            datasets.append({"path": str(level), "coordinateTransformations": [scale]})
        image = {"axes": axes, "datasets": datasets, "name": "image"}
        if version == 2:
            group.attrs["multiscales"] = [{**image, "version": "0.4"}]
        else:
            group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
        made[path.stem] = path
    return made
