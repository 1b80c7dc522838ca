"""What a dense map of a patch classifier costs, four ways that give the same scores (models.dense), on one CPU core."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.common import Row, note, row
from models.dense import a_trous, convolutionalize, shift_and_stitch, sliding_window, total_step

PATCH = (64, 64)


def classifier() -> nn.Sequential:
    """Three poolings, 16 to 64 channels, two fully connected layers, 2 classes."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 36, 128), nn.ReLU(),
        nn.Linear(128, 2),
    ).eval()  # fmt: skip


def timed(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """CPU seconds of the second call, and what it gives; of the first where that takes long."""
    start = time.process_time()
    found = function()
    seconds = time.process_time() - start
    if seconds < 10:
        start = time.process_time()
        found = function()
        seconds = time.process_time() - start
    return seconds, found


def measure(quick: bool = False) -> list[Row]:
    """Four ways, in this process."""
    side = 96 if quick else 192
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, image = classifier(), torch.rand(1, 1, side, side)
    dense = convolutionalize(net, PATCH)
    factor, holes = total_step(dense), a_trous(dense)
    ways: dict[str, Callable[[], Tensor]] = {
        "patch by patch": lambda: sliding_window(net, image, PATCH),
        "shift and stitch": lambda: shift_and_stitch(dense, factor, image),
        "à trous": lambda: holes(image),
        f"convolutionalized, each {factor}th pixel": lambda: dense(image),
    }
    with torch.inference_mode():
        found = {name: timed(way) for name, way in ways.items()}
    slowest, wanted = found["patch by patch"]
    rows = []
    for name, (seconds, scores) in found.items():
        like = wanted if scores.shape == wanted.shape else wanted[:, :, ::factor, ::factor]
        away = float((scores - like).abs().max())
        rows.append(
            row(name, seconds, "s", **{"times as fast": slowest / seconds, "largest difference": f"{away:.1e}"})
        )
    n = wanted.shape[2] * wanted.shape[3]
    return [*rows, note(f"Patches of {PATCH[0]} x {PATCH[1]} in {side} x {side} pixels: {n:,} scores.")]
