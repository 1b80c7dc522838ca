"""The plan: counts against enumeration, promises, refusals, and what a million by a million pixels cost to plan."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from models import UNet, load, save
from tests.oracles import PlainFilter
from tilekit.errors import InputError
from tilekit.plan import PROCESS_BYTES, ImageFacts, Plan, make_plan
from tilekit.resample import Grid
from tilekit.tiling import tiles_of

GIB = 1 << 30
MILLION = 10**6


@st.composite
def planned(draw) -> tuple[PlainFilter, Plan]:
    stride = draw(st.tuples(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 4, 16])))
    cells = st.tuples(st.integers(0, 3), st.integers(0, 3))
    predictor = PlainFilter(stride=stride, cells_before=draw(cells), cells_after=draw(cells))
    planes = draw(st.lists(st.integers(1, 3), max_size=2).map(tuple))
    shape = draw(st.tuples(st.integers(1, 400), st.integers(1, 400)))
    factors = st.just((1.0, 1.0)) | st.tuples(st.floats(0.25, 6.0), st.floats(0.25, 6.0))
    grid = Grid.fitted(shape, shape, (1.0, 1.0), draw(factors))
    unit = max(stride) if grid.is_image else 1
    block = draw(st.none() | st.integers(max(16 // unit, 1), 150 // unit).map(lambda n: n * unit))
    tile = draw(st.none() | st.integers(1, 100))
    return predictor, make_plan(ImageFacts(planes, 1, shape, 1, 0, grid), predictor, tile=tile, block=block)


@given(planned())
def test_counts_and_redundancy_are_those_of_all_tiles_enumerated(case):
    predictor, plan = case
    seen = plan.image.seen
    covers = [seen.cover(b.box, predictor.stride) for b in plan.grid]
    tiles = [t for c in covers for t in tiles_of(c, plan.core, predictor.halo, predictor.stride)]
    assert plan.n_blocks == len(list(plan.grid))
    assert plan.n_tiles == len(tiles)
    work = sum(predictor.multiply_adds(*t.computed.shape) for t in tiles)
    n_pixels = plan.grid.n_planes * seen.shape[0] * seen.shape[1]
    assert plan.multiply_adds == work
    assert plan.redundancy == pytest.approx(work / n_pixels)
    assert plan.tile_bytes >= max(predictor.activation_bytes(*t.computed.shape) for t in tiles)
    for axis in (0, 1):  # every network pixel that the image shows is in a tile of its block
        for block, cover in zip(plan.grid, covers, strict=True):
            index = seen.index(axis, block.box.start[axis], block.box.stop[axis])
            assert cover.start[axis] <= index[0] <= index[-1] == cover.stop[axis] - 1


@given(planned(), st.integers(8, 64))
def test_the_block_does_not_hang_on_the_memory_and_the_promise_keeps_to_it(case, sixteenths):
    predictor, unlimited = case
    memory = PROCESS_BYTES + sixteenths * GIB // 16
    plan = make_plan(unlimited.image, predictor, memory=memory)
    assert plan.block == make_plan(unlimited.image, predictor).block
    assert plan.worker_bytes <= memory
    assert all(c % s == 0 for c, s in zip(plan.core, predictor.stride, strict=True))
    assert max(plan.core) <= plan.block


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of the paper's network: base 64, depth 4, unpadded."""
    path = tmp_path_factory.mktemp("paper") / "paper.safetensors"
    save(UNet(), path, class_names=["background", "cell"])
    return str(path)


def test_a_block_that_is_not_a_multiple_of_the_stride_is_refused_with_the_nearest_two(paper):
    facts = ImageFacts((), 1, (5000, 5000), 1)
    with pytest.raises(InputError) as refusal:
        make_plan(facts, load(paper), block=1000)
    assert str(refusal.value) == "a block of 1000 pixels is not a multiple of the network's stride 16; use 992 or 1008"
    with pytest.raises(InputError, match=r"use 16$"):
        make_plan(facts, load(paper), block=9)
    assert make_plan(facts, load(paper), block=992).block == 992


def test_a_tile_is_rounded_down_to_the_stride(paper):
    facts = ImageFacts((), 1, (5000, 5000), 1)
    assert make_plan(facts, load(paper), tile=388).core == (384, 384)
    assert make_plan(facts, load(paper), tile=5).core == (16, 16)


def test_too_little_memory_is_refused_with_what_is_needed(paper):
    with pytest.raises(InputError, match=r"a worker needs \d\.\d\d GiB .* but has 0\.75; give more --memory"):
        make_plan(ImageFacts((), 1, (50_000, 50_000), 1), load(paper), memory=768 << 20)


def test_the_papers_network_costs_at_most_14_percent_more_than_one_pass_within_2_gib_of_activations(paper):
    predictor = load(paper)
    for shape in ((MILLION, MILLION), (100_000, 100_000), (17_408, 14_336)):
        plan = make_plan(ImageFacts((), 1, shape, 1), predictor)
        activations = predictor.activation_bytes(*plan.core)
        print(
            f"\n{shape}: core {plan.core}, activations {activations / GIB:.2f} GiB, "
            f"heap {plan.tile_bytes / GIB:.2f} GiB, redundancy {plan.redundancy:.3f}"
        )
        assert activations <= 2 * GIB
        assert plan.redundancy <= 1.14


PLAN_IN_A_FRESH_PROCESS = """
import json, shutil, sys, time
from types import SimpleNamespace

shutil.disk_usage = lambda path: SimpleNamespace(free=1 << 60)  # the terabyte that it asks for
started = time.perf_counter()
from flows.params import SegmentParameters
from flows.work import plan_file

job = plan_file(sys.argv[1], sys.argv[2], "out.zarr", SegmentParameters(workers=0))
seconds = time.perf_counter() - started
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) * 1024
print(json.dumps(dict(seconds=seconds, peak=peak, torch="torch" in sys.modules, **job.plan.to_json())))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory as Linux tells it")
def test_a_million_by_a_million_pixels_are_planned_in_two_seconds_and_200_mb_without_torch(paper, tmp_path: Path):
    """In a fresh process, from the command's own function; the store has metadata alone."""
    zarr.create_array(
        str(tmp_path / "huge.zarr"),
        shape=(MILLION, MILLION),
        chunks=(512, 512),
        shards=(4096, 4096),
        dtype="uint8",
        dimension_names=["y", "x"],
    )
    done = subprocess.run(
        [sys.executable, "-c", PLAN_IN_A_FRESH_PROCESS, "huge.zarr", paper],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(f"\nplanned in {found['seconds']:.2f} s with {found['peak'] / 1e6:.0f} MB: {found}")
    assert not found["torch"]
    assert found["block"] == 4096
    assert found["n_blocks"] == 245**2
    assert found["redundancy"] <= 1.14
    assert found["peak"] < 250e6
    assert found["seconds"] < 10  # 2 s where nothing else runs
    assert not (tmp_path / "out.zarr").exists()
