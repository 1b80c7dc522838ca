"""One image of each kind that users have, and what it is: told by rasterio, tifffile, PIL or numpy, not by tilekit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image

from benchmarks.format_oracles import quiet, truths
from tests.oracles import structured_image

DATA = Path(__file__).parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Truth:
    """What an image is, told by others."""

    pixels: np.ndarray
    axes: str
    valid: np.ndarray
    """Where (y, x) a class is expected."""
    pixel_size: tuple[float, float] | None = None
    """(y, x) in micrometers."""
    nodata: float | None = None
    crs: Any = None
    transform: tuple[float, ...] | None = None
    gcps: tuple[tuple[float, ...], ...] = ()
    slice_spacing: float | None = None
    """Micrometers along z."""
    taken: tuple[int, ...] | None = None
    """Channels that the network takes; None for all."""
    options: tuple[str, ...] = field(default=(), kw_only=True)
    """Of the command line."""

    @property
    def seen(self) -> np.ndarray:
        """What the network sees: (c, ...)."""
        c = self.axes.find("c")
        by_channel = np.moveaxis(self.pixels, c, 0) if c >= 0 else self.pixels[None]
        return by_channel[list(self.taken)] if self.taken else by_channel


def whole(path: Path) -> tuple[np.ndarray, str]:
    """Pixels and axes by the library that `benchmarks.format_oracles` asks first."""
    with quiet():
        (told, *_) = truths(path, None)
        return told.read(tuple(slice(0, n) for n in told.shape)), told.axes


Maker = Callable[[Path], tuple[Path, Truth]]


def found(name: str) -> Path:
    """A real file; the test is skipped where there is none."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


# GeoTIFF, by rasterio.


def geotiff(name: str, taken: tuple[int, ...] | None = None, holes: Sequence[tuple[slice, slice]] = ()) -> Maker:
    """A real file as it is, or a copy in which holes are nodata."""

    def make(folder: Path) -> tuple[Path, Truth]:
        path = found(name)
        if holes:
            path = punched(path, folder / path.name, holes)
        return path, geographic_truth(path, taken)

    return make


def punched(path: Path, copy: Path, holes: Sequence[tuple[slice, slice]]) -> Path:
    """A copy of a GeoTIFF in which some boxes (y, x) are nodata."""
    with quiet(), rasterio.open(path) as data:
        pixels, facts = data.read(), {k: data.profile[k] for k in ("width", "height", "count", "dtype", "nodata")}
        facts |= {"crs": data.crs, "transform": data.transform}
    for hole in holes:
        pixels[(slice(None), *hole)] = facts["nodata"]
    with rasterio.open(copy, "w", driver="GTiff", tiled=True, blockxsize=256, blockysize=256, **facts) as data:
        data.write(pixels)
    return copy


def geographic_truth(path: Path, taken: tuple[int, ...] | None) -> Truth:
    with quiet(), rasterio.open(path) as data:
        valid = data.dataset_mask() != 0
        points, point_crs = data.gcps
        crs = data.crs or point_crs
        t = data.transform
        size = None
        if crs is not None and crs.is_projected and not points:
            unit = crs.linear_units_factor[1] * 1e6
            size = (math.hypot(t.b, t.e) * unit, math.hypot(t.a, t.d) * unit)
        nodata = data.nodata
        masked_too = nodata is not None and rasterio.enums.MaskFlags.per_dataset in data.mask_flag_enums[0]
        is_palette = data.colorinterp[0].name == "palette"
        if is_palette:
            nodata = None  # of an index, not of a color; the mask says it
            table = np.array([data.colormap(1)[i][:3] for i in range(256)], np.uint8)
            pixels, axes = np.moveaxis(table[data.read(1)], -1, 0), "cyx"
    if not is_palette:
        pixels, axes = whole(path)
    if masked_too:  # GDAL believes the mask alone; here both make void
        valid &= ~(pixels == nodata).all(0)
    if pixels.dtype.kind == "f":
        valid &= ~np.isnan(pixels).reshape(-1, *valid.shape).any(0)
    return Truth(
        pixels,
        axes,
        valid,
        size,
        nodata,
        crs,
        None if points or t.is_identity else tuple(t)[:6],
        tuple((p.row, p.col, p.x, p.y) for p in points),
        taken=taken,
    )


# Others.


def real(name: str, pixel_size: tuple[float, float] | None = None) -> Maker:
    """A real file or store whose pixel size is known by its other metadata."""

    def make(folder: Path) -> tuple[Path, Truth]:
        pixels, axes = whole(found(name))
        return DATA / name, Truth(pixels, axes, np.ones(pixels.shape[-2:], bool), pixel_size)

    return make


def slide(folder: Path) -> tuple[Path, Truth]:
    """As Aperio's scanners write, but for JPEG, so that pixels are known; a pyramid of pages."""
    pixels = structured_image((3, 900, 700), "uint8", seed=1)
    shown = {"photometric": "rgb", "tile": (256, 256), "compression": "deflate"}
    with tifffile.TiffWriter(folder / "slide.svs", bigtiff=True) as writer:
        text = "Aperio Image Library v11.2.1 \r\n700x900 (256x256) |AppMag = 40|MPP = 0.2505"
        writer.write(np.moveaxis(pixels, 0, -1).copy(), description=text, metadata=None, **shown)
        writer.write(np.moveaxis(pixels[:, ::4, ::4], 0, -1).copy(), description=text, metadata=None, **shown)
    return folder / "slide.svs", Truth(pixels, "cyx", np.ones((900, 700), bool), (0.2505, 0.2505))


def ome_set(folder: Path) -> tuple[Path, Truth]:
    """Two channels, each in a file of its own."""
    pixels = structured_image((2, 530, 610), "uint16", seed=2)
    ids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{i}" for i in range(2)]
    files = "".join(
        f'<TiffData FirstC="{i}" IFD="0" PlaneCount="1"><UUID FileName="set-{i}.ome.tif">{ids[i]}</UUID></TiffData>'
        for i in range(2)
    )
    channels = "".join(f'<Channel ID="Channel:0:{i}" Name="c{i}" SamplesPerPixel="1"/>' for i in range(2))
    facts = 'SizeX="610" SizeY="530" SizeZ="1" SizeC="2" SizeT="1" DimensionOrder="XYZCT" Type="uint16"'
    facts += ' PhysicalSizeX="325" PhysicalSizeXUnit="nm" PhysicalSizeY="0.65" PhysicalSizeYUnit="µm"'
    for i in range(2):
        text = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{ids[i]}"><Image ID="Image:0">'
            f'<Pixels ID="Pixels:0" {facts}>{channels}{files}</Pixels></Image></OME>'
        )
        tifffile.imwrite(
            folder / f"set-{i}.ome.tif", pixels[i], description=text.encode(), metadata=None, tile=(128, 128)
        )
    return folder / "set-0.ome.tif", Truth(pixels, "cyx", np.ones((530, 610), bool), (0.65, 0.325))


def stack(folder: Path) -> tuple[Path, Truth]:
    """16 bits, ImageJ, four slices."""
    pixels = structured_image((4, 300, 340), "uint16", seed=3)
    resolution = {"resolution": (1 / 0.32, 1 / 0.32), "metadata": {"axes": "ZYX", "unit": "um", "spacing": 2.0}}
    tifffile.imwrite(folder / "stack.tif", pixels, imagej=True, **resolution)
    return folder / "stack.tif", Truth(pixels, "zyx", np.ones((300, 340), bool), (0.32, 0.32), slice_spacing=2.0)


def hdf5(folder: Path) -> tuple[Path, Truth]:
    """A volume whose size of voxels and slices the user gives."""
    pixels = structured_image((3, 300, 340), "uint16", seed=4)
    with h5py.File(folder / "volume.h5", "w") as file:
        file.create_dataset("raw", data=pixels, chunks=(1, 64, 64), compression="gzip")
    options = ("--pixel-size", "0.4,0.5", "--axes", "zyx")
    return folder / "volume.h5", Truth(pixels, "zyx", np.ones((300, 340), bool), (0.4, 0.5), options=options)


def png(mode: str) -> Maker:
    def make(folder: Path) -> tuple[Path, Truth]:
        pixels = structured_image((len(mode) if mode != "L" else 1, 300, 520), "uint8", seed=5)
        valid = np.ones((300, 520), bool)
        if mode == "RGBA":
            valid[30:90, 50:200] = False
            pixels[3] = np.where(valid, np.maximum(pixels[3], 1), 0)
        stored = np.moveaxis(pixels, 0, -1) if mode != "L" else pixels[0]
        Image.fromarray(stored, mode).save(folder / "image.png")
        truth = Truth(np.moveaxis(stored, -1, 0) if mode != "L" else stored, "cyx" if mode != "L" else "yx", valid)
        return folder / "image.png", replace(truth, taken=(0, 1, 2) if mode == "RGBA" else None)

    return make


GEO, S1F, AWKWARD, ZARR = "geotiff-multiband", "sen1floods11-sample/Spain_7370579", "awkward-tiff", "ome-zarr"
KINDS: dict[str, Maker] = {
    "UTM, nodata 0": geotiff(f"{GEO}/rasterio/RGB.byte.tif"),
    "NAIP, 4 bands, a hole": geotiff(f"{GEO}/data/m_4709963_se_14_1_20150926.tif", holes=[np.s_[200:300, 50:120]]),
    "degrees, 4 bands": geotiff(f"{GEO}/data/2020.tif"),
    "COG, mask": geotiff(f"{GEO}/rasterio/cogeo.tif"),
    "geostationary, mask": geotiff(f"{GEO}/rio-cogeo/image_geos.tif"),
    "COG, nodata and NaN": geotiff(f"{GEO}/rio-tiler/cog_nodata_nan.tif"),
    "alpha, 16 bits": geotiff(f"{GEO}/rasterio/RGBA.uint16.tif", taken=(0, 1, 2)),
    "rotated": geotiff(f"{GEO}/rasterio/rotated.tif"),
    "control points": geotiff(f"{GEO}/rio-tiler/cog_gcps.tif"),
    "Mars": geotiff(f"{GEO}/rio-tiler/cog_hirise_mars.tif"),
    "Europa, float": geotiff(f"{GEO}/rio-tiler/cog_nonearth.tif"),
    "Sentinel-2, 13 bands": geotiff(f"{S1F}_S2.tif"),
    "Sentinel-1, NaN": geotiff(f"{S1F}_S1.tif", holes=[np.s_[:100, :60], np.s_[300:301, 400:402]]),
    "SVS": slide,
    "OME-TIFF set": ome_set,
    "palette TIFF": real(f"{AWKWARD}/image-tiff/palette-1c-8b.tiff"),
    "palette COG, mask": geotiff(f"{GEO}/rio-tiler/cog_cmap.tif"),
    "16-bit stack": stack,
    "PNG": png("L"),
    "RGBA PNG": png("RGBA"),
    "HDF5": hdf5,
    "OME-Zarr 0.4, cyx": real(f"{ZARR}/mobie-viewer-fiji/single-plane-hcs.zarr/E/07/0", (2.7336, 2.7336)),
    "OME-Zarr 0.4, tczyx": real(f"{ZARR}/ome-zarr-fiji-java/5d_testing/5d_dataset_v4.ome.zarr"),
    "OME-Zarr 0.5, tcyx": real(f"{ZARR}/ome-zarr-fiji-java/4d_testing/xyct/4d_dataset_v5.ome.zarr"),
    "OME-Zarr 0.5, nanometers": real(f"{ZARR}/neuroglancer/simple_0.5", (0.004, 0.03)),
}
SLOW = ("palette COG, mask",)
"""62 million pixels."""
