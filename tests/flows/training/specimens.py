"""Images with truth, written to files, for the tests of training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from flows.training.config import Config


def blobs(shape: tuple[int, int], n: int, seed: int = 0) -> NDArray[np.uint16]:
    """Ids of discs that touch, and hide each other."""
    generator = np.random.default_rng(seed)
    ids = np.zeros(shape, np.uint16)
    y, x = np.indices(shape)
    for k in range(1, n + 1):
        cy, cx = generator.integers(0, shape[0]), generator.integers(0, shape[1])
        ids[(y - cy) ** 2 + (x - cx) ** 2 < generator.integers(3, 9) ** 2] = k
    return ids


def noise(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def write_pair(folder: Path, name: str, image: NDArray[Any], truth: NDArray[Any], **options: Any) -> None:
    """images/NAME.tif and truth/NAME.tif."""
    for part, pixels in (("images", image), ("truth", truth)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / part / f"{name}.tif", pixels, photometric="minisblack", **options)


def configured(folder: Path, **sections: dict[str, Any]) -> Config:
    """A configuration in this folder."""
    return Config(file=folder / "config.toml", **sections)  # type: ignore[arg-type]
