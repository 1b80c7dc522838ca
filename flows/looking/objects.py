"""The objects of a store for its report, from its table a part at a time: counts by class, histograms as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from math import floor, log10
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.tables import read_parts

TABLE = "tables/objects.parquet"
BINS = 40
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 170, 46, 34, 8
BAR = "#2a7ab0"
MEASURES = {
    "equivalent_diameter_um": "diameter of the disk of the same area, µm",
    "equivalent_diameter": "diameter of the disk of the same area, pixels",
    "area_um2": "area, µm²",
    "area": "area, pixels",
}
"""Columns that are drawn, and what they mean; those in pixels only where there are none in micrometers."""
MOST_CHANNELS = 3


@dataclass
class Histogram:
    """Counts of a column in BINS equal bins, on a scale of its own or (`is_log`) of its logarithm."""

    column: str
    title: str
    is_log: bool
    low: float = float("inf")
    high: float = float("-inf")
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def widen(self, values: NDArray[np.float64]) -> None:
        if values.size:
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def count(self, values: NDArray[np.float64]) -> None:
        low, high = self.limits
        self.counts += np.histogram(self._scaled(values), bins=BINS, range=(low, high))[0]

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the scale on which the bins are equal."""
        low, high = self._scaled(np.array([self.low, self.high])).tolist()
        return (low, high) if high > low else (low - 0.5, low + 0.5)

    def _scaled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log10(values) if self.is_log else values


@dataclass(frozen=True, slots=True)
class Objects:
    """What a table says of its objects."""

    count: int
    by_class: dict[int, int]
    at_edge: int
    """Those whose measures are of a part."""
    area: int
    """Pixels of all of them."""
    histograms: list[Histogram]


def survey_objects(out: Path) -> Objects | None:
    """Read the table of objects twice, one row group in memory at a time; None where there is none."""
    path = out / TABLE
    if not path.is_file():
        return None
    by_class: dict[int, int] = {}
    at_edge = area = 0
    histograms: list[Histogram] | None = None
    for part in read_parts(path):
        histograms = _histograms(list(part)) if histograms is None else histograms
        for value, n in zip(*np.unique(_array(part["class"]), return_counts=True), strict=True):
            by_class[int(value)] = by_class.get(int(value), 0) + int(n)
        at_edge, area = at_edge + int(_array(part["touches_edge"]).sum()), area + int(_array(part["area"]).sum())
        _each(histograms, part, Histogram.widen)
    drawn = [h for h in histograms or [] if h.low <= h.high]
    for part in read_parts(path):
        _each(drawn, part, Histogram.count)
    return Objects(sum(by_class.values()), by_class, at_edge, area, drawn)


def _each(histograms: list[Histogram], part: dict[str, Any], call: Callable[[Histogram, Any], None]) -> None:
    for one in histograms:
        values = _array(part[one.column]).astype(np.float64)
        call(one, values[np.isfinite(values) & ((values > 0) | (not one.is_log))])


def _histograms(columns: list[str]) -> list[Histogram]:
    chosen = [c for c in MEASURES if c in columns and f"{c}_um" not in columns and f"{c}_um2" not in columns]
    means = [c for c in columns if c.startswith("mean_")][:MOST_CHANNELS]
    names = {c: c.removeprefix("mean_") for c in means}
    titles = {**MEASURES, **{c: f"mean of {'channel ' if n.isdecimal() else ''}{n}" for c, n in names.items()}}
    return [Histogram(c, titles[c], is_log=c.startswith("area")) for c in (*chosen, *means)]


def _array(column: Any) -> NDArray[Any]:
    return np.asarray(column.to_numpy() if hasattr(column, "to_numpy") else column)


def histogram_svg(histogram: Histogram) -> str:
    """Bars with ticks below; the tallest bar's count at the left."""
    low, high = histogram.limits
    top, step = int(histogram.counts.max(initial=0)), (WIDTH - LEFT) / BINS
    room = HEIGHT - BOTTOM - TOP
    parts = []
    for i, n in enumerate(histogram.counts.tolist()):
        tall = room * n / max(top, 1)
        ends = [_value(histogram, low + (high - low) * k / BINS) for k in (i, i + 1)]
        parts.append(
            f'<rect x="{LEFT + i * step:.1f}" y="{TOP + room - tall:.1f}" width="{step - 1:.1f}" height="{tall:.1f}" '
            f'fill="{BAR}"><title>{ends[0]:.4g} to {ends[1]:.4g}: {n}</title></rect>'
        )
    base = HEIGHT - BOTTOM
    parts.append(f'<path d="M{LEFT} {TOP}V{base}H{WIDTH}" fill="none" stroke="#888"/>')
    parts += [_text(LEFT - 5, TOP + 10, f"{top:,}", "end"), _text(LEFT - 5, base, "0", "end")]
    for at, shown in _ticks(histogram, low, high):
        x = LEFT + (WIDTH - LEFT) * (at - low) / (high - low)
        parts += [f'<path d="M{x:.1f} {base}v4" stroke="#888"/>', _text(x, base + 15, shown, "middle")]
    parts.append(_text((LEFT + WIDTH) / 2, HEIGHT - 4, histogram.title, "middle"))
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 14} {HEIGHT}" role="img"'
    return f'{opening} font-family="sans-serif" font-size="11">{"".join(parts)}</svg>'


def _value(histogram: Histogram, at: float) -> float:
    return float(10**at) if histogram.is_log else at


def _ticks(histogram: Histogram, low: float, high: float) -> Iterator[tuple[float, str]]:
    """Round numbers: 1, 2 or 5 times a power of ten apart; of a logarithm 1, 2 and 5 of each power."""
    if histogram.is_log:
        values = [m * 10.0**e for e in range(floor(low), floor(high) + 1) for m in (1, 2, 5)]
        values = [v for v in values if low <= log10(v) <= high]
        for v in values[:: len(values) // 8 + 1]:
            yield log10(v), f"{v:g}"
        return
    rough = (high - low) / 6
    power = 10.0 ** floor(log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first = int(np.ceil(low / step))
    for k in range(first, int(np.floor(high / step)) + 1):
        yield k * step, f"{k * step:g}"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#333">{escape(text)}</text>'
