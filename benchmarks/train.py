"""Training on one CPU core: what a step costs (forward, loss, backward, AdamW), and the whole loop over bare steps.

CPU seconds per megapixel of output of an unpadded U-Net of base 16 with batch norm. The loop, with reading, elastic
deformation and all else that `tilekit train` does by default, is the difference of a long and a short training, per
step; its limit is the same step on random numbers.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import WORK, Row, case, high_water, row, timed

BASE, DEPTH, BATCH, SIDE, CUT = 16, 3, 4, 128, {3: 88, 4: 184}
"""CUT: pixels of the input's side that an unpadded U-Net of this depth loses."""
CONFIG = """[data]
images = "pairs.csv"
kind = "classes"
[split]
by = "column"
[weights]
kind = "none"
[network]
base = {base}
depth = {depth}
dropout = 0.0
[patches]
side = {side}
batch = {batch}
[training]
steps = {steps}
[validation]
every = {steps}
tune = false
overlays = 0
[output]
folder = "model-{steps}"
"""


def one_core() -> None:
    """Threads that share a core wait for each other: CPU seconds are counted on one."""
    import torch

    from tilekit.allocator import keep_memory

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    keep_memory()


def steps(depth: int, shapes: list[list[int]], ways: list[list[Any]], n: int = 3) -> list[float]:
    """CPU seconds per megapixel of output of each shape (batch, core) in each way (layout, precision)."""
    import torch

    from models import UNet
    from models.losses import Loss
    from models.receptive import admits

    one_core()
    found = []
    for (batch, wanted), (layout, precision) in product(shapes, ways):
        network = UNet(base=BASE, depth=depth, batch_norm=True)
        side = next(n for n in range(wanted + CUT[depth], wanted + 400) if admits(network.architecture.layers, n))
        order = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        network.to(memory_format=order)  # type: ignore[call-overload]
        x = torch.randn((batch, 1, side, side)).contiguous(memory_format=order)
        optimizer, loss = torch.optim.AdamW(network.parameters()), Loss()

        def step() -> None:
            optimizer.zero_grad()  # noqa: B023
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):  # noqa: B023
                logits = network(x)  # noqa: B023
            truth, weights = torch.zeros_like(logits[:, 0], dtype=torch.uint8), torch.ones_like(logits[:, 0])
            loss.total(loss.numerators(logits, truth, weights), loss.denominators(truth, weights, 2)).backward()  # type: ignore[no-untyped-call]  # noqa: B023
            optimizer.step()  # noqa: B023

        step()
        seconds = statistics.median(timed(step) for _ in range(n))
        found.append(seconds / (batch * (side - CUT[depth]) ** 2 / 1e6))
    return found


def loop(short: int, long: int) -> dict[str, float]:
    """CPU seconds per step of a whole training, and the process's peak memory."""
    import tifffile

    from flows.training.run import Options, train_file
    from tilekit.box import Box
    from tilekit.specimen import Specimen

    one_core()
    folder = Path(tempfile.mkdtemp(dir=WORK, prefix="train-"))
    lines = ["image,truth,part"]
    for part, side, seed in (("train", 1024, 1), ("validation", 256, 2)):
        box, specimen = Box((0, 0), (side, side)), Specimen(side, seed)
        tifffile.imwrite(folder / f"{part}.tif", specimen.read(box))
        tifffile.imwrite(folder / f"{part}-truth.tif", (specimen.truth(box) > 0).astype(np.uint8))
        lines.append(f"{part}.tif,{part}-truth.tif,{part}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")

    def train(n: int) -> None:
        config = folder / f"{n}.toml"
        config.write_text(CONFIG.format(base=BASE, depth=DEPTH, side=SIDE, batch=BATCH, steps=n))
        train_file(config, Options(overwrite=True))

    train(2)  # imports and compiled loops
    first, second = timed(lambda: train(short)), timed(lambda: train(long))
    shutil.rmtree(folder)
    return {"step": (second - first) / (long - short), "peak": high_water()}


def measure(quick: bool = False) -> list[Row]:
    """The loop, then steps of several sizes."""
    bare = case(steps, depth=DEPTH, shapes=[[BATCH, SIDE]], ways=[["channels_last", "float32"]], n=5)[0]
    found = case(loop, **({"short": 2, "long": 5} if quick else {"short": 5, "long": 45}))
    megapixels = BATCH * SIDE**2 / 1e6
    cpu = found["step"] / megapixels
    more = {"Mpx/s": 1 / cpu, "peak MiB": found["peak"]}
    rows = [row(f"tilekit train, depth {DEPTH}, {BATCH} x {SIDE}²", cpu, "s/Mpx", limit=bare, job="train", **more)]
    ways = [["contiguous", "float32"], ["channels_last", "float32"], ["channels_last", "bfloat16"]]
    shapes = [[1, 128], [4, 128], [1, 256], [4, 256], [1, 384]]
    for depth in (3,) if quick else CUT:
        chosen = shapes[:1] if quick else shapes
        costs = iter(case(steps, depth=depth, shapes=chosen, ways=ways))
        rows += [
            row(f"step: depth {depth}, {batch} x {core}², {layout}, {precision}", next(costs), "s/Mpx")
            for (batch, core), (layout, precision) in product(chosen, ways)
        ]
    return rows
