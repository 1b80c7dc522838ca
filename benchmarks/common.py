"""What the benchmarks share: inputs made once, CPU seconds of a process and its children, tables."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from models import UNet, save
from tilekit.box import Box
from tilekit.specimen import Specimen

WORK = Path(os.environ.get("TILEKIT_BENCH", Path(tempfile.gettempdir()) / "tilekit-bench"))
TILE = 512


def specimen_tiff(size: int) -> Path:
    """A tiled BigTIFF (uint8, uncompressed) of a specimen, made once, strip by strip."""
    path = WORK / f"specimen-{size}.tif"
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        with tifffile.TiffWriter(partial, bigtiff=True) as tiff:
            tiff.write(_tiles(size), shape=(size, size), dtype="u1", tile=(TILE, TILE), photometric="minisblack")
        partial.replace(path)
    return path


def _tiles(size: int) -> Iterator[np.ndarray[Any, Any]]:
    specimen = Specimen(size)
    for y in range(0, size, TILE):
        strip = specimen.read(Box((y, 0), (min(y + TILE, size), size)))
        padded = np.pad(strip, ((0, TILE - strip.shape[0]), (0, -size % TILE)))
        for x in range(0, padded.shape[1], TILE):
            yield np.ascontiguousarray(padded[:, x : x + TILE])


def checkpoint(base: int, depth: int, **options: Any) -> Path:
    """A network with random weights, made once."""
    path = WORK / f"unet-{base}-{depth}.safetensors"
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        save(UNet(base=base, depth=depth, **options), path, class_names=["background", "cell"])
    return path


def cpu_seconds() -> float:
    """User and system time of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def child(script: str, *arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a script in a process of its own; returns the JSON of its last line."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})}, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def machine() -> str:
    """The machine in words."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} x {model}, torch {torch.__version__}, load {load:.1f}"


def table(title: str, rows: list[tuple[str, str, str]]) -> None:
    """Print rows of (what, figure, goal)."""
    print(f"\n{title}\n{machine()}")
    width = max(len(r[0]) for r in rows) + 2
    for what, figure, goal in rows:
        print(f"  {what:<{width}}{figure:>24}   {goal}")


def record(name: str, figures: dict[str, Any]) -> None:
    """Keep the figures as JSON beside the inputs."""
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / f"{name}.json").write_text(json.dumps({"machine": machine(), **figures}, indent=1))
