"""The network alone: the forward pass that all else is divided by, against tile, precision, threads, layout, memory.

CPU seconds per megapixel of core, medians of rounds in turn; `GFLOP/s` counts two operations per multiply-add, the
halo's too. One thread, channels_last and memory kept by the allocator unless a row says otherwise.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from benchmarks.common import CaseError, Row, case, cpu_seconds, high_water, note, row, say
from tilekit.allocator import ALLOCATOR_ENV


def rate(
    core: int,
    base: int = 16,
    depth: int = 3,
    precision: str = "float32",
    layout: str = "channels_last",
    threads: int = 1,
    batch: int = 1,
    how: str = "eager",
    megapixels: float = 4,
) -> dict[str, float]:
    """The forward pass of cores of this side; `how`: eager, compiled, or textbook (concatenating, benchmarks.plain)."""
    import torch

    from benchmarks.plain import PlainUNet
    from models import UNet, receptive

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    network = UNet(base=base, depth=depth).eval().requires_grad_(False)  # load() would keep memory by itself
    layers = network.architecture.layers
    reach = receptive.reach(layers)
    side = core + reach.before + reach.after
    run: Any = PlainUNet(base, depth).eval().requires_grad_(False) if how == "textbook" else network
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    order = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    run = run.to(dtype=dtype, memory_format=order)
    x = torch.rand(batch, 1, side, side, dtype=dtype).contiguous(memory_format=order)
    run = torch.compile(run, dynamic=False) if how == "compiled" else run
    n = max(2, round(megapixels * 1e6 / (batch * core**2)))
    with torch.inference_mode():
        started = time.perf_counter()
        run(x)
        first = time.perf_counter() - started
        run(x)
        cpu, wall = cpu_seconds(), time.perf_counter()
        for _ in range(n):
            run(x)
        cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    done = n * batch * core**2 / 1e6
    gflop = 2 * receptive.multiply_adds(layers, (side, side)) * batch * n / 1e9
    return {"cpu": cpu / done, "wall": wall / done, "first": first, "gflops": gflop / cpu, "peak": high_water()}


def matmul(precision: str) -> float:
    """GFLOP/s of one core at multiplying matrices of 2,048 x 2,048."""
    import torch

    torch.set_num_threads(1)
    x = torch.rand(2048, 2048).to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
    times = []
    for _ in range(4):
        cpu = cpu_seconds()
        x @ x
        times.append(cpu_seconds() - cpu)
    return 2 * 2048**3 / 1e9 / statistics.median(times[1:])


CASES: dict[str, dict[str, Any]] = {
    **{f"16/3, core {n}": {"core": n} for n in (128, 256, 512, 1024, 2048)},
    **{f"16/3, core {n}, bfloat16": {"core": n, "precision": "bfloat16"} for n in (512, 2048)},
    "16/3, core 1024, contiguous layout": {"core": 1024, "layout": "contiguous"},
    "16/3, core 1024, memory given back (glibc's default)": {"core": 1024, "kept": False},
    "16/3, core 1024, 2 threads": {"core": 1024, "threads": 2},
    "16/3, core 512, batch 4": {"core": 512, "batch": 4},
    "16/3, core 1024, textbook U-Net (concatenates)": {"core": 1024, "how": "textbook"},
    "16/3, core 1024, compiled": {"core": 1024, "how": "compiled"},
    "64/4 (the paper's), core 512": {"core": 512, "base": 64, "depth": 4, "megapixels": 0.5},
    "64/4 (the paper's), core 1024": {"core": 1024, "base": 64, "depth": 4, "megapixels": 2},
    "64/4 (the paper's), core 1024, bfloat16": {
        "core": 1024, "base": 64, "depth": 4, "precision": "bfloat16", "megapixels": 2
    },
}  # fmt: skip
QUICK = {**{f"16/3, core {n}": {"core": n, "megapixels": 0.3} for n in (128, 512)},
         "16/3, core 512, bfloat16": {"core": 512, "precision": "bfloat16", "megapixels": 0.3}}  # fmt: skip


def measure(quick: bool = False) -> list[Row]:
    """A row for each case; the limit is the same network's cheapest float32 pass."""
    cases, rounds = (QUICK, 1) if quick else (CASES, 2)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    failed = {}
    for _ in range(rounds):
        for name, asked in cases.items():
            options = {k: v for k, v in asked.items() if k != "kept"}
            env = ALLOCATOR_ENV if asked.get("kept", True) else None
            try:
                found[name].append(case(rate, env=env, timeout=300, **options))
            except CaseError as error:  # a machine without a compiler
                failed[name] = error
        say("forward: a round")
    middle = {name: {k: float(np.median([r[k] for r in rs])) for k in rs[0]} for name, rs in found.items() if rs}
    best = {net: min(m["cpu"] for name, m in middle.items() if name.startswith(net) and "bfloat16" not in name)
            for net in {name.split(",")[0] for name in middle}}  # fmt: skip
    rows = [
        row(name, m["cpu"], "s/Mpx", limit=best[name.split(",")[0]], **{"Mpx/s wall": 1 / m["wall"],
            "GFLOP/s": m["gflops"], "first call s": m["first"], "peak MiB": m["peak"]})
        for name, m in middle.items()
    ]  # fmt: skip
    rows += [
        row(f"matrices of 2,048², {precision}", case(matmul, precision=precision), "GFLOP/s")
        for precision in ("float32", "bfloat16")
    ]
    return [*rows, *(note(f"{name}: left out; {error}") for name, error in failed.items())]
