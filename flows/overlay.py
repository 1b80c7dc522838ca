"""Pictures to look at: a class map laid over its image, and the panels image | overlay | mistakes, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from tilekit.place import as_path
from tilekit.sources import Source, open_image

Color = tuple[int, int, int]
RGB = NDArray[np.uint8]

COLORS: dict[int, Color] = {1: (0, 170, 255), 2: (255, 170, 0), 3: (170, 230, 60), 4: (230, 90, 200)}
MISSED, INVENTED = (255, 70, 90), (255, 200, 0)


def overlay_png(
    image: NDArray[Any],
    classes: NDArray[np.uint8],
    path: str | Path,
    *,
    colors: dict[int, Color] = COLORS,
    opacity: float = 0.3,
    low: float | None = None,
    high: float | None = None,
) -> None:
    """Write an RGB PNG of the image with its classes in color, outlined.

    Image: (y, x) or (y, x, 3), uint8 or uint16, of which `low` becomes black and `high` white (the 0.5th and 99.8th
    percentiles when not given). Classes: uint8 (y, x); those without a color, as 0 and void, stay clear.
    """
    write_png(path, overlay(stretch(image, low, high), classes, colors=colors, opacity=opacity))


def side_by_side(
    image: NDArray[Any],
    classes: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    path: str | Path,
    *,
    colors: dict[int, Color] = COLORS,
    opacity: float = 0.3,
    low: float | None = None,
    high: float | None = None,
    void: int = 255,
) -> None:
    """Write image | overlay | mistakes as one RGB PNG; a mistake is missed (red) or wrongly a class (yellow).

    Shapes and dtypes as in `overlay_png`; truth as classes, its `void` pixels being no mistake.
    """
    grey = stretch(image, low, high)
    laid = overlay(grey, classes, colors=colors, opacity=opacity)
    wrong = np.where((classes != truth) & (truth != void), np.where(truth > 0, 1, 2), 0).astype(np.uint8)
    faint = (grey // 3).astype(np.uint8)
    write_png(path, panels([grey, laid, overlay(faint, wrong, colors={1: MISSED, 2: INVENTED}, opacity=1.0)]))


def stretch(image: NDArray[Any], low: float | None = None, high: float | None = None) -> RGB:
    """RGB uint8 (y, x, 3) with `low` at 0 and `high` at 255."""
    black = float(np.percentile(image, 0.5)) if low is None else low
    white = float(np.percentile(image, 99.8)) if high is None else high
    scaled = (image.astype(np.float32) - black) * (255.0 / max(white - black, 1e-6))
    grey = scaled.clip(0, 255).round().astype(np.uint8)
    return grey if grey.ndim == 3 else np.repeat(grey[:, :, None], 3, axis=2)


def overlay(rgb: RGB, classes: NDArray[np.uint8], *, colors: dict[int, Color], opacity: float) -> RGB:
    """The picture (y, x, 3) with each colored class washed over it and its outer pixels opaque."""
    table = np.zeros((256, 3), np.float32)
    weight = np.zeros(256, np.float32)
    for k, color in colors.items():
        table[k], weight[k] = color, opacity
    alpha = np.maximum(weight[classes], 0.9 * (outline(classes) & (weight[classes] > 0)))[:, :, None]
    mixed: RGB = (rgb * (1 - alpha) + table[classes] * alpha).round().astype(np.uint8)
    return mixed


def outline(classes: NDArray[np.uint8]) -> NDArray[np.bool]:
    """True for pixels with another class above, below, left or right."""
    edge = np.zeros(classes.shape, np.bool)
    down, right = classes[1:] != classes[:-1], classes[:, 1:] != classes[:, :-1]
    for part, differs in ((edge[1:], down), (edge[:-1], down), (edge[:, 1:], right), (edge[:, :-1], right)):
        part |= differs
    return edge


def panels(pictures: Sequence[RGB], gap: int = 4) -> RGB:
    """Pictures of one height in a row, parted by thin white lines."""
    line = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    return np.concatenate([p for picture in pictures for p in (line, picture)][1:], axis=1)


def write_png(path: str | Path, rgb: RGB) -> None:
    as_path(path).write_bytes(imagecodecs.png_encode(np.ascontiguousarray(rgb)))


def read_png(path: str | Path) -> RGB:
    picture: RGB = imagecodecs.png_decode(as_path(path).read_bytes())
    return picture


def overlay_of_store(out: Path, side: int = 1024) -> Path:
    """Draw the class map of an output over its image, at the finest level that is at most `side` pixels wide.

    Writes overlay.png beside the ledger, and returns its path.
    """
    image = open_image(out)
    level = next((k for k, s in enumerate(image.levels) if max(s[-2:]) <= side), len(image.levels) - 1)
    pixels, classes = open_image(out, level=level), open_image(out / "labels" / "classes", level=level)
    path = out / ".tilekit" / "overlay.png"
    overlay_png(_first_plane(pixels), _first_plane(classes).astype(np.uint8), path)
    return path


def _first_plane(source: Source) -> NDArray[Any]:
    """The first plane: (y, x), or (y, x, 3) where there are three channels."""
    shape = source.shape
    n = shape[source.axes.index("c")] if "c" in source.axes else 1
    take = 3 if n == 3 else 1
    box = tuple(slice(0, take if a == "c" else m if a in "yx" else 1) for a, m in zip(source.axes, shape, strict=True))
    pixels = source.read(box).reshape(take, *shape[-2:])
    return np.moveaxis(pixels, 0, -1) if take == 3 else pixels[0]
