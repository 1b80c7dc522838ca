"""On a GPU: the paper's U-Net in bfloat16, its forward rate over the chip's matrix rate, and Zarr to Zarr over both.

Wall seconds, for a chip has one queue. Measured in turn: multiplying matrices in bfloat16; the forward pass of one tile
in channels_last, eager, compiled, compiled with graphs; tilekit.predict from Zarr to Zarr with a worker per device; and
what it does beside the network, each alone on one block: decode, transfer, encode. Then how often bfloat16 and float32
choose different classes, and how far apart the two likeliest are there.

python -m benchmarks.gpu --device cpu runs all of it on a tiny network, to show that it runs; without CUDA the benchmark
says so and ends.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.common import CaseError, Row, case, note, row, say
from benchmarks.page import table

TARGET_PIXELS, TARGET_HOURS = 1e12, 2.0
NEAR_TIE = 0.05
"""Probabilities of the two likeliest classes, in float32, that are less apart than this: a near tie."""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how much of it."""

    device: str = "cuda"
    base: int = 64
    depth: int = 4
    size: int = 65_536
    """Side of the image from Zarr to Zarr: 4.3·10^9 pixels."""
    cores: tuple[int, ...] = (1024, 2048, 4096)
    matrix: int = 8192
    repeats: int = 20
    agreement: int = 8192
    """Side of the image on which classes are compared."""


TINY = Setting("cpu", 2, 1, 1024, (128,), 512, 2, 512)


def _setting(given: dict[str, Any]) -> Setting:
    return Setting(**{**given, "cores": tuple(given["cores"])})


def _wait(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], device: str, repeats: int) -> float:
    """Wall seconds of one call, after two, the device's queue emptied before and after."""
    work()
    work()
    _wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    _wait(device)
    return (time.perf_counter() - started) / repeats


def matrix_rate(setting: dict[str, Any]) -> float:
    """TFLOP/s of multiplying square matrices in bfloat16: the chip's measured rate."""
    import torch

    s = _setting(setting)
    a, b = torch.randn(2, s.matrix, s.matrix, device=s.device, dtype=torch.bfloat16)
    return 2 * s.matrix**3 / seconds(lambda: a @ b, s.device, s.repeats) / 1e12


def forward_rate(setting: dict[str, Any], core: int, how: str) -> dict[str, float]:
    """Mpx/s and TFLOP/s of one tile at a time in bfloat16, channels_last; how: eager, compiled, or graphs."""
    import torch

    from models import load

    s = _setting(setting)
    torch.backends.cudnn.benchmark = True
    predictor = load(str(common.checkpoint(s.base, s.depth)), device=s.device, precision="bfloat16")
    network, halo = predictor.network, predictor.halo
    side = halo.before[0] + core + halo.after[0]
    x = torch.randn(1, 1, side, side, device=s.device, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    modes = {"compiled": "default", "graphs": "max-autotune"}
    run: Any = torch.compile(network, mode=modes[how], dynamic=False) if how in modes else network
    started = time.perf_counter()
    with torch.inference_mode():
        run(x)
        _wait(s.device)
        first = time.perf_counter() - started
        used = seconds(lambda: run(x), s.device, s.repeats)
    peak = torch.cuda.max_memory_allocated() / common.MIB if s.device.startswith("cuda") else common.high_water()
    operations = 2 * predictor.multiply_adds(core, core)
    return {"mpx": core**2 / used / 1e6, "tflops": operations / used / 1e12, "first": first, "peak": peak}


def image(size: int) -> Path:
    """A specimen's pixels as Zarr, 4096 of them a side repeated, made once."""
    from tilekit.box import Box
    from tilekit.specimen import Specimen

    return common.repeated_store("pixels", size, Specimen(common.SIDE).read(Box((0, 0), (common.SIDE, common.SIDE))))


def end_to_end(setting: dict[str, Any], workers: int) -> dict[str, float]:
    """Wall seconds of predicting an image that tilekit has ingested, after a small one that opens the network."""
    import tilekit
    from models import load

    s = _setting(setting)
    predictor = load(str(common.checkpoint(s.base, s.depth)), device=s.device, precision="bfloat16")
    out = common.WORK / "gpu.zarr"
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    tilekit.ingest(str(image(s.size)), out)
    ingest = time.perf_counter() - started
    small = common.WORK / "gpu-small.zarr"
    shutil.rmtree(small, ignore_errors=True)

    def start() -> float:
        began = time.perf_counter()
        tilekit.predict(np.zeros((512, 512), np.uint8), predictor, small, workers=workers, overwrite=True)
        return time.perf_counter() - began

    start()
    began, start_up = time.perf_counter(), start()
    began = time.perf_counter()
    tilekit.predict(str(out), predictor, out, workers=workers)
    used = time.perf_counter() - began - start_up
    for path in (out, small):
        shutil.rmtree(path)
    return {"seconds": used, "ingest": ingest, "start": start_up, "peak": common.high_water()}


def rest(setting: dict[str, Any]) -> dict[str, float]:
    """Wall seconds of what one block takes beside the network, each alone, per megapixel: medians of five."""
    import torch

    from tilekit import open_image
    from tilekit.pyramid import halve_labels
    from tilekit.store import write_region
    from tilekit.tiling import plan_pyramid

    s = _setting(setting)
    source, side = open_image(str(image(s.size))), min(s.size, common.SIDE)
    box = [(0, side), (0, side)]
    pixels = source.read(box)
    there = torch.from_numpy(pixels).to(s.device)
    classes = (pixels > pixels.mean()).astype(np.uint8)
    levels, _ = plan_pyramid((side, side), side, sharded=True)
    halved = [classes]
    while len(halved) < len(levels):
        halved.append(halve_labels(halved[-1]))

    def encode() -> None:
        for level, part in zip(levels, halved, strict=True):
            write_region(common.WORK, "gpu-parts.zarr", level, "0.5", [slice(0, n) for n in part.shape], part)

    works: dict[str, Callable[[], Any]] = {
        "decode": lambda: source.read(box),
        "transfer to the device": lambda: torch.from_numpy(pixels).to(s.device),
        "transfer of classes back": lambda: there.cpu(),
        "halving": lambda: [halve_labels(part) for part in halved[:-1]],
        "encode and write": encode,
    }
    found = {}
    for name, work in works.items():
        found[name] = statistics.median(seconds(work, s.device, 1) for _ in range(5)) / (side**2 / 1e6)
    shutil.rmtree(common.WORK / "gpu-parts.zarr")
    return found


def agreement(setting: dict[str, Any], model: str | None = None) -> dict[str, float]:
    """Classes in bfloat16 against float32, tile by tile, and how far apart the likeliest two are where they differ."""
    from models import load

    s = _setting(setting)
    path = model or str(Path(__file__).parents[1] / "flows" / "data" / "specimen.safetensors")
    exact, fast = (load(path, device=s.device, precision=p) for p in ("float32", "bfloat16"))  # type: ignore[arg-type]
    from tilekit.box import Box
    from tilekit.specimen import Specimen

    before, after, core = exact.halo.before[0], exact.halo.after[0], min(1024, s.agreement)
    specimen = Specimen(s.agreement + before + after)
    differing, near, apart, pixels = 0, 0, 0.0, 0
    for top in range(0, s.agreement, core):
        for left in range(0, s.agreement, core):
            sides = (core + before + after,) * 2
            x = specimen.read(Box((top, left), (top + sides[0], left + sides[1])))[None, None]
            p, classes = exact.probabilities(x), fast.classes(x)
            two = np.partition(p, -2, axis=1)
            margin = (two[:, -1] - two[:, -2])[classes != exact.classes(x)]
            pixels += classes.size
            differing += margin.size
            near += int((margin < NEAR_TIE).sum())
            apart = max(apart, float(margin.max(initial=0)))
    return {"pixels": pixels, "differing": differing, "near": near, "apart": apart}


def rows_of(setting: Setting) -> list[Row]:
    """All of it."""
    given = asdict(setting)
    chip = case(matrix_rate, setting=given)
    rows = [row(f"matrices of {setting.matrix}², bfloat16", chip, "TFLOP/s")]
    best, best_name = 0.0, ""
    net = f"U-Net {setting.base}-{setting.base << setting.depth}"
    for core in setting.cores:
        for how in ("eager", "compiled", "graphs"):
            try:
                found = case(forward_rate, timeout=400, setting=given, core=core, how=how)
            except CaseError as error:  # out of memory, or no compiler
                rows.append(note(f"core {core}, {how}: left out; {error}"))
                continue
            more = {"Mpx/s": found["mpx"], "first call s": found["first"], "peak MiB": found["peak"]}
            share = found["tflops"] / chip
            rows.append(row(f"{net}, core {core}, {how}", found["tflops"], "TFLOP/s", limit=chip, ratio=share, **more))
            if found["mpx"] > best:
                best, best_name, best_share = found["mpx"], f"core {core}, {how}", share
            say(f"core {core}, {how}: {found}")
    rows.append(row(f"best forward rate ({best_name}), of the chip's", best, "Mpx/s", ratio=best_share, goal="≥ 0.4 x"))
    megapixels = setting.size**2 / 1e6
    for workers in (0, 1):
        found = case(end_to_end, timeout=1500, setting=given, workers=workers)
        rate = megapixels / found["seconds"]
        hours = TARGET_PIXELS / 1e6 / rate / 3600
        more = {"Mpx/s": rate, "ingest Mpx/s": megapixels / found["ingest"], "start-up s": found["start"]}
        how = "in one process" if workers == 0 else "with one worker"
        rows.append(row(f"{setting.size}² Zarr to Zarr, {how}", rate, "Mpx/s", limit=best, goal="≥ 0.9 x", **more))
        rows.append(row(f"10^12 pixels at that rate, {how} (extrapolated)", hours, "h", goal=f"≤ {TARGET_HOURS:g}"))
        say(f"{workers} workers: {found}")
    for name, used in case(rest, setting=given).items():
        rows.append(row(f"beside the network, one thread: {name}", used * best, "of its time"))
    found = case(agreement, timeout=900, setting=given)
    share = 100 * found["differing"] / found["pixels"]
    margin = {"largest margin there": found["apart"]}
    rows.append(row(f"classes other than float32's, of {found['pixels']:,}", share, "%", goal="≤ 0.01", **margin))
    if found["differing"]:
        rows.append(row(f"of those that differ: margin below {NEAR_TIE}", found["near"] / found["differing"], ""))
    return rows


def cuda_is_there() -> bool:
    """Asked in a process of its own, which must not hold the device."""
    import torch

    return torch.cuda.is_available()


def measure(quick: bool = False) -> list[Row]:
    """On CUDA; otherwise one line."""
    if not case(cuda_is_there):
        return [note("No CUDA device here: nothing measured. `make bench NAMES=gpu` on a machine that has one.")]
    return rows_of(Setting(size=16_384, cores=(1024,), repeats=5, agreement=2048) if quick else Setting())


def tiny() -> list[Row]:
    """All of it on the CPU."""
    return rows_of(TINY)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu"], required=True, help="on CUDA: python -m benchmarks.bench gpu")
    parser.parse_args()
    from benchmarks import gpu  # as a module that other processes can import

    print(table(gpu.tiny()))
