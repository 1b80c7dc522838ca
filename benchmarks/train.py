"""What a step of training costs on a CPU: forward, loss, backward and AdamW, in CPU seconds per megapixel of output.

python benchmarks/train_step.py [--base 16] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import product

import common
import torch

from models import UNet
from models.losses import Loss
from models.receptive import admits
from tilekit.allocator import keep_memory

CUT = {3: 88, 4: 184}
"""Pixels of the input's side that an unpadded U-Net of this depth loses."""


def seconds(network: UNet, batch: int, side: int, *, last: bool, bfloat16: bool, steps: int = 4) -> tuple[float, float]:
    """Medians of (CPU, wall) seconds of a step, the first apart."""
    order = torch.channels_last if last else torch.contiguous_format
    network.to(memory_format=order)  # type: ignore[call-overload]
    x = torch.randn((batch, 1, side, side)).contiguous(memory_format=order)
    optimizer, loss, times = torch.optim.AdamW(network.parameters()), Loss(), []
    for _ in range(steps + 1):
        start = time.process_time(), time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = network(x)
        truth, weights = torch.zeros_like(logits[:, 0], dtype=torch.uint8), torch.ones_like(logits[:, 0])
        loss.total(loss.numerators(logits, truth, weights), loss.denominators(truth, weights, 2)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        times.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    cpu, wall = (statistics.median(column) for column in zip(*times[1:], strict=True))
    return cpu, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_memory()
    rows = []
    for depth, (batch, core) in product(CUT, ((1, 128), (4, 128), (1, 256), (4, 256), (1, 384))):
        network = UNet(base=given.base, depth=depth, batch_norm=True)
        side = next(n for n in range(core + CUT[depth], core + 400) if admits(network.architecture.layers, n))
        core = side - CUT[depth]
        for last, bfloat16 in ((False, False), (True, False), (True, True)):
            cpu, wall = (
                s / (batch * core**2 / 1e6) for s in seconds(network, batch, side, last=last, bfloat16=bfloat16)
            )
            how = ("channels_last" if last else "contiguous") + (", bfloat16" if bfloat16 else "")
            rows.append((f"depth {depth}, {batch} x {core}², {how}", f"{cpu:.2f} CPU, {wall:.2f} wall", "s per Mpx"))
    common.table(f"U-Net of base {given.base}, batch norm, {given.threads} threads", rows)


if __name__ == "__main__":
    main()
