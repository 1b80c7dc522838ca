"""The command line: its help, its figures for programs, its exit status."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import call, make_image, make_model
from tilekit import __version__

COMMANDS = ("info", "ingest", "plan", "segment", "status", "verify", "demo")
PLAN_KEYS = {
    "image", "model", "halo", "stride", "core", "block", "n_tiles", "n_blocks", "redundancy", "task_bytes",
    "output_bytes", "seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command-line")
    make_image(folder / "image.tif", 200)
    make_model(folder / "model.safetensors")
    return folder


def figures(*arguments: object) -> dict[str, Any]:
    """What a command prints with --json, its only line."""
    done = call(*map(str, arguments), "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    return dict(json.loads(line))


def test_help_lists_every_command_and_answers_at_once() -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = call("--help")
        seconds.append(time.perf_counter() - started)
    print(f"--help in {min(seconds):.2f} s")
    assert done.returncode == 0
    assert all(f"  {command}  " in done.stdout for command in COMMANDS)
    assert min(seconds) < 2  # 0.3 on a machine that does nothing else


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = call(command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: ")
    assert "--json" in done.stdout


def test_version_is_printed_alone() -> None:
    done = call("--version")
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")


def test_no_arguments_show_the_help_and_an_unknown_command_is_a_usage_error() -> None:
    assert "segment" in "".join((done := call()).stdout + done.stderr)
    assert done.returncode == 2
    assert call("nonsense").returncode == 2


def test_figures_of_plan_segment_status_and_verify_have_their_keys(files: Path) -> None:
    image, model, out = files / "image.tif", files / "model.safetensors", files / "out.zarr"
    plan = figures("plan", image, model, "--block", "64", "--tile", "32")
    assert plan.keys() >= PLAN_KEYS
    assert (plan["image"], plan["model"]) == (str(image), str(model))
    assert (plan["stride"], plan["core"], plan["block"], plan["n_blocks"]) == ([4, 4], [32, 32], 64, 16)
    assert plan["n_tiles"] == 7 * 7
    assert plan["redundancy"] > 1
    assert not out.exists()
    segmented = figures("segment", image, model, out, "--block", "64", "--tile", "32", "--workers", "0")
    assert segmented.keys() >= {"blocks", "redone", "seconds", "megapixels_per_second", "output"}
    assert (segmented["blocks"], segmented["redone"], segmented["output"]) == (16, 0, str(out))
    assert segmented["megapixels_per_second"] > 0
    status = figures("status", out)
    assert status["status"] == "complete"
    assert {s["stage"]: (s["done"], s["blocks"]) for s in status["stages"]} == {"ingest": (16, 16), "predict": (16, 16)}
    proof = figures("verify", out, model, "--boxes", "4", "--side", "64")
    assert proof.keys() >= {"boxes", "max_abs_dp", "differing_pixels"}
    assert (proof["boxes"], proof["differing_pixels"]) == (4, 0)
    assert proof["max_abs_dp"] < 1e-4


def test_figures_of_info_and_ingest_have_their_keys(files: Path) -> None:
    info = figures("info", files / "image.tif")
    assert (info["shape"], info["axes"], info["dtype"]) == ([200, 200], "yx", "uint8")
    assert info.keys() >= {"levels", "pixel_size", "channels", "nodata", "crs", "tiling"}
    ingested = figures("ingest", files / "image.tif", files / "image.zarr", "--workers", "0")
    assert ingested.keys() >= {"blocks", "redone", "seconds", "output"}


def test_figures_for_people_are_lines_of_name_and_value(files: Path) -> None:
    done = call("plan", str(files / "image.tif"), str(files / "model.safetensors"))
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["stride"] == "4, 4"
    assert done.stderr == ""
