"""Spoiled files open or are refused in one line; none crashes, hangs, takes over 1 GiB or raises anything else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.harness import Verdict, Worker
from tests.fuzz.mutate import JSON_VALUES, byte_changes, changed, changed_json, numbers, tiff_changes
from tests.fuzz.seeds import others, pictures, stores, tiffs

QUICK, THOROUGH = 40, 3000
"""Examples of each kind of file."""
COMMON: dict[str, Any] = {
    "deadline": None,
    "phases": (Phase.explicit, Phase.reuse, Phase.generate),  # a hang takes ten seconds: none is made smaller
    "suppress_health_check": list(HealthCheck),
    "database": None,
}


@cache
def seeds() -> dict[str, bytes]:
    return {**{f"{name}.tif": data for name, data in tiffs().items()}, **pictures(), **others()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def worker(folder: Path) -> Iterator[Worker]:
    warm = []
    for name, data in seeds().items():
        (folder / name).write_bytes(data)
        warm.append(folder / name)
    worker = Worker(warm=[*warm, *stores(folder).values()])
    yield worker
    print(f"\npeak of memory: {worker.peak >> 20} MiB")
    worker.close()


def judge(worker: Worker, path: Path, what: object) -> Verdict:
    verdict = worker(path)
    assert verdict.passes, (path.name, what, verdict)
    return verdict


def changes_of(name: str) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Changes that know the kind of file, or bytes anywhere."""
    if name.endswith(".tif"):
        return st.one_of(tiff_changes(), tiff_changes(), byte_changes())
    if name.endswith(".png"):
        fields = st.tuples(st.just("png"), st.integers(0, 6), numbers())
        return st.one_of(st.lists(fields, min_size=1, max_size=2), byte_changes())
    if name.endswith(".npy"):
        values = [
            "()",
            "(0,)",
            "(3,)",
            "(48, 48, 48)",
            "(-1, 9)",
            "(10**6, 10**6)",
            "(1000000, 1000000)",
            "None",
            "'|O'",
        ]
        values += [
            "'<U4'",
            "'<f9'",
            "'<M8[s]'",
            "[('a', '<u2')]",
            "True",
            "5",
            "(2.5, 3)",
            "(9999999999999999999, 1)",
            "",
        ]
        fields = st.tuples(
            st.just("npy"), st.sampled_from(["shape", "descr", "fortran_order"]), st.sampled_from(values)
        )
        return st.one_of(st.lists(fields, min_size=1, max_size=2), byte_changes())
    return byte_changes()


def spoil_file(worker: Worker, folder: Path, name: str, examples: int) -> None:
    seed, n = seeds()[name], iter(range(10**9))

    @settings(max_examples=examples, **COMMON)
    @given(changes_of(name))
    def spoil(changes: list[tuple[Any, ...]]) -> None:
        path = folder / f"{next(n)}-{name}"
        path.write_bytes(changed(seed, changes))
        judge(worker, path, changes)
        path.unlink()

    spoil()


def spoil_store(worker: Worker, seed: Path, examples: int) -> None:
    documents = sorted(p.relative_to(seed) for p in seed.rglob("*") if p.name in ("zarr.json", ".zarray", ".zattrs"))
    chunks = sorted(
        p.relative_to(seed) for p in seed.rglob("*") if p.is_file() and not p.name.startswith((".", "zarr"))
    )
    one_json = st.tuples(
        st.sampled_from(documents),
        st.lists(st.tuples(st.integers(0, 80), st.sampled_from([*JSON_VALUES, "delete"])), min_size=1, max_size=3),
    )
    one_chunk = st.tuples(st.sampled_from(chunks), byte_changes())
    n = iter(range(10**9))

    @settings(max_examples=examples, **COMMON)
    @given(st.one_of(one_json, one_json, one_chunk, st.tuples(st.sampled_from(documents), byte_changes())))
    def spoil(change: tuple[Path, list[tuple[Any, ...]]]) -> None:
        place, changes = change
        path = seed.parent / f"{next(n)}-{seed.name}"
        shutil.copytree(seed, path)
        data = (path / place).read_bytes()
        by_value = place in documents and isinstance(changes[0][0], int)
        (path / place).write_bytes(changed_json(data, changes) if by_value else changed(data, changes))
        judge(worker, path, change)
        shutil.rmtree(path)

    spoil()


@pytest.mark.parametrize("name", sorted(seeds()))
def test_a_spoiled_file_opens_or_is_refused(worker: Worker, folder: Path, name: str) -> None:
    spoil_file(worker, folder, name, QUICK)


@pytest.mark.parametrize("name", ["zarr2", "zarr3", "zarr3-shards"])
def test_a_spoiled_store_opens_or_is_refused(worker: Worker, folder: Path, name: str) -> None:
    spoil_store(worker, folder / f"{name}.zarr", QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(seeds()))
def test_many_spoiled_files_open_or_are_refused(worker: Worker, folder: Path, name: str) -> None:
    spoil_file(worker, folder, name, THOROUGH)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["zarr2", "zarr3", "zarr3-shards"])
def test_many_spoiled_stores_open_or_are_refused(worker: Worker, folder: Path, name: str) -> None:
    spoil_store(worker, folder / f"{name}.zarr", THOROUGH)


@pytest.mark.parametrize("name", [*sorted(seeds()), "zarr2.zarr", "zarr3.zarr", "zarr3-shards.zarr"])
def test_the_seed_opens(worker: Worker, folder: Path, name: str) -> None:
    verdict = worker(folder / name)
    assert verdict.kind == "opened", verdict


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("crashes", "crash"),
        ("hangs", "hang"),
        ("takes_memory", "memory"),
        ("claims_memory", "memory"),
        ("raises", "error"),
        ("refuses", "refused"),
    ],
)
def test_the_harness_sees_what_must_not_be(target: str, kind: str, tmp_path: Path) -> None:
    worker = Worker(f"tests.fuzz.targets:{target}", seconds=10 if kind != "hang" else 1)
    assert worker(tmp_path).kind == kind
    if kind in ("crash", "hang"):
        assert worker(tmp_path).kind == kind, "started again"
    worker.close()
