"""The door to rasterio for coordinates: points of one CRS in another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilekit.errors import InputError

LONGITUDE_LATITUDE = "OGC:CRS84"


def transform_points(points: NDArray[np.float64], source_crs: str, target_crs: str, name: str) -> NDArray[np.float64]:
    """Points (n, 2) of x, y (longitude before latitude) from one CRS in another."""
    try:
        from rasterio.crs import CRS
        from rasterio.errors import RasterioError
        from rasterio.warp import transform
    except ImportError:
        raise InputError(f"{name}: coordinates need rasterio; pip install 'tilekit[geo]'") from None
    try:
        x, y = transform(CRS.from_user_input(source_crs), CRS.from_user_input(target_crs), points[:, 0], points[:, 1])
    except (RasterioError, ValueError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{name}: its coordinates do not fit the image's CRS ({reason}); export others") from None
    moved = np.stack([np.asarray(x), np.asarray(y)], axis=1)
    if not np.isfinite(moved).all():
        raise InputError(f"{name}: has points that the image's CRS cannot show; export others")
    return moved
