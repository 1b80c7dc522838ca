"""Pictures of scores: the confusion matrix as SVG, and the worst tiles as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.overlay import RGB, panels, write_png
from tilekit.box import Box
from tilekit.evaluation import NOTHING, Rules
from tilekit.jobs.pairs import Pair
from tilekit.tiling import Block

CELL, MARGIN = 64, 90
RIGHT, WRONG = (0, 110, 180), (210, 60, 60)
CONFUSION, WORST = "confusion.svg", "worst-{}.png"
VOID_COLOR = (90, 90, 90)


def draw_scores(folder: Path, result: dict[str, Any], pairs: Sequence[Pair], rules: Rules) -> list[Path]:
    """Draw what there is of confusion matrix and worst tiles (prediction | truth | mistakes) into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    first, drawn = result.get("first", result), []
    if "confusion" in first:
        drawn.append(folder / CONFUSION)
        drawn[0].write_text(confusion_svg(first["confusion"], first["unpredicted"]))
    by_name = {pair.name: pair for pair in pairs}
    for number, tile in enumerate(result["worst"], start=1):
        start, stop = zip(*tile["box"], strict=True)
        block = Block(0, tuple(tile["plane"]), Box(start, stop))
        pair = by_name[tile["image"]]
        prediction, truth = (pair.read(source, block) for source in (pair.predictions[0], pair.truth))
        prediction, truth = rules.pixels(prediction, truth, coded=first["is_mapped"])
        drawn.append(folder / WORST.format(number))
        write_png(drawn[-1], panels([colored(prediction), colored(truth), mistakes(prediction, truth, rules.kind)]))
    return drawn


def confusion_svg(confusion: Sequence[Sequence[int]], unpredicted: Sequence[int]) -> str:
    """A matrix with a row per class of the truth: each cell's share of its row as shade and in percent; void last."""
    k = len(confusion)
    names = [*map(str, range(k)), "void"]
    rows = [[*row, void] for row, void in zip(confusion, unpredicted, strict=True)]
    parts = [_text(MARGIN + (k + 1) * CELL / 2, 20, "predicted"), _text(40, MARGIN + k * CELL / 2, "truth")]
    parts += [_text(MARGIN + (j + 0.5) * CELL, MARGIN - 10, name) for j, name in enumerate(names)]
    for i, row in enumerate(rows):
        parts.append(_text(MARGIN - 15, MARGIN + (i + 0.5) * CELL + 4, names[i]))
        for j, n in enumerate(row):
            share = n / sum(row) if sum(row) else 0.0
            parts.append(_cell(i, j, share, n, RIGHT if i == j else WRONG))
    width, height = MARGIN + (k + 1) * CELL + 10, MARGIN + k * CELL + 10
    style = 'font-family="sans-serif" font-size="12" text-anchor="middle"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {style}>'
    return "\n".join([opening, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def _cell(i: int, j: int, share: float, pixels: int, color: tuple[int, int, int]) -> str:
    x, y = MARGIN + j * CELL, MARGIN + i * CELL
    shade = ",".join(str(round(255 + (c - 255) * share)) for c in color)
    shown = f"{100 * share:.1f}%" if pixels else ""
    box = f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" fill="rgb({shade})">'
    title = f"<title>{pixels} pixels</title></rect>"
    return box + title + _text(x + CELL / 2, y + CELL / 2 + 4, shown, "white" if share > 0.6 else "black")


def _text(x: float, y: float, text: str, color: str = "black") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{color}">{escape(text)}</text>'


def colored(labels: NDArray[Any]) -> RGB:
    """Labels (y, x), uint64, as colors that differ; 0 is black, void gray."""
    factors = (2654435761, 2246822519, 3266489917)
    channels = [((labels % 10007) * np.uint64(f) >> np.uint64(24)) % 200 + 55 for f in factors]
    picture = np.stack(channels, -1).astype(np.uint8)
    picture[labels == 0] = 0
    picture[labels == NOTHING] = VOID_COLOR
    return picture


def mistakes(prediction: NDArray[Any], truth: NDArray[Any], kind: str) -> RGB:
    """Red where wrong, else gray, lighter in the foreground; of ids, where insides, borders left out, differ."""
    wrong = prediction != truth if kind == "classes" else _inside(prediction) != _inside(truth)
    picture = np.repeat((40 + 60 * (truth > 0)).astype(np.uint8)[:, :, None], 3, axis=2)
    picture[wrong & (truth != NOTHING)] = (255, 70, 90)
    return picture


def _inside(ids: NDArray[Any]) -> NDArray[np.bool]:
    """True inside objects, off their borders with other objects."""
    inside = ids > 0
    inside[1:] &= ids[1:] == ids[:-1]
    inside[:, 1:] &= ids[:, 1:] == ids[:, :-1]
    return inside
