"""Random deformations and grey-value variations of training patches: image, truth and weights move alike.

`draw` decides on the host what happens to one patch; `Warp.source_box` says which pixels that takes; `apply` does it
on the device where they lie. All that is random comes from the caller's generator.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.predictor import VOID

_LARGEST = {
    "rotate": 180.0,
    "scale": 0.9,
    "shift": math.inf,
    "elastic": math.inf,
    "contrast": 0.9,
    "brightness": math.inf,
    "gamma": 0.9,
    "noise": math.inf,
}
_TURNS = [np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), k) for k in range(4)]
_ORIENTATIONS = np.array([turn @ np.diag([1, side]) for side in (1, -1) for turn in _TURNS])  # (8, 2, 2); 0 is as it is


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far patches are varied, each by its own draw; all 0 and False: not at all. Grey values are normalised."""

    flip: bool = False
    """True: one of the eight flips and quarter turns."""
    rotate: float = 0.0
    """Degrees, at most this far either way; 180 is any direction."""
    scale: float = 0.0
    """0.1: magnified by 0.9 to 1.1, even in the logarithm."""
    shift: float = 0.0
    """Pixels along y and x, at most this far either way; whole ones, so that a shift alone interpolates nothing."""
    elastic: float = 0.0
    """Standard deviation in pixels of the displacement along y and x at each point of the grid."""
    grid: int = 3
    """Points of that grid along each side of the patch, corners included; between them it is bicubic."""
    contrast: float = 0.0
    """0.2: distances from each channel's mean times 0.8 to 1.2, even in the logarithm."""
    brightness: float = 0.0
    """Added to all pixels, at most this far either way."""
    gamma: float = 0.0
    """0.2: between each channel's least and largest value, taken as 0 and 1, to the power of 0.8 to 1.2, likewise."""
    noise: float = 0.0
    """Largest standard deviation of Gaussian noise; a patch's own is drawn evenly from 0 up."""

    def __post_init__(self) -> None:
        for name, largest in _LARGEST.items():
            if not 0 <= getattr(self, name) <= largest:
                raise InputError(f"augmentation: {name} is {getattr(self, name)}, must be from 0 to {largest:g}")
        if self.grid < 2:
            raise InputError(f"augmentation: a grid of {self.grid} points a side, must be 2 or more")


@dataclass(frozen=True, slots=True, eq=False)
class Warp:
    """What happens to one patch: pixel p shows the source at center + matrix (p - middle) + shift + displacement(p).

    Positions are (y, x) in pixels, whole at the centers of pixels. The middle of a patch of an even side lies between
    pixels, half a pixel before its center.
    """

    matrix: NDArray[np.float64]
    """(2, 2), from distances in the patch to distances in the source."""
    shift: NDArray[np.int64]
    """(2,), pixels of the source."""
    displacement: NDArray[np.float64]
    """(grid, grid, 2), pixels of the source, at points spread evenly over the patch, corners included."""
    contrast: float = 1.0
    brightness: float = 0.0
    gamma: float = 1.0
    noise: float = 0.0
    seed: int = 0
    """Of the noise."""

    @property
    def interpolates(self) -> bool:
        """False where each pixel of the patch is a pixel of the source: flips, quarter turns and whole shifts alone."""
        return bool(self.displacement.any() or not np.isin(self.matrix, (-1, 0, 1)).all())

    def source_box(self, center: Sequence[int], side: int, core: Box | None = None) -> Box:
        """The pixels of the source that a patch of `side` pixels around `center` (y, x) is made of; exact to a pixel.

        core: a part of the patch, in its own pixels, such as what is left of it after an unpadded network. A warp that
        changes nothing gives the `side` pixels from center - side // 2.
        """
        y, x = (core or Box.whole((side, side))).slices
        basis, every = _basis(side, len(self.displacement)), slice(None) if self.interpolates else [0, -1]
        places = basis[y][every] @ _coefficients(self, side) @ basis[x][every].T  # (2, y, x)
        low, high = np.floor(places.min((1, 2))).astype(int), np.floor(places.max((1, 2))).astype(int)
        before, after = (1, 2) if self.interpolates else (0, 0)  # bicubic: one pixel before, two after
        a, b = (low - before).tolist(), (high + after + 1).tolist()
        return Box((a[0], a[1]), (b[0], b[1])).shift(center)


def draw(augmentation: Augmentation, generator: np.random.Generator, side: int) -> Warp:
    """The warp of one patch whose network input is `side` pixels wide.

    All is drawn, in the same order, whatever is set: turning one variation on or off leaves the others as they were.
    """
    a, spacing = augmentation, (side - 1) / (augmentation.grid - 1)
    if a.elastic > spacing / 6:  # above, one patch in a hundred is folded somewhere
        raise InputError(
            f"augmentation: elastic of {a.elastic:g} pixels folds a patch of {side} pixels on a grid of {a.grid}; "
            f"at most {spacing / 6:.1f}, or a larger patch"
        )
    orientation = _ORIENTATIONS[generator.integers(8) * a.flip]
    angle = math.radians(generator.uniform(-a.rotate, a.rotate))
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return Warp(
        matrix=rotation @ orientation / _factor(generator, a.scale),
        shift=np.rint(generator.uniform(-a.shift, a.shift, 2)).astype(np.int64),
        contrast=_factor(generator, a.contrast),
        brightness=generator.uniform(-a.brightness, a.brightness),
        gamma=_factor(generator, a.gamma),
        noise=generator.uniform(0, a.noise),
        seed=int(generator.integers(1 << 63)),
        displacement=generator.normal(0, a.elastic, (a.grid, a.grid, 2)),
    )


def _factor(generator: np.random.Generator, most: float) -> float:
    """Between 1 - most and 1 + most, even in the logarithm."""
    return math.exp(generator.uniform(math.log1p(-most), math.log1p(most)))


def apply(
    warps: Sequence[Warp],
    images: Sequence[Tensor],
    truth: Sequence[Tensor],
    weights: Sequence[Tensor],
    side: int,
    core: Box | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The batch (b, c, side, side) float32 of these patches, its truth (b, y, x) uint8 and weights (b, y, x) float32.

    Of each patch: the normalised pixels (c, Y, X) float32 of its `source_box(center, side)`; class ids (Y, X) uint8 and
    weights (Y, X) float32 of its `source_box(center, side, core)`. y and x are those of `core`, else all of the patch.
    The image is interpolated bicubically and the weights linearly, void having none; the truth is that of the nearest
    pixel. Without interpolation the pixels are the source's own, bit for bit.
    """
    part = core or Box.whole((side, side))
    cut, moved = [], []
    for warp, image, ids, weight in zip(warps, images, truth, weights, strict=True):
        moved.append(_vary(_move(warp, image, side, Box.whole((side, side)), "bicubic"), warp))
        labels = _move(warp, ids[None], side, part, "nearest")
        cut.append((labels[0], _move(warp, weight[None], side, part, "bilinear")[0].where(labels[0] != VOID, 0.0)))
    return torch.stack(moved), torch.stack([y for y, _ in cut]), torch.stack([w for _, w in cut])


def _move(warp: Warp, pixels: Tensor, side: int, part: Box, mode: str) -> Tensor:
    """A part of the patch (c, y, x), of the pixels (c, Y, X) of its source box, in their own dtype."""
    box = warp.source_box((0, 0), side, part)
    if pixels.shape[1:] != box.shape:
        raise ValueError(f"pixels of shape {tuple(pixels.shape[1:])}, but the warp takes {box.shape}")
    if not warp.interpolates:
        return _turn(pixels, warp.matrix)
    y, x = part.slices
    # float64: no device rounds its products to TF32 or bfloat16, which would misplace pixels
    basis = torch.from_numpy(_basis(side, len(warp.displacement))).to(pixels.device)
    places = basis[y] @ torch.from_numpy(_coefficients(warp, side)).to(pixels.device) @ basis[x].T  # (2, y, x)
    (top, left), (n_y, n_x) = box.start, box.shape
    # grid_sample counts x first, from -1 at the first pixel's center to 1 at the last one's
    grid = torch.stack(((places[1] - left) * (2 / (n_x - 1)) - 1, (places[0] - top) * (2 / (n_y - 1)) - 1), -1)
    out = F.grid_sample(pixels[None].float(), grid[None].float(), mode, padding_mode="border", align_corners=True)[0]
    return out.to(pixels.dtype)


def _turn(pixels: Tensor, matrix: NDArray[np.float64]) -> Tensor:
    """Pixels (c, y, x) flipped and turned by a matrix of -1, 0 and 1."""
    turned = pixels if matrix[0, 0] else pixels.transpose(1, 2)
    return turned.flip([axis + 1 for axis in (0, 1) if matrix[:, axis].sum() < 0])


def _vary(image: Tensor, warp: Warp) -> Tensor:
    """Pixels (c, y, x) with other grey values; untouched where the warp says so."""
    if warp.gamma != 1:
        low, high = image.amin((1, 2), keepdim=True), image.amax((1, 2), keepdim=True)
        reach = high - low
        image = low + reach * ((image - low) / reach.where(reach > 0, 1)) ** warp.gamma
    if warp.contrast != 1:
        image = torch.lerp(image.mean((1, 2), keepdim=True), image, warp.contrast)
    if warp.brightness:
        image = image + warp.brightness
    if warp.noise:
        generator = torch.Generator(image.device).manual_seed(warp.seed)
        image = image + warp.noise * torch.randn(image.shape, generator=generator, device=image.device)
    return image


def _coefficients(warp: Warp, side: int) -> NDArray[np.float64]:
    """(2, grid + 2, grid + 2): positions in the source, from the center, as products of `_basis` of y and of x."""
    c = np.zeros((2, len(warp.displacement) + 2, len(warp.displacement) + 2))
    c[:, :-2, :-2] = np.moveaxis(warp.displacement, -1, 0)
    c[:, -2, -2] = warp.shift + ((side - 1) / 2 - side // 2)
    c[:, -1, -2], c[:, -2, -1] = warp.matrix.T
    return c


@functools.lru_cache(maxsize=16)
def _basis(side: int, grid: int) -> NDArray[np.float64]:
    """(side, grid + 2): along one axis the bicubic weight of each point of the grid, then 1, then p - middle."""
    points = torch.eye(grid, dtype=torch.float64)[None, :, :, None]
    bicubic = F.interpolate(points, (side, 1), mode="bicubic", align_corners=True)[0, :, :, 0].T.numpy()
    return np.column_stack((bicubic, np.ones(side), np.arange(side) - (side - 1) / 2))
