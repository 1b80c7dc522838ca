"""What segment adds to the bare network, start-up apart: over the forward passes of its own tiles, and over the best.

U-Net 16/3 on a tiled TIFF (uint8), CPU seconds, medians of rounds in turn; ratios are taken within a round. Everything
is in it: ingest, pyramids, statistics, class map, metadata. All passes keep their memory, one thread each.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, forward
from benchmarks.common import Row, case, row, say
from tilekit.allocator import ALLOCATOR_ENV

BASE, DEPTH = 16, 3


def plan_of(size: int) -> dict[str, Any]:
    """Tiles of the job, and the redundancy of the paper's network within the memory that a plan allows."""
    from models import load
    from tilekit.jobs.segment import Options, prepare
    from tilekit.plan import ImageFacts, make_plan

    predictor = load(str(common.checkpoint(BASE, DEPTH)))
    plan = prepare(str(common.specimen_tiff(size)), predictor, common.WORK / "none.zarr", Options()).plan
    paper = make_plan(ImageFacts((), 1, (40960, 40960), 1), load(str(common.checkpoint(64, 4))))
    return {"core": list(plan.core), "n_tiles": plan.n_tiles, "redundancy": plan.redundancy, "paper": paper.redundancy}


def tiles(core: list[int], n_tiles: int, share: float = 0.25) -> dict[str, float]:
    """CPU seconds of the forward passes of all tiles, from a share of them: the limit."""
    import torch

    from models import load

    predictor = load(str(common.checkpoint(BASE, DEPTH)))
    network = predictor.network
    torch.set_num_threads(1)
    sides = [n + b + a for n, b, a in zip(core, predictor.halo.before, predictor.halo.after, strict=True)]
    x = torch.rand(1, 1, *sides).contiguous(memory_format=torch.channels_last)
    n = max(2, round(n_tiles * share))
    with torch.inference_mode():
        network(x)
        seconds = common.timed(lambda: [network(x) for _ in range(n)])
    return {"seconds": seconds / n * n_tiles}


def job(size: int, workers: int) -> dict[str, float]:
    """CPU seconds of tilekit.predict, start-up apart (a job on a small image with as many workers)."""
    import tilekit
    from models import load

    predictor, source = load(str(common.checkpoint(BASE, DEPTH))), common.specimen_tiff(size)
    out = common.WORK / f"segment-{workers}.zarr"

    def measured(image: Any) -> float:
        shutil.rmtree(out, ignore_errors=True)
        return common.timed(lambda: tilekit.predict(image, predictor, out, workers=workers))

    small = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    measured(small)  # imports and the network, once
    start = measured(small)
    seconds = measured(str(source)) - start
    shutil.rmtree(out)
    return {"seconds": seconds, "start": start, "peak": common.high_water()}


def command(size: int) -> dict[str, float]:
    """CPU seconds of `tilekit segment` as it comes, start-up (a small image, as many workers) apart."""
    from tilekit.run import available_cores

    def measured(image: Path, *more: str) -> float:
        out = common.WORK / "command.zarr"
        shutil.rmtree(out, ignore_errors=True)
        line = common.tilekit("segment", image, common.checkpoint(BASE, DEPTH), out, *more)
        return common.timed(lambda: subprocess.run(line, check=True, capture_output=True))

    start = measured(common.specimen_tiff(256), "--workers", str(available_cores()), "--block", "64")
    return {"seconds": measured(common.specimen_tiff(size)) - start, "start": start}


def measure(quick: bool = False) -> list[Row]:
    """Rounds of: the tiles alone, the best known pass, segment serially, with one Dask worker, as a command."""
    size, rounds = (2048, 1) if quick else (16_384, 2)
    plan = case(plan_of, size=size)
    tiled = {"core": plan["core"], "n_tiles": plan["n_tiles"]}
    megapixels = size**2 / 1e6
    found: dict[str, list[float]] = {}
    peaks = []
    for _ in range(rounds):
        serial = case(job, size=size, workers=0)
        dask = case(job, size=size, workers=1)
        known = {
            "tiles": case(tiles, env=ALLOCATOR_ENV, **tiled)["seconds"],
            "serial": serial["seconds"],
            "dask": dask["seconds"],
            "best": megapixels * min(
                case(forward.rate, env=ALLOCATOR_ENV, core=core, how="textbook", megapixels=megapixels / 8)["cpu"]
                for core in (1024, 2048)
            ),
            "command": case(command, size=size)["seconds"],
        }  # fmt: skip
        for name, limit in (("serial", "tiles"), ("dask", "tiles"), ("command", "best")):
            known[f"{name} over {limit}"] = known[name] / known[limit]
        for name, value in known.items():
            found.setdefault(name, []).append(value)
        peaks.append(serial["peak"])
        say(" ".join(f"{name} {value:.2f}" for name, value in known.items()))
    m = {name: statistics.median(values) for name, values in found.items()}
    core = " x ".join(map(str, plan["core"]))
    return [
        row(f"{size}², forward passes of its {plan['n_tiles']} tiles, core {core}", m["tiles"], "s"),
        row(f"{size}², in one process", m["serial"], "s", limit=m["tiles"], ratio=m["serial over tiles"],
            goal="≤ 1.05 x", job="segment", **{"Mpx/s": megapixels / m["serial"], "peak MiB": max(peaks)}),
        row(f"{size}², with one Dask worker", m["dask"], "s", limit=m["tiles"], ratio=m["dask over tiles"],
            goal="≤ 1.10 x", **{"Mpx/s": megapixels / m["dask"]}),
        row(f"{size}², best known forward pass (textbook network)", m["best"], "s"),
        row(f"{size}², the command as it comes", m["command"], "s", limit=m["best"], ratio=m["command over best"],
            goal="≤ 1.25 x", **{"Mpx/s": megapixels / m["command"]}),
        row("redundancy of its tiles", plan["redundancy"], ""),
        row("redundancy of the paper's network", plan["paper"], "", goal="≤ 1.14"),
    ]  # fmt: skip
