"""Weighing killed and continued: the bytes of an unbroken run, from ids and from classes, whatever was torn."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.faults.harness import assert_same, begun, call, delete, flip, start, status, truncate, unrecorded

SIDE, BLOCK = 768, 64
N_BLOCKS = (SIDE // BLOCK) ** 2


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches of a few values, that are ids or classes; 255 in a corner."""
    rng = np.random.default_rng(5)
    pixels = np.kron(rng.choice(4, (SIDE // 8, SIDE // 8), p=(0.6, 0.2, 0.1, 0.1)), np.ones((8, 8), int))
    pixels[:50, :50] = 255
    path = tmp_path_factory.mktemp("weigh") / "labels.tif"
    tifffile.imwrite(path, pixels.astype(np.uint8), tile=(64, 64))
    return path


def arguments(labels: Path, out: Path, kind: str, workers: str) -> list[str]:
    asked = ["--block", str(BLOCK), "--kind", kind, "--void", "255", "--json"]
    return ["weigh", str(labels), str(out), *asked, "--workers", workers]


@pytest.fixture(scope="module")
def undisturbed(labels: Path) -> dict[str, Path]:
    outs = {kind: labels.parent / f"{kind}.zarr" for kind in ("ids", "classes")}
    for kind, out in outs.items():
        done = call(*arguments(labels, out, kind, "0"))
        assert done.returncode == 0, done.stderr
    return outs


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(labels: Path, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    start(arguments(labels, tmp_path / "out.zarr", "ids", "2"), tmp_path).finish()
    assert_same(tmp_path / "out.zarr", undisturbed["ids"])


@pytest.mark.parametrize(
    ("kind", "stage", "workers"),
    [
        ("ids", "weigh", "2"),
        *[pytest.param("ids", s, w, marks=pytest.mark.slow) for s in ("weigh-count", "weigh") for w in "02"],
        *[
            pytest.param("classes", s, "0", marks=pytest.mark.slow)
            for s in ("label-objects-find", "label", "weigh-count", "weigh")
        ],
    ],
)
def test_a_killed_tree_continues_with_the_same_bytes(
    labels: Path, undisturbed: dict[str, Path], tmp_path: Path, kind: str, stage: str, workers: str
) -> None:
    choice, out = random.Random(f"{kind} {stage} {workers}"), tmp_path / "out.zarr"
    run = start(arguments(labels, out, kind, workers), out)
    run.wait_until_begun(stage, choice.randrange(1, N_BLOCKS // 2))
    run.kill_tree()
    run.wait_until_gone()
    assert status(out)["status"] == "stopped"
    left = sum(len(unrecorded(out, s["stage"])) for s in status(out)["stages"])
    n_begun = begun(out, stage)
    result = start(arguments(labels, out, kind, "0"), out).finish()
    print(f"killed in {stage} at {n_begun} of {N_BLOCKS}, redone {result['redone']} <= {left}")
    assert result["redone"] <= left
    assert_same(out, undisturbed[kind])


@pytest.mark.parametrize("tear", [flip, *[pytest.param(t, marks=pytest.mark.slow) for t in (truncate, delete)]])
@pytest.mark.parametrize("level", ["0", "1"])
def test_a_torn_output_is_found_and_made_again(
    labels: Path, undisturbed: dict[str, Path], tmp_path: Path, level: str, tear: object
) -> None:
    out = tmp_path / "out.zarr"
    shutil.copytree(undisturbed["ids"], out)
    tear(max(p for p in (out / level / "c").rglob("*") if p.is_file()))  # type: ignore[operator]
    with pytest.raises(AssertionError, match="files differ"):
        assert_same(out, undisturbed["ids"])
    assert start(arguments(labels, out, "ids", "0"), out).finish()["redone"] == 1
    assert_same(out, undisturbed["ids"])


def test_finished_weights_are_no_work(labels: Path, undisturbed: dict[str, Path]) -> None:
    for kind, out in undisturbed.items():
        before = {p: p.stat().st_mtime_ns for p in out.rglob("c/*/*") if p.is_file()}
        assert before
        assert start(arguments(labels, out, kind, "0"), out).finish()["redone"] == 0
        assert before == {p: p.stat().st_mtime_ns for p in before}
