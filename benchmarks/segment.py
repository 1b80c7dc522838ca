"""What segment adds to the bare network, in CPU seconds, start-up apart; ratios within one run, medians of rounds.

(a) segment end to end (ingest, pyramid, statistics, class map, metadata) over the bare forward pass of the same tiles
    with the same allocator settings: one worker serially, and under Dask;
(b) the command as it comes, over the best known forward pass (plain concatenating U-Net, channels_last, memory reused);
(c) redundancy of the paper's network within 2 GiB of activations.

python benchmarks/overhead.py [--size 16384] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import nn

import tilekit
from models import load
from tilekit.allocator import ALLOCATOR_ENV
from tilekit.jobs.segment import Options, prepare
from tilekit.plan import GIB, ImageFacts, make_plan
from tilekit.run import available_cores

CLI = Path(sys.executable).parent / "tilekit"


class PlainUNet(nn.Module):
    """The textbook forward pass with concatenation, as the peers' best: base 16, depth 3, unpadded."""

    def __init__(self, base: int = 16, depth: int = 3) -> None:
        super().__init__()
        widths = [base * 2**i for i in range(depth + 1)]

        def block(a: int, b: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, 3), nn.ReLU(True), nn.Conv2d(b, b, 3), nn.ReLU(True))

        self.down = nn.ModuleList(block(a, b) for a, b in zip([1, *widths[:-1]], widths, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(block(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(base, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for i, block in enumerate(self.down):
            x = block(x)
            if i < len(self.up):
                skips.append(x)
                x = nn.functional.max_pool2d(x, 2)
        for up, merge in zip(self.up, self.merge, strict=True):
            x, skip = up(x), skips.pop()
            cut = (skip.shape[-1] - x.shape[-1]) // 2
            x = merge(torch.cat([skip[..., cut : cut + x.shape[-2], cut : cut + x.shape[-1]], x], 1))
        return self.head(x)


def pure(size: int, output: int, plain: bool) -> dict[str, float]:
    """CPU seconds per output megapixel of the bare forward pass that gives at least `output` pixels a side."""
    predictor = load(str(common.checkpoint(16, 3)))
    torch.set_num_threads(1)
    side = output + predictor.halo.before[0] + predictor.halo.after[0]
    network = PlainUNet().eval().to(memory_format=torch.channels_last) if plain else predictor.network
    x = torch.rand(1, 1, side, side).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        network(x)
        started = common.cpu_seconds()
        n = max(4, round(size * size / output**2 / 8))
        for _ in range(n):
            network(x)
    return {"seconds_per_megapixel": (common.cpu_seconds() - started) / (n * output**2) * 1e6}


def job(size: int, workers: int) -> dict[str, float]:
    """CPU seconds of tilekit.predict, start-up apart (a job on a small image with as many workers)."""
    predictor, source = load(str(common.checkpoint(16, 3))), common.specimen_tiff(size)
    rng = np.random.default_rng(0)
    out = common.WORK / f"overhead-{workers}.zarr"

    def measured(image: Any) -> float:
        shutil.rmtree(out, ignore_errors=True)
        started = common.cpu_seconds()
        tilekit.predict(image, predictor, out, workers=workers)
        return common.cpu_seconds() - started

    small = rng.integers(0, 255, (64, 64), dtype=np.uint8)
    measured(small)  # imports and the network, once
    start_up = measured(small)
    return {"seconds": measured(str(source)), "start_up": start_up}


def command(size: int) -> dict[str, float]:
    """CPU seconds of `tilekit segment` as it comes, start-up (a small image, as many workers) apart."""

    def measured(image: Path, *more: str) -> float:
        started = common.cpu_seconds()
        out = common.WORK / "command.zarr"
        shutil.rmtree(out, ignore_errors=True)
        subprocess.run(
            [str(CLI), "segment", str(image), str(common.checkpoint(16, 3)), str(out), *more],
            check=True,
            capture_output=True,
        )
        return common.cpu_seconds() - started

    start_up = measured(common.specimen_tiff(256), "--workers", str(available_cores()), "--block", "64")
    return {"start_up": start_up, "seconds": measured(common.specimen_tiff(size))}


def paper_redundancy() -> float:
    """Multiply-adds of the plan for the paper's network over those of one endless tile."""
    predictor = load(str(common.checkpoint(64, 4)))
    plan = make_plan(ImageFacts((), 1, (40960, 40960), 1), predictor)
    assert predictor.activation_bytes(*plan.core) <= 2 * GIB
    return plan.redundancy


def run_case(size: int, arguments: tuple[str, str, str], copies: int) -> float:
    """CPU seconds (per megapixel, for the bare network) of a case in its own process, the mean of several at once."""
    env = ALLOCATOR_ENV if arguments[0] == "pure" else None
    with ThreadPoolExecutor(copies) as pool:
        runs = [
            pool.submit(common.child, __file__, "--size", str(size), "--case", *arguments, env=env)
            for _ in range(copies)
        ]
        got = [run.result() for run in runs]
    return float(statistics.mean(g.get("seconds_per_megapixel") or g["seconds"] - g["start_up"] for g in got))


def run_all(size: int, rounds: int) -> None:
    common.specimen_tiff(size)
    predictor = load(str(common.checkpoint(16, 3)))
    plan = prepare(str(common.specimen_tiff(size)), predictor, common.WORK / "none.zarr", Options()).plan
    core = plan.core[0]
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        cases = {
            "same tiles": ("pure", str(core), "0"),
            "best known, 1024": ("pure", "1024", "1"),
            "best known, 2048": ("pure", "2048", "1"),
            "serial": ("job", "0", "0"),
            "dask 1": ("job", "1", "0"),
            "command": ("command", "0", "0"),
        }
        for name, arguments in cases.items():
            got = common.child(
                __file__,
                "--size",
                str(size),
                "--case",
                *arguments,
                env=ALLOCATOR_ENV if arguments[0] == "pure" else None,
            )
            value = got.get("seconds_per_megapixel") or (got["seconds"] - got["start_up"])
            figures.setdefault(name, []).append(value)
            print(f"  {name}: {value:.3f}", flush=True)
    middle = {name: statistics.median(values) for name, values in figures.items()}
    n_pixels = plan.n_tiles * core * core / 1e6
    forward = middle["same tiles"] * n_pixels
    best = min(middle["best known, 1024"], middle["best known, 2048"]) * size * size / 1e6
    ratios = {
        "serial": middle["serial"] / forward,
        "dask": middle["dask 1"] / forward,
        "command": middle["command"] / best,
        "redundancy": paper_redundancy(),
    }
    common.record(
        "overhead", {"size": size, "core": core, "n_tiles": plan.n_tiles, "seconds": figures, "ratios": ratios}
    )
    common.table(
        f"overhead on {size} x {size}, U-Net 16/3, core {core}, {plan.n_tiles} tiles, medians of {rounds}",
        [
            ("bare forward pass of the same tiles", f"{forward:.1f} s", ""),
            ("best known forward pass", f"{best:.1f} s", ""),
            ("(a) segment, serially", f"{middle['serial']:.1f} s = {ratios['serial']:.3f}", "goal 1.10"),
            ("(a) segment, under Dask", f"{middle['dask 1']:.1f} s = {ratios['dask']:.3f}", "goal 1.20"),
            ("(b) tilekit segment / best known", f"{middle['command']:.1f} s = {ratios['command']:.3f}", "goal 1.25"),
            ("(c) redundancy of U-Net 64/4 in 2 GiB", f"{ratios['redundancy']:.3f}", "goal 1.14"),
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", nargs=3)
    given = parser.parse_args()
    if given.case is None:
        run_all(given.size, given.rounds)
    else:
        kind, number, plain = given.case
        result = {
            "pure": lambda: pure(given.size, int(number), plain == "1"),
            "job": lambda: job(given.size, int(number)),
            "command": lambda: command(given.size),
        }[kind]()
        print(json.dumps(result))
