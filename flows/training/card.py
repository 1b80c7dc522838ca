"""The model's card: a Markdown page beside the checkpoint that says what it is, what it saw, and how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.overlay import COLORS, side_by_side
from flows.training.samples import ImageSample
from flows.training.scoring import Scored
from models.predictor import load_checkpoint
from tilekit import __version__
from tilekit.box import Box
from tilekit.jobs.predict import CLASSES
from tilekit.ledger import write_atomic
from tilekit.store import read_region

CARD = "card.md"
SIDE = 512
"""Largest side in pixels of a sample overlay."""
SHOWN = ("miou", "iou", "pixel_accuracy", "dice", "seg", "ap", "ap_by_image", "f1", "panoptic_quality", "rand_isbi2012",
         "v_rand_thin", "pixel_error")  # fmt: skip


def draw_overlays(folder: Path, samples: Sequence[ImageSample], stores: Sequence[Path], n: int) -> list[Path]:
    """Pictures image | classes | mistakes of the first n samples: the middle of each, at most SIDE pixels a side."""
    drawn: list[Path] = []
    for sample, store in list(zip(samples, stores, strict=True))[:n]:
        start = [a + max(0, (b - a - SIDE) // 2) for a, b in zip(sample.box.start, sample.box.stop, strict=True)]
        stop = [min(a + SIDE, b) for a, b in zip(start, sample.box.stop, strict=True)]
        box = Box((start[0], start[1]), (stop[0], stop[1]))
        classes = read_region(store / CLASSES / "0", box.slices).astype(np.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        drawn.append(folder / f"{len(drawn):02d}.png")
        side_by_side(_shown(sample.read(box)), classes, sample.truth(box), drawn[-1], colors=COLORS)
    return drawn


def _shown(pixels: NDArray[Any]) -> NDArray[Any]:
    """Three channels in color, else the first in grey: (y, x, 3) or (y, x)."""
    return np.moveaxis(pixels, 0, -1) if len(pixels) == 3 else pixels[0]


def write_card(
    folder: Path,
    model: Path,
    *,
    title: str,
    data: dict[str, Any],
    recipe: dict[str, Any],
    scores: dict[str, Scored],
    curves: Sequence[Path],
    overlays: Sequence[Path],
    seconds: float,
) -> Path:
    """Write card.md: the network, its data and split, recipe, curves, scores by part, and sample overlays."""
    p = load_checkpoint(model)
    rows = {
        "network": f"{p.header.architecture}, {_settings(p.header.config.as_dict())}",
        "classes": ", ".join(f"{k} {name}" for k, name in enumerate(p.class_names)),
        "halo and stride": f"{p.halo.before[0]} before, {p.halo.after[0]} after; {p.stride[0]}",
        "normalization": _settings(p.header.normalization.as_dict()),
        "thresholds": ", ".join(map(str, p.header.thresholds)) or "none: the likeliest class",
        "pixel size": f"{p.pixel_size[0]:g} x {p.pixel_size[1]:g} µm" if p.pixel_size else "unknown",
        "digest": p.digest,
        "made": f"{datetime.now(UTC):%Y-%m-%d}, tilekit {__version__}, {seconds / 60:.0f} minutes",
    }
    parts = [
        f"# {title}",
        "Trained by `tilekit train`. Use it with `tilekit segment IMAGE model.safetensors OUT.zarr`.",
        _table(("", ""), rows.items()),
        "## Data",
        _table(("", ""), data.items()),
        "## Recipe",
        _table(("", ""), recipe.items()),
        "## Scores",
        *(f"{name}, {len(scored.images)} images\n\n{_scores(scored)}" for name, scored in scores.items()),
        "Definitions: tilekit's docs/scores.md. Scores of validation images chose the network and its thresholds, so "
        "they are a little too good; those of test images are not.",
    ]
    for heading, pictures in (("## Curves", [c for c in curves if c.suffix == ".png"]), ("## Samples", overlays)):
        if pictures:
            parts += [heading, *(f"![{path.stem}]({path.relative_to(folder).as_posix()})" for path in pictures)]
    if overlays:
        parts.append("image | classes | mistakes: missed in red, wrongly there in yellow")
    write_atomic(folder / CARD, "\n\n".join(parts) + "\n")
    return folder / CARD


def _scores(scored: Scored) -> str:
    return _table(("score", "value"), [(k, _rounded(scored.pooled[k])) for k in SHOWN if k in scored.pooled])


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_rounded(value)}" for key, value in values.items())


def _rounded(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_rounded, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(head: tuple[str, str], rows: Any) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {key} | {_rounded(value)} |" for key, value in rows)])
