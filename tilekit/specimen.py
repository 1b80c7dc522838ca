"""A specimen with known truth: crowded, touching cells as a function of coordinates, for any size, block by block.

Nothing here has state. Objects, texture, light and noise are hashes of (seed, coordinate), and the arithmetic is
elementwise + - * / min max on IEEE floats, so that any two boxes agree bit for bit on what they share, on any machine.

The image is made of squares of CELL pixels, half a cell out of step with the grid of objects. An object reaches less
than a CELL from the middle of its own grid cell, so that a pixel has four candidates, at the corners of its square:

    o-------o-------o      o  middle of a grid cell; its object lies within one CELL of it
    | square|       |         a pixel belongs to the nearest of the four o around it, or to none
    o-------o-------o
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .box import Box, grid_boxes
from .errors import InputError

CELL = 24  # side of a grid cell in pixels: one object, or none, in each
TEXEL = 4  # pixels between the nodes of the texture; divides CELL
LIGHT = 128  # squares between the nodes of the uneven light
PIECE = 64  # squares made at once, side by side: the work stays in a core's cache
BAND = 20 * CELL  # rows of labels made at once, for the same reason
JITTER, APART, FAR = 9.0, 14.0, 1e6

Array = NDArray[Any]
Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Number = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Specimen:
    """An image source of crowded cells under uneven light, and its truth. Axes y, x; uint8; 0.5 µm a pixel."""

    size: tuple[int, int] | int  # height and width in pixels, or the side of a square
    seed: int = 0

    axes: ClassVar[str] = "yx"
    dtype: ClassVar[np.dtype[np.uint8]] = np.dtype(np.uint8)
    pixel_size: ClassVar[tuple[float, float]] = (0.5, 0.5)
    channel_names: ClassVar[list[str]] = ["stain"]
    nodata: ClassVar[None] = None
    wavelengths: ClassVar[None] = None
    value_scale: ClassVar[None] = None
    color_table: ClassVar[None] = None
    alpha: ClassVar[None] = None
    mask: ClassVar[None] = None
    georeference: ClassVar[None] = None
    level: ClassVar[int] = 0
    scale: ClassVar[tuple[float, float]] = (1.0, 1.0)
    slice_spacing: ClassVar[None] = None
    translation: ClassVar[tuple[float, float]] = (0.0, 0.0)
    tiling: ClassVar[str] = f"computed, {CELL} x {CELL * PIECE}"
    segment_bytes: ClassVar[int] = CELL * CELL * PIECE
    reference: ClassVar[None] = None  # nothing to open: it pickles as its size and seed

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or (self.shape[0] // CELL + 2) * self._n_columns >= 2**32:
            raise InputError(f"specimen: size {self.size} must be at least 1 and below 2**32 cells of {CELL} x {CELL}")

    def check_unchanged(self) -> None:
        """It never changes."""

    @property
    def shape(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def levels(self) -> list[tuple[int, int]]:
        return [self.shape]

    @property
    def name(self) -> str:
        return f"specimen-{self.shape[0]}x{self.shape[1]}-{self.seed}"

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides every pixel."""
        return {"kind": "specimen", "size": list(self.shape), "seed": self.seed}

    def read(self, box: Box | Sequence[slice]) -> NDArray[np.uint8]:
        """Grey values of a box, uint8 (y, x): the same pixel has the same value in every box that holds it."""
        inside = self._inside(box)
        cells = _objects(inside, self.seed)
        return _assemble(inside, np.uint8, lambda piece: _picture(piece, cells, self.seed))

    def truth(self, box: Box | Sequence[slice]) -> NDArray[np.uint8]:
        """Class map of a box, uint8 (y, x): 0 background, 1 cell; one pixel of background parts touching cells."""
        nine = self._labels(box, lambda row, column: (row % 3 * 3 + column % 3 + 1).astype(np.uint8))
        return np.minimum(nine, np.uint8(1))  # nine numbers tell apart any two objects that can meet

    def ids(self, box: Box | Sequence[slice]) -> NDArray[np.uint32]:
        """Object ids of a box, uint32 (y, x): the number of the object's grid cell, 0 exactly where the truth is 0."""
        return self._labels(box, lambda row, column: row * np.uint32(self._n_columns) + column + np.uint32(1))

    def _labels(self, box: Box | Sequence[slice], number: Number) -> Array:
        """What `number` makes of the owner's grid row and column, a band at a time."""
        inside = self._inside(box)
        bands = grid_boxes(inside, (BAND, max(inside.shape[1], 1)))
        parts = [_part(band, _objects(band.grow((0, 1), (1, 1)), self.seed), number) for band in bands]
        return np.concatenate(parts) if parts else number(*np.zeros((2, *inside.shape), np.uint32))

    @property
    def _n_columns(self) -> int:
        return self.shape[1] // CELL + 2

    def _inside(self, box: Box | Sequence[slice]) -> Box:
        given = Box.of(box, self.shape)
        if not Box.whole(self.shape).contains(given):
            raise InputError(f"{self.name}: box {given.start} to {given.stop} reaches outside {self.shape}; clip it")
        return given


@dataclass(frozen=True, slots=True)
class _Objects:
    """The objects of consecutive grid rows and columns.

    Inside is yy·dy² + 2·xy·dy·dx + xx·dx² < 1, with (dy, dx) in pixels from the object's centre.
    """

    origin: tuple[int, int]  # first grid row and column
    centre: Doubles  # (2, rows, columns): y, x in pixels from the middle of the grid cell
    form: Doubles  # (3, rows, columns): yy, xy, xx
    glow: Floats  # (2, rows, columns): grey of the rim, and what the core adds to it


def _objects(box: Box, seed: int) -> _Objects:
    """The objects that can reach a box: ellipses with half axes of 7 to 13.5 pixels, turned any way."""
    squares = _squares(box)
    rows, columns = _ticks(squares, 1, 1)
    long, wide, turn, shade = _fractions(_hash(rows, columns, seed, 1))
    centre, rim, there = _places(rows, columns, seed)
    along, over = 1.0 / (9.0 + 4.5 * long) ** 2, 1.0 / (7.0 + 3.0 * wide) ** 2
    t = 2.0 * turn - 1.0  # the tangent of half the angle: cosine and sine without a transcendental function
    cos, sin = (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)
    yy, xx = along * cos * cos + over * sin * sin, along * sin * sin + over * cos * cos
    form = np.where(there, np.stack([yy, (along - over) * sin * cos, xx]), np.array([FAR, 0.0, FAR])[:, None, None])
    glow = np.stack([30.0 + 30.0 * rim, -38.0 + 120.0 * shade * shade]).astype(np.float32)
    return _Objects((squares.start[0], squares.start[1]), centre, form, glow)


def _places(rows: Array, columns: Array, seed: int) -> tuple[Doubles, Doubles, NDArray[np.bool]]:
    """Centre and rim of each object, and whether it is there: no neighbour of higher rank within APART pixels."""
    rows, columns = (np.arange(n[0] - 1, n[-1] + 2) for n in (rows, columns))
    rank, y, x, rim = _fractions(_hash(rows, columns, seed, 2))
    y, x, own = JITTER * (2.0 * y - 1.0), JITTER * (2.0 * x - 1.0), (slice(1, -1), slice(1, -1))
    there = np.ones(rank[own].shape, np.bool)
    for down, right in product(range(3), range(3)):
        near = (slice(down, down + len(there)), slice(right, right + len(columns) - 2))
        dy, dx = CELL * (down - 1) + y[near] - y[own], CELL * (right - 1) + x[near] - x[own]
        there &= (rank[near] <= rank[own]) | (dy * dy + dx * dx >= APART * APART)
    return np.stack([y[own], x[own]]), rim[own], there


def _squares(box: Box) -> Box:
    """The squares that a box touches. Square (r, c) has the objects of grid rows r, r + 1 and columns c, c + 1."""
    return box.shift((CELL // 2,) * 2).coarser(CELL)


def _assemble(box: Box, dtype: Any, paint: Callable[[Box], Array]) -> Array:
    """The box, put together from painted pieces: one square high, up to PIECE squares wide."""
    out = np.empty(box.shape, dtype)
    for piece in grid_boxes(_squares(box), (1, PIECE)):
        pixels = Box(*(tuple(n * CELL - CELL // 2 for n in ends) for ends in (piece.start, piece.stop)))
        shared = pixels.intersect(box)
        out[shared.relative_to(box).slices] = paint(piece)[shared.relative_to(pixels).slices]
    return out


def _distances(piece: Box, cells: _Objects) -> Iterator[NDArray[np.uint32]]:
    """Squared normalised distance from each candidate: the bits of a float32, the last two holding its number.

    Bits of positive floats sort as the floats do, so that the smallest carries both the distance and the owner.
    """
    y, local = np.arange(CELL, dtype=np.float32)[:, None], np.arange(CELL, dtype=np.float64)
    for corner in range(4):
        at = _corner(piece, cells, corner)
        yy, xy, xx = cells.form[at][:, :, None]
        oy, dx = cells.centre[at][:, :, None]
        oy, dx = oy + CELL * (corner >> 1), local - CELL * (corner & 1) - dx
        rest = (yy * oy - 2.0 * xy * dx) * oy + xx * dx * dx + 1e-3  # above 0 whatever the rounding
        q = np.repeat(yy.astype(np.float32), CELL) * y
        q += (2.0 * (xy * dx - yy * oy)).astype(np.float32).ravel()
        q *= y
        q += rest.astype(np.float32).ravel()
        yield (q.view(np.uint32) & np.uint32(0xFFFFFFFC)) | np.uint32(corner)


def _corner(piece: Box, cells: _Objects, corner: int) -> tuple[slice, int, slice]:
    """Where the objects at one corner of each square stand in arrays of shape (n, rows, columns)."""
    row, column = (a - b for a, b in zip(piece.start, cells.origin, strict=True))
    column += corner & 1
    return slice(None), row + (corner >> 1), slice(column, column + piece.shape[1])


def _pick(nearest: NDArray[np.uint32], piece: Box, cells: _Objects, values: Array) -> list[Array]:
    """For each pixel the n values of the object that owns it; values has shape (n, rows, columns)."""
    at = (nearest & np.uint32(3)) + np.repeat(np.arange(piece.shape[1], dtype=np.intp) * 4, CELL)
    tables = np.stack([values[_corner(piece, cells, corner)] for corner in range(4)], axis=2)
    return [table.ravel().take(at, mode="clip") for table in tables]


def _part(box: Box, cells: _Objects, number: Number) -> Array:
    """Owners in a box; 0 where the next pixel or one of the three below has another: no two touch, even at corners."""
    rows, columns = (cells.origin[i] + np.arange(cells.form.shape[i + 1], dtype=np.uint32) for i in range(2))
    numbers = number(rows[:, None], columns)[None]
    seen = _assemble(box.grow((0, 1), (1, 1)), numbers.dtype, lambda piece: _owners(piece, cells, numbers))
    here, ridge = seen[:-1, 1:-1], np.zeros(box.shape, np.bool)
    for other in (seen[:-1, 2:], seen[1:, :-2], seen[1:, 1:-1], seen[1:, 2:]):
        ridge |= (here != other) & (other != 0)
    return here * ~ridge


def _owners(piece: Box, cells: _Objects, numbers: Array) -> Array:
    """The owner's number for each pixel of a piece, 0 outside all objects."""
    a, b, c, d = _distances(piece, cells)
    nearest = np.minimum(np.minimum(a, b), np.minimum(c, d))
    (owner,) = _pick(nearest, piece, cells, numbers)
    return owner * (nearest.view(np.float32) < 1.0)


def _picture(piece: Box, cells: _Objects, seed: int) -> NDArray[np.uint8]:
    """Grey values of a piece: light × (medium + cells with soft edges + texture) + noise."""
    a, b, c, d = _distances(piece, cells)
    low, high, low2, high2 = np.minimum(a, b), np.maximum(a, b), np.minimum(c, d), np.maximum(c, d)
    nearest, second = np.minimum(low, low2), np.minimum(np.maximum(low, low2), np.minimum(high, high2))
    q, gap = nearest.view(np.float32), second.view(np.float32) - nearest.view(np.float32)
    edge = ((np.float32(1.12) - q) * np.float32(3.0)).clip(0.0, 1.0)
    edge *= (gap * np.float32(2.5) + np.float32(0.1)).clip(0.0, 1.0)  # dark where two cells meet
    texture = _texture(piece, seed)
    rim, grey = _pick(nearest, piece, cells, cells.glow)
    grey *= np.float32(1.0) - q
    grey += rim + texture * np.float32(0.5)
    grey *= edge
    grey += texture + np.float32(70.0)
    grey *= _light(piece, seed)
    grey += _noise(piece, seed)
    pixels: NDArray[np.uint8] = grey.clip(0.0, 255.0).astype(np.uint8)
    return pixels


def _texture(piece: Box, seed: int) -> Floats:
    """Smooth noise, -16 to 16, from hashed nodes."""
    nodes = _hash(*_ticks(piece, CELL // TEXEL, 1), seed, 3) >> np.uint64(40)
    return _between(nodes.astype(np.float32) / np.float32(2**19) - np.float32(16.0), TEXEL)


def _light(piece: Box, seed: int) -> Floats:
    """Illumination, 0.45 to 1.35, smoothstep between hashed nodes LIGHT squares apart."""
    y, x = _ticks(piece, 1, 1)
    rows, columns = (np.arange(t[0] // LIGHT, t[-1] // LIGHT + 2) for t in (y, x))
    nodes = 0.45 + 0.9 * _fractions(_hash(rows, columns, seed, 4))[0]
    (fy, fx), (r, c) = ((t % LIGHT / LIGHT for t in (y, x)), (y // LIGHT - rows[0], x // LIGHT - columns[0]))
    fy, fx = (f * f * (3.0 - 2.0 * f) for f in (fy, fx))
    down = nodes[r] + (nodes[r + 1] - nodes[r]) * fy[:, None]
    return _between((down[:, c] + (down[:, c + 1] - down[:, c]) * fx).astype(np.float32), CELL)


def _between(nodes: Floats, step: int) -> Floats:
    """Linear interpolation from nodes (m + 1, n + 1) to pixels (m * step, n * step)."""
    steps = np.arange(step, dtype=np.float32) / np.float32(step)
    across = (nodes[:, :-1, None] + (nodes[:, 1:] - nodes[:, :-1])[:, :, None] * steps).reshape(len(nodes), -1)
    down = (across[1:] - across[:-1])[:, None, :] * steps[:, None] + across[:-1, None, :]
    return down.reshape(-1, across.shape[1])


def _noise(piece: Box, seed: int) -> Floats:
    """Noise of the single pixel, -12 to 12, triangular: two halves of a 32-bit hash added."""
    y, x = _ticks(piece, CELL)
    h = _hash(y, np.zeros(1), seed, 5).astype(np.uint32) + _hash(np.zeros(1), x, seed, 6).astype(np.uint32)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x2C1B3C6D)
    h ^= h >> np.uint32(12)
    both = ((h & np.uint32(0xFFFF)) + (h >> np.uint32(16))).view(np.int32).astype(np.float32)
    return both * np.float32(24.0 / 2**17) - np.float32(12.0)


def _ticks(piece: Box, per: int, extra: int = 0) -> tuple[Array, Array]:
    """Positions along y and x at `per` a square, and this many more at the end."""
    y, x = (np.arange(a * per, b * per + extra) for a, b in zip(piece.start, piece.stop, strict=True))
    return y, x


def _hash(rows: Array, columns: Array, seed: int, salt: int) -> NDArray[np.uint64]:
    """64 random bits for each (row, column), shape (rows, columns)."""
    key = _mix(np.array([(seed * 16 + salt) % 2**64], np.uint64))
    row = _mix(rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key)
    return _mix(row[:, None] + columns.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03))


def _mix(h: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def _fractions(h: NDArray[np.uint64]) -> list[Doubles]:
    """Four numbers in [0, 1) from 64 bits."""
    return [((h >> np.uint64(16 * k)) & np.uint64(0xFFFF)).astype(np.float64) / 65536.0 for k in range(4)]
