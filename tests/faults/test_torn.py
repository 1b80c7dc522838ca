"""What lies on disk is not what was recorded, or not what is asked for now."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import run_here
from tests.faults.harness import (
    N_BLOCKS,
    Case,
    assert_same,
    call,
    delete,
    flip,
    make_image,
    make_model,
    recorded,
    shards,
    truncate,
)
from tilekit import status
from tilekit.errors import InputError, RunError
from tilekit.ledger import FOLDER
from tilekit.lock import lock


@pytest.fixture
def finished(case: Case, tmp_path: Path) -> Path:
    """A finished output to spoil."""
    return Path(shutil.copytree(case.undisturbed, tmp_path / "out.zarr"))


def forget(out: Path, stage: str, keep: int) -> None:
    """Cut a stage's ledger to its first blocks, as if the run had been killed then; later stages never began."""
    log = out / FOLDER / stage / "ledger.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    merged = {i: s for line in lines for i, s in line["blocks"].items()}
    blocks = dict(list(merged.items())[:keep])
    log.write_text(json.dumps({**lines[-1], "blocks": blocks, "summary": {}}) + "\n")


@pytest.mark.parametrize("tear", [truncate, flip, delete])
def test_torn_shards_of_a_finished_output_are_made_again(
    case: Case, finished: Path, tear: Callable[[Path], None]
) -> None:
    image = [finished / "0/c/5/5", finished / "0/c/9/9"]
    classes = [finished / "labels/classes/0/c/4/4", finished / "labels/classes/0/c/9/0"]
    coarse = [next(shards(finished, "1")), next(shards(finished, "labels/classes/1"))]
    for path in (*image, *classes, *coarse):
        tear(path)
    result = run_here(case, finished)
    print(f"{tear.__name__}: redone {result['redone']}")
    assert 4 <= int(str(result["redone"])) <= 6
    assert_same(finished, case.undisturbed)
    assert run_here(case, finished)["redone"] == 0


def test_torn_shards_of_a_half_done_output_are_made_again(case: Case, finished: Path) -> None:
    forget(finished, "predict", 60)
    flip(finished / "labels/classes/0/c/5/5")
    truncate(finished / "0/c/5/5")
    result = run_here(case, finished)
    assert result["redone"] == 2
    assert_same(finished, case.undisturbed)


def test_a_finished_output_is_not_touched_again(case: Case, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shards(finished)}
    assert len(before) > N_BLOCKS
    done = call(*case.arguments(finished, "--workers", "2"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["redone"] == 0
    assert {path: path.stat().st_mtime_ns for path in shards(finished)} == before
    assert status(finished)["status"] == "complete"
    assert_same(finished, case.undisturbed)


def test_blocks_that_hold_nothing_but_the_fill_value_count_as_done(case: Case, finished: Path) -> None:
    for name in ("0/c/0/0", "0/c/2/2", "labels/classes/0/c/0/0", "labels/classes/0/c/2/2"):
        assert not (finished / name).exists()
    for stage in ("ingest", "predict"):
        assert recorded(finished, stage) == N_BLOCKS
    (finished / "labels/classes/0/c/0/0").write_bytes(b"stray")
    assert run_here(case, finished)["redone"] == 1
    assert_same(finished, case.undisturbed)


@pytest.mark.parametrize("stage", ["ingest", "predict"])
def test_a_torn_ledger_line_is_passed_over_and_its_blocks_are_made_again(
    case: Case, finished: Path, stage: str
) -> None:
    forget(finished, stage, 70)
    log = finished / FOLDER / stage / "ledger.jsonl"
    whole = log.read_bytes()
    log.write_bytes(b'\xff\xfe{"bl\n12\n[]\n{}\n' + whole + whole[:-40])
    run_here(case, finished)
    assert_same(finished, case.undisturbed)
    assert recorded(finished, stage) == N_BLOCKS
    assert run_here(case, finished)["redone"] == 0


@pytest.mark.parametrize("torn", [b"", b'{"source": {"pa', b"[1]", b"\xff\xfe"])
def test_torn_arguments_let_the_stage_be_done_again(case: Case, finished: Path, torn: bytes) -> None:
    (finished / FOLDER / "predict" / "arguments.json").write_bytes(torn)
    assert status(finished)["status"] == "complete"
    result = run_here(case, finished)
    assert result["redone"] == N_BLOCKS
    assert_same(finished, case.undisturbed)
    assert run_here(case, finished)["redone"] == 0


@pytest.mark.parametrize("tear", [truncate, delete])
def test_an_array_whose_metadata_is_torn_is_made_again_with_its_blocks(
    case: Case, finished: Path, tear: Callable[[Path], None]
) -> None:
    tear(finished / "labels/classes/0/zarr.json")
    assert int(str(run_here(case, finished)["redone"])) >= N_BLOCKS - 9  # void blocks are as they were: not stored
    assert_same(finished, case.undisturbed)


def test_torn_metadata_of_the_root_is_refused_and_overwritten_when_asked(case: Case, finished: Path) -> None:
    truncate(finished / "zarr.json")
    with pytest.raises(InputError, match=r"out\.zarr: its metadata is damaged .* --overwrite"):
        run_here(case, finished)
    run_here(case, finished, overwrite=True)
    assert_same(finished, case.undisturbed)


def test_leftover_partial_files_are_swept(case: Case, finished: Path) -> None:
    leftovers = [finished / "0/c/5/5.0123456789abcdef.partial", finished / "labels/classes/0/c/zarr.json.1.partial"]
    for path in leftovers:
        path.write_bytes(b"half")
    run_here(case, finished)
    assert not any(path.exists() for path in leftovers)
    assert_same(finished, case.undisturbed)


def test_other_arguments_over_a_half_done_output_are_refused_with_what_differs(
    case: Case, finished: Path, tmp_path: Path
) -> None:
    forget(finished, "predict", 50)
    other = Case(tmp_path / "other.tif", tmp_path / "other.safetensors", case.undisturbed)
    make_image(other.image, seed=1)
    make_model(other.model, base=4)
    for image, model, options, differs in [
        (other.image, case.model, {}, r"source\.path was .*image\.tif.*, now .*other\.tif"),
        (case.image, other.model, {}, r"\(model was .*, now .*\)"),
        (case.image, case.model, {"block": 128}, r"block was 64, now 128"),
        (case.image, case.model, {"tile": 64}, r"\(core was \[32, 32\], now \[64, 64\]\)"),
        (case.image, case.model, {"probabilities": "uint8"}, r"\(probabilities was null, now \"uint8\"\)"),
    ]:
        with pytest.raises(InputError, match=differs):
            run_here(Case(image, model, case.undisturbed), finished, **options)
    assert recorded(finished, "predict") == 50
    assert run_here(case, finished, memory=8 << 30)["redone"] == 0  # blocks that were not recorded had not begun
    assert_same(finished, case.undisturbed)


def test_other_arguments_end_with_2_and_one_line(case: Case, finished: Path) -> None:
    done = call(*case.arguments(finished, "--workers", "0", "--probabilities", "uint8"))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f'tilekit: {finished}: was begun with other arguments (probabilities was null, now "uint8"); '
        "repeat those, or start over with --overwrite"
    ]
    assert status(finished)["status"] == "complete"


def test_overwrite_starts_over_with_other_arguments(case: Case, finished: Path, tmp_path: Path) -> None:
    result = run_here(case, finished, overwrite=True, tile=64, block=128)
    assert result["blocks"] == 25
    fresh = tmp_path / "fresh.zarr"
    run_here(case, fresh, tile=64, block=128)
    assert_same(finished, fresh)
    assert status(finished)["status"] == "complete"


def test_an_output_that_another_run_holds_is_refused_even_with_overwrite(case: Case, finished: Path) -> None:
    with lock(finished):
        done = call(*case.arguments(finished, "--workers", "0", "--overwrite"))
    assert done.returncode == 2
    assert "another run is writing it" in done.stderr
    assert_same(finished, case.undisturbed)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_block_that_fails_for_good_is_listed_the_rest_is_done_and_mending_it_completes(
    case: Case, tmp_path: Path, workers: int
) -> None:
    spoilt, out = tmp_path / "image.tif", tmp_path / "out.zarr"
    shutil.copy2(case.image, spoilt)
    times, whole = spoilt.stat(), spoilt.read_bytes()
    _spoil_tile(spoilt, 77)
    os.utime(spoilt, ns=(times.st_atime_ns, times.st_mtime_ns))
    arguments = ["segment", str(spoilt), str(case.model), str(out), *case.arguments(out, "--workers", str(workers))[4:]]
    done = call(*arguments)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert (
        f"{out}: ingest lacks 1 of {N_BLOCKS} blocks; failed: 77; block 77: InputError: {spoilt}: tile" in done.stderr
    )
    assert status(out)["status"] == "stopped"
    assert recorded(out, "ingest") == N_BLOCKS - 1
    spoilt.write_bytes(whole)
    os.utime(spoilt, ns=(times.st_atime_ns, times.st_mtime_ns))
    mended = call(*arguments)
    assert mended.returncode == 0, mended.stderr
    assert json.loads(mended.stdout)["redone"] == 1
    assert status(out)["status"] == "complete"
    mine, theirs = ([p.read_bytes() for p in shards(o)] for o in (out, case.undisturbed))
    assert mine == theirs


def _spoil_tile(path: Path, number: int) -> None:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        offset, length = tiff.pages[0].dataoffsets[number], tiff.pages[0].databytecounts[number]
    data = bytearray(path.read_bytes())
    data[offset : offset + length] = bytes(length)
    path.write_bytes(data)


def test_blocks_that_fail_by_the_dozen_end_the_run_with_their_number(case: Case, tmp_path: Path) -> None:
    spoilt, out = tmp_path / "image.tif", tmp_path / "out.zarr"
    shutil.copy2(case.image, spoilt)
    for number in range(40, 80):
        _spoil_tile(spoilt, number)
    with pytest.raises(RunError, match=r"ingest lacks 60 of 100 blocks; failed: 40, 41, .*, 49, \.\.\.; block 40: "):
        run_here(Case(spoilt, case.model, case.undisturbed), out)
    assert status(out)["status"] == "stopped"
