"""A file of 1 kB that claims 10^12 pixels is refused when planning, or is legal and read in constant memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.harness import call, make_model
from tests.fuzz.claims import LEGAL, REFUSED, SIDE, zarr_store
from tests.fuzz.harness import Worker
from tilekit import open_image
from tilekit.errors import InputError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    make_model(path)
    return path


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_not_there_is_refused_when_it_is_opened(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(REFUSED[name]())
    assert path.stat().st_size < 1500
    with pytest.raises(InputError, match=name):
        open_image(path)
    worker = Worker()
    verdict = worker(path)
    worker.close()
    assert verdict.kind == "refused", verdict


@pytest.mark.parametrize("name", sorted(LEGAL))
def test_what_is_legal_is_read_in_constant_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    LEGAL[name](path)
    source = open_image(path)
    assert source.shape[-2:] == (SIDE, SIDE)
    assert source.read([slice(0, 1)] * (len(source.shape) - 2) + [slice(SIDE // 2, SIDE // 2 + 3)] * 2).max() == 7
    worker = Worker()
    verdict = worker(path)
    worker.close()
    assert verdict.kind == "opened", verdict
    assert verdict.peak < 300 << 20


@pytest.mark.parametrize("name", ["one-deflated-strip.tif", "picture.png", "array.npy"])
def test_planning_refuses_in_one_line(name: str, model: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(REFUSED[name]())
    done = call("plan", str(path), str(model))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert name in line


def test_a_chunk_that_fits_no_memory_is_refused(tmp_path: Path) -> None:
    zarr_store(tmp_path / "array.zarr", chunk=SIDE)
    with pytest.raises(InputError, match=r"array\.zarr"):
        open_image(tmp_path / "array.zarr")


def test_planning_a_sparse_store_says_what_it_takes(model: Path, tmp_path: Path) -> None:
    zarr_store(tmp_path / "array.zarr")
    done = call("plan", str(tmp_path / "array.zarr"), str(model), "--json")
    assert done.returncode == 0, done.stderr
    assert '"n_blocks": 60025' in done.stdout
