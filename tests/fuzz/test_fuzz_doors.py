"""What comes from outside beside images opens, or is refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.doors import MODULES, doors, seeds
from tests.fuzz.found import FOUND
from tests.fuzz.harness import Verdict, Worker
from tests.fuzz.mutate import changed, text_changes
from tests.fuzz.test_fuzz_files import COMMON

QUICK, THOROUGH = 60, 3000
"""Spoiled inputs of each group."""
cached_seeds = cache(seeds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("doors")


@pytest.fixture(scope="module")
def worker(folder: Path) -> Iterator[Worker]:
    warm = []
    for group in MODULES:
        for name, data in cached_seeds(group).items():
            warm.append(folder / f"{name}.{group}")
            warm[-1].write_bytes(data)
    worker = Worker("tests.fuzz.doors:knock_with_file", warm=warm, names_file=False)
    yield worker
    print(f"\npeak of memory: {worker.peak >> 20} MiB")
    worker.close()


def judge(worker: Worker, folder: Path, group: str, data: bytes) -> Verdict:
    path = folder / f"input.{group}"
    path.write_bytes(data)
    verdict = worker(path)
    assert verdict.passes, (group, data[:1], data[1:2000], verdict)
    return verdict


def spoil(worker: Worker, folder: Path, group: str, examples: int) -> None:
    @settings(max_examples=examples, **COMMON)
    @given(st.sampled_from(sorted(cached_seeds(group))), text_changes())
    def spoil_one(name: str, changes: list[tuple[Any, ...]]) -> None:
        seed = cached_seeds(group)[name]
        judge(worker, folder, group, seed[:1] + changed(seed[1:], changes))

    spoil_one()


@pytest.mark.parametrize("group", MODULES)
def test_what_is_spoiled_opens_or_is_refused(worker: Worker, folder: Path, group: str) -> None:
    spoil(worker, folder, group, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("group", MODULES)
def test_much_that_is_spoiled_opens_or_is_refused(worker: Worker, folder: Path, group: str) -> None:
    spoil(worker, folder, group, THOROUGH)


@pytest.mark.parametrize("group", MODULES)
def test_each_door_has_a_seed_that_opens(worker: Worker, folder: Path, group: str) -> None:
    opened = {
        name.rpartition("-")[0]
        for name, data in cached_seeds(group).items()
        if judge(worker, folder, group, data).kind == "opened"
    }
    assert opened == {door.name for door in doors(group)}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_once_found_stays_mended(worker: Worker, folder: Path, name: str) -> None:
    group, door, data = FOUND[name]
    number = [one.name for one in doors(group)].index(door)
    judge(worker, folder, group, bytes([number]) + data)
