"""What augmentation and losses cost beside the step that they feed: CPU milliseconds of one thread.

python -m benchmarks.augment grid.png draws a grid and its truth, as they are and deformed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Row
from benchmarks.common import row as line
from models import UNet
from models.augment import Augmentation, Warp, apply, draw
from models.losses import Loss
from tilekit.allocator import keep_memory
from tilekit.box import Box

SIDE, BATCH = 348, 4
FULL = Augmentation(True, 180, 0.1, 10, 10, 3, 0.1, 0.1, 0.1, 0.1)
COLORS = np.array([[0, 0, 0], [230, 80, 40], [40, 140, 230]], np.uint8)


def milliseconds(work: Callable[[], object], n: int = 20) -> float:
    work()
    start = time.process_time()
    for _ in range(n):
        work()
    return 1000 * (time.process_time() - start) / n


def scene(n: int) -> tuple[Tensor, Tensor]:
    """A grid of lines every 24 pixels (1, n, n) float32, bright discs in half of its cells, and the discs as truth."""
    y, x = np.indices((n, n))
    radius = np.hypot(y % 48 - 24.5, x % 48 - 24.5)
    truth = np.where(radius < 15, 1 + (y // 48 + x // 48) % 2, 0).astype(np.uint8)
    grid = (y % 24 < 2) | (x % 24 < 2)
    return torch.from_numpy((0.25 * (truth > 0) + 0.7 * grid).astype(np.float32)[None]), torch.from_numpy(truth)


def patch(warp: Warp, of: tuple[Tensor, Tensor], side: int) -> tuple[Tensor, Tensor]:
    image, truth = of
    center = (len(truth) // 2,) * 2
    y, x = warp.source_box(center, side).slices
    images, ids, _ = apply([warp], [image[:, y, x]], [truth[y, x]], [torch.ones_like(truth[y, x]).float()], side)
    return images[0], ids[0]


def panel(image: Tensor, truth: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Image, truth in colors, and the truth's colors over the image, side by side (y, 3 x, 3)."""
    gray = np.repeat(np.clip(255 * image[0].numpy(), 0, 255).astype(np.uint8)[..., None], 3, -1)
    color = COLORS[truth.numpy()]
    return np.hstack((gray, color, gray // 2 + color // 2))


def draw_picture(path: Path) -> None:
    """The scene as it is, elastically deformed, and with all variations."""
    of, still = scene(1000), Augmentation()
    warps = [
        draw(a, np.random.default_rng([1, step]), SIDE)
        for step, a in enumerate((still, Augmentation(elastic=10), FULL))
    ]
    path.write_bytes(imagecodecs.png_encode(np.vstack([panel(*patch(warp, of, SIDE)) for warp in warps])))


def cost_of_augmentation() -> list[Row]:
    pixels, ids, weights = (
        torch.randn((1, 800, 800)),
        torch.zeros((800, 800), dtype=torch.uint8),
        torch.ones((800, 800)),
    )
    core, steps = Box((92, 92), (SIDE - 92, SIDE - 92)), iter(range(10**6))

    def batch(augmentation: Augmentation, core: Box | None) -> None:
        step = next(steps)
        warps = [draw(augmentation, np.random.default_rng([0, step, item]), SIDE) for item in range(BATCH)]
        whole = [warp.source_box((400, 400), SIDE).slices for warp in warps]
        part = [warp.source_box((400, 400), SIDE, core).slices for warp in warps]
        apply(
            warps, [pixels[:, y, x] for y, x in whole], [ids[s] for s in part], [weights[s] for s in part], SIDE, core
        )

    def row(name: str, augmentation: Augmentation, core: Box | None) -> Row:
        used = milliseconds(lambda: batch(augmentation, core))
        return line(f"{BATCH} patches of {SIDE}², {name}", used, "ms", goal="≤ 60")

    return [
        row("flips", Augmentation(flip=True), None),
        row("elastic, rotated, scaled", Augmentation(True, 180, 0.1, 10, 10), None),
        row("all variations", FULL, None),
        row("all variations, labels of the core", FULL, core),
    ]


def cost_of_losses() -> list[Row]:
    network, x = UNet(base=16, depth=4).to(memory_format=torch.channels_last), torch.randn((BATCH, 1, SIDE, SIDE))
    logits = network(x).detach().requires_grad_()
    truth, weights = torch.randint(0, 2, (BATCH, *logits.shape[2:])), torch.ones((BATCH, *logits.shape[2:]))

    def step(loss: Loss, x: Tensor) -> None:
        numerators = loss.numerators(x, truth, weights)
        loss.total(numerators, loss.denominators(truth, weights, 2)).backward()  # type: ignore[no-untyped-call]

    def whole() -> None:
        step(Loss(), network(x))

    mixes = {"cross entropy": Loss(), "with Dice and focal": Loss(1, 1, 1)}
    rows = [
        line(f"loss and gradient, {BATCH} x {SIDE - 184}², {name}", milliseconds(lambda m=m: step(m, logits)), "ms")  # type: ignore[misc]
        for name, m in mixes.items()
    ]
    return [*rows, line("loss and a U-Net of base 16, depth 4: forward and backward", milliseconds(whole, 5), "ms")]


def measure(quick: bool = False) -> list[Row]:
    """Both, in this process."""
    torch.set_num_threads(1)
    keep_memory()
    return [*cost_of_augmentation(), *([] if quick else cost_of_losses())]


if __name__ == "__main__":
    draw_picture(Path(sys.argv[1]))
