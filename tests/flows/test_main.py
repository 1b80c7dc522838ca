"""The command line: its help, its figures for programs, its exit status."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import call, make_image, make_model
from tilekit import __version__

COMMANDS = ("info", "ingest", "plan", "segment", "label", "weigh", "status", "verify", "demo")
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


def test_segment_with_objects_and_label_afterwards(files: Path, tmp_path: Path) -> None:
    import numpy as np
    import zarr

    from tests.test_label import whole_image

    out = tmp_path / "out.zarr"
    arguments = ("segment", files / "image.tif", files / "model.safetensors", out, "--block", 64, "--workers", 0)
    found = figures(*arguments, "--objects")
    classes = np.asarray(zarr.open_array(str(out / "labels/classes/0"), mode="r")[:])
    ids = np.asarray(zarr.open_array(str(out / "labels/objects/0"), mode="r")[:])
    np.testing.assert_array_equal(ids, whole_image(classes, 8))
    assert found["objects"] == ids.max()
    assert figures("label", out, "--workers", 0)["objects"] == ids.max()
    assert figures("status", out)["status"] == "complete"
    alone = figures("label", out / "labels/classes", tmp_path / "objects.zarr", "--connectivity", 4, "--workers", 0)
    assert alone["objects"] == whole_image(classes, 4).max()


def test_weigh_takes_ids_and_classes(files: Path, tmp_path: Path) -> None:
    import numpy as np
    import zarr

    from tests.oracle_weights import naive_weights
    from tests.test_label import whole_image
    from tilekit import open_image

    pixels = open_image(files / "image.tif").read([])
    ids = np.where(pixels < 60, pixels, 0)
    np.save(tmp_path / "ids.npy", ids)
    found = figures("weigh", tmp_path / "ids.npy", tmp_path / "w.zarr", "--block", 64, "--sigma", 3, "--workers", 0)
    assert found.keys() == {"class_weights", "halo", "tolerance", "blocks", "redone", "seconds", "output"}
    weights = zarr.open_array(str(tmp_path / "w.zarr/0"), mode="r")[:]
    np.testing.assert_allclose(weights, naive_weights(ids, sigma=3), atol=1e-4)
    assert figures("status", tmp_path / "w.zarr")["status"] == "complete"
    options = ("--kind", "classes", "--no-ridge", "--void", 7, "--class-weights", "0.5,2", "--dtype", "float16")
    figures("weigh", tmp_path / "ids.npy", tmp_path / "c.zarr", *options, "--workers", 0)
    expected = naive_weights(
        whole_image(np.where(ids == 7, 0, ids), 8), ridge=False, void=ids == 7, class_weights=(0.5, 2)
    )
    weights = zarr.open_array(str(tmp_path / "c.zarr/0"), mode="r")[:]
    np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{files}/absent.tif", "{out}"], "absent.tif: no such file"),
        (["{files}/image.tif", "{out}", "--sigma", "0"], "--sigma 0.0: input should be greater than 0"),
        (["{files}/image.tif", "{out}", "--w0", "-1"], "--w0 -1.0: input should be greater than or equal to 0"),
        (
            ["{files}/image.tif", "{out}", "--sigma", "90"],
            "more than a block of 64; use a smaller one, or --block 4096",
        ),
        (["{files}/image.tif", "{out}", "--kind", "cells"], "--kind cells: input should be 'ids' or 'classes'"),
        (["{files}/image.tif", "{out}", "--class-weights", "1"], "--class-weights 1: are two numbers"),
        (["{files}/image.tif", "{out}", "--void", "256"], "--void 256 is no value of uint8 pixels"),
    ],
)
def test_bad_input_of_weigh_is_one_line(files: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    filled = (a.format(files=files, out=tmp_path / "out.zarr") for a in arguments)
    done = call("weigh", *filled, "--block", "64", "--workers", "0")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{files}/image.tif"], "has no labels/classes; segment it first, or name a class map and an output"),
        (["{files}/image.tif", "{out}", "--connectivity", "6"], "--connectivity 6: input should be 4 or 8"),
        (["{files}/image.tif", "{out}", "--polygons", "svg"], "--polygons svg: input should be 'geojson', "),
        (["{files}/absent.tif", "{out}"], "absent.tif"),
    ],
)
def test_bad_input_of_label_is_one_line(files: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    done = call("label", *(a.format(files=files, out=tmp_path / "out.zarr") for a in arguments), "--workers", "0")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out.zarr").exists()
