"""Faults on purpose: start a run as a user would, wait until it has come so far, kill it, tear its files, compare."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile

from tilekit.ledger import FOLDER

ROOT = Path(__file__).parents[2]
TILEKIT = [sys.executable, "-m", "flows.main"]
SIDE, BLOCK, TILE = 592, 64, 32
N_BLOCKS = (-(-SIDE // BLOCK)) ** 2
OPTIONS = ["--block", str(BLOCK), "--tile", str(TILE), "--nodata", "0", "--device", "cpu"]
PATIENCE = 120.0
"""Seconds that a run may take to come somewhere, on a machine that does other things too."""


@dataclass(frozen=True)
class Case:
    """An image with a corner of nodata, a network, and what an undisturbed run makes of them."""

    image: Path
    model: Path
    undisturbed: Path

    def arguments(self, out: Path, *more: str) -> list[str]:
        return ["segment", str(self.image), str(self.model), str(out), *OPTIONS, "--json", *more]


def make_image(path: Path, side: int = SIDE, seed: int = 0) -> None:
    """A tiled TIFF of random patches, compressed; its first 200 x 200 pixels are 0."""
    random_numbers = np.random.default_rng(seed)
    patches = random_numbers.integers(1, 255, (-(-side // 8), -(-side // 8)), dtype=np.uint8)
    pixels = np.kron(patches, np.ones((8, 8), np.uint8))[:side, :side].copy()
    pixels[: min(200, side // 2), : min(200, side // 2)] = 0
    tifffile.imwrite(path, pixels, tile=(64, 64), compression="zlib")


def make_model(path: Path, channels: int = 1, base: int = 8, **facts: Any) -> None:
    """A small U-Net with random weights, the same every time."""
    import torch

    from models import UNet, save

    torch.manual_seed(0)
    save(UNet(in_channels=channels, n_classes=3, base=base, depth=2), path, **facts)


@dataclass
class Run:
    """A command line in a process group of its own."""

    process: subprocess.Popen[str]
    out: Path
    seen: dict[int, psutil.Process] = field(default_factory=dict)
    """Every process of the run that was ever found."""

    def processes(self) -> list[psutil.Process]:
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.seen.update((p.pid, p) for p in found)
        return found

    def workers(self) -> list[psutil.Process]:
        """The worker processes, which multiprocessing spawns."""
        spawned = {p.pid: p for p in self.processes() if "spawn_main" in _command_line(p)}
        return [p for p in spawned.values() if _parent(p) not in spawned]  # a worker's fork has its command line

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """Wait until the condition holds; fails when the run ends first."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None:
                out, err = self.process.communicate()
                raise AssertionError(f"the run ended first ({self.process.returncode}): {out}{err}")
            assert time.monotonic() < end, "the run never came so far"
            time.sleep(0.005)

    def wait_until_begun(self, stage: str, blocks: int) -> None:
        """Wait until so many blocks of a stage have begun."""
        self.wait_for(lambda: begun(self.out, stage) >= blocks)

    def kill_tree(self) -> None:
        """SIGKILL to the driver and all its workers at once."""
        self.processes()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def kill_driver(self) -> None:
        """SIGKILL to the driver alone."""
        self.processes()
        self.process.kill()
        self.process.communicate()

    def kill_worker(self, choice: random.Random) -> int:
        """SIGKILL to one worker process; returns its number."""
        self.wait_for(self.workers)
        victim = choice.choice(self.workers())
        victim.kill()
        return victim.pid

    def finish(self) -> dict[str, Any]:
        """Wait for the end, which must be a good one; returns what --json prints."""
        out, err = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, err
        return dict(json.loads(out))

    def wait_until_gone(self, seconds: float = 10.0) -> float:
        """Wait until no process of the run is left; returns how long it took."""
        started = time.monotonic()
        gone, alive = psutil.wait_procs(list(self.seen.values()), timeout=seconds)
        assert not alive, f"{len(alive)} of {len(gone) + len(alive)} processes outlive the run"
        return time.monotonic() - started


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return 0


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _heed_interrupts() -> None:
    """Undo what a shell does to commands in the background: they, and all that they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(arguments: list[str], out: Path, **more: str) -> Run:
    """Start a command in a process group of its own; `more` is set in its environment."""
    process = subprocess.Popen(
        [*TILEKIT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**environment(), **more},
        preexec_fn=_heed_interrupts,
    )
    return Run(process, out)


def call(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*TILEKIT, *arguments], capture_output=True, text=True, timeout=PATIENCE, env=environment(), **options
    )


def status(out: Path) -> dict[str, Any]:
    """What another terminal is told."""
    done = call("status", str(out), "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def begun(out: Path, stage: str) -> int:
    """Blocks of a stage that have begun."""
    return recorded(out, stage) + len(unrecorded(out, stage))


def recorded(out: Path, stage: str) -> int:
    """Blocks of a stage in its ledger."""
    try:
        lines = (out / FOLDER / stage / "ledger.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
        return 0
    return len({i for line in lines if line.endswith(b"}}") for i in json.loads(line)["blocks"]})


def unrecorded(out: Path, stage: str) -> set[int]:
    """Blocks of a stage that have begun and are not in its ledger."""
    try:
        return {int(name) for name in os.listdir(out / FOLDER / stage / "started")}
    except FileNotFoundError:
        return set()


def shards(out: Path, below: str = "") -> Iterator[Path]:
    """Files that hold pixels."""
    for path in sorted((out / below).rglob("*")):
        if path.is_file() and FOLDER not in path.parts and "c" in path.parts[len(out.parts) :]:
            yield path


def contents(out: Path) -> dict[str, Any]:
    """All of a store but its ledger and provenance: bytes by path, metadata as JSON."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        if path.is_dir() or FOLDER in path.parts:
            continue
        name = path.relative_to(out).as_posix()
        if path.name == "zarr.json":
            found[name] = json.loads(path.read_text())
            found[name].get("attributes", {}).pop("tilekit", None)
        else:
            found[name] = path.read_bytes()
    return found


def assert_same(out: Path, expected: Path) -> None:
    """Fail, naming the files, where two stores differ by a byte."""
    mine, theirs = contents(out), contents(expected)
    differing = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    assert not differing, f"{len(differing)} of {len(theirs)} files differ: {differing[:5]}"


def truncate(path: Path) -> None:
    """A file cut short."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """A file of the same length with other bytes."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(b ^ 0xFF for b in data[middle : middle + 8])
    path.write_bytes(data)


def delete(path: Path) -> None:
    """No file."""
    path.unlink()
