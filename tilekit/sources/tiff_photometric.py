"""What the samples of a TIFF look like: palettes, white as zero, alpha, and names of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilekit.errors import InputError

if TYPE_CHECKING:
    from tifffile import TiffPageSeries

MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
LABS = (8, 9, 10)
JPEG_CODES = (6, 7, 34892, 33007)
"""Compressions whose YCbCr tifffile gives back as RGB."""

RED_GREEN_BLUE = ("red", "green", "blue")
ALPHAS = (1, 2)
"""Values of ExtraSamples that mean alpha, associated (premultiplied) or not."""


@dataclass(frozen=True)
class Photometric:
    """How stored samples become those that are shown."""

    colors: NDArray[Any] | None = None
    """Palette (3, indices), uint8 or uint16, where indices are shown as colors."""
    white: int | None = None
    """Stored value of black where 0 is white, so that shown = white - stored."""

    @property
    def n_colors(self) -> int:
        """Channels that one stored sample becomes."""
        return 1 if self.colors is None else len(self.colors)

    def dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        """The dtype of shown pixels."""
        return stored if self.colors is None else self.colors.dtype

    def pixel_bytes(self, stored: np.dtype[Any]) -> int:
        """Bytes per pixel that showing a channel takes: indices as numpy takes them, and the result."""
        if self.colors is None:
            return 0 if self.white is None else stored.itemsize
        return np.dtype(np.intp).itemsize + self.colors.dtype.itemsize

    def show(self, pixels: NDArray[Any], channel: int) -> NDArray[Any]:
        """One channel of shown pixels, from the stored sample that it comes from."""
        if self.colors is None and (self.white is None or channel > 0):
            return pixels
        whole = pixels.view(np.uint8) if pixels.dtype == bool else pixels
        shown: NDArray[Any]
        if self.colors is not None:
            shown = self.colors[channel].take(whole)
        else:
            shown = np.subtract(whole.dtype.type(self.white or 0), whole)
        return shown


def photometric_of(series: TiffPageSeries, as_labels: bool, name: str) -> Photometric:
    """How the pages of a series are shown; `as_labels` leaves the indices of a palette as they are."""
    key = series.keyframe
    assert key.dtype is not None
    if key.dtype.kind not in "bu" or not isinstance(key.bitspersample, int):
        return Photometric()
    if key.photometric == MIN_IS_WHITE:
        return Photometric(white=2**key.bitspersample - 1)
    if as_labels or not has_palette(key):
        return Photometric()
    _refuse_differing_maps(series, name)
    return Photometric(colors=_as_narrow(color_map(key, name)))


def has_palette(key: Any) -> bool:
    """True where pixels are indices of a color map."""
    return bool(key.photometric == PALETTE and key.samplesperpixel == 1 and key.dtype.kind in "bu")


def color_map(key: Any, name: str) -> NDArray[np.uint16]:
    """The ColorMap tag as (3, 2^bits) of 16 bits."""
    found = key.tags.valueof("ColorMap")
    n = 2**key.bitspersample
    if found is None or np.size(found) != 3 * n:
        raise InputError(
            f"{name}: its color map has {0 if found is None else np.size(found)} values, {key.bitspersample} bits "
            f"need {3 * n}; write it again, or read the indices as labels"
        )
    return np.asarray(found, np.uint16).reshape(3, n)


def color_table(key: Any, nodata: float | None, name: str) -> tuple[tuple[int, int, int, int], ...]:
    """RGBA, 0 to 255, of each index; the index that means nodata is transparent."""
    colors = _as_narrow(color_map(key, name))
    eight_bits = colors if colors.dtype == np.uint8 else colors >> 8
    return tuple((r, g, b, 0 if i == nodata else 255) for i, (r, g, b) in enumerate(eight_bits.T.tolist()))


def _as_narrow(colors: NDArray[np.uint16]) -> NDArray[Any]:
    """As uint8 where the map is one of 8 bits, times 257, times 256 or (against the standard) as it is."""
    for factor in (257, 256):
        if not (colors % factor).any():
            return (colors // factor).astype(np.uint8)
    return colors.astype(np.uint8) if colors.max() < 256 else colors


def _refuse_differing_maps(series: TiffPageSeries, name: str) -> None:
    first = color_map(series.keyframe, name)
    for i, page in enumerate(series.pages if len(series.pages) > 1 else ()):
        if page is not None and not np.array_equal(color_map(page.aspage(), name), first):
            raise InputError(f"{name}: pages 0 and {i} have different color maps; read the indices as labels")


def sample_names(key: Any) -> list[str] | None:
    """Names of the shown samples where the photometric tag gives each a meaning."""
    if has_palette(key):
        return list(RED_GREEN_BLUE)
    base = None if key.samplesperpixel == 1 else _base_names(key)
    extra = [("alpha" if e in ALPHAS else "extra") for e in key.extrasamples]
    if base is None or len(base) + len(extra) != key.samplesperpixel or (len(base) == 1 and "extra" in extra):
        return None
    n = extra.count("extra")
    numbered = iter([""] if n == 1 else [f" {i + 1}" for i in range(n)])
    return [*base, *(e + next(numbered) if e == "extra" else e for e in extra)]


def _base_names(key: Any) -> Sequence[str] | None:
    if key.photometric == YCBCR and key.compression not in JPEG_CODES:
        return "Y", "Cb", "Cr"
    if key.photometric in LABS:
        return "L*", "a*", "b*"
    known: dict[int, Sequence[str]] = {
        MIN_IS_WHITE: ("gray",), MIN_IS_BLACK: ("gray",), RGB: RED_GREEN_BLUE, YCBCR: RED_GREEN_BLUE, CMYK: "CMYK",
    }  # fmt: skip
    return known.get(int(key.photometric))


def alpha_sample(key: Any) -> int | None:
    """Which stored sample is an alpha mask."""
    first = key.samplesperpixel - len(key.extrasamples)
    return next((first + i for i, e in enumerate(key.extrasamples) if e in ALPHAS), None)
