"""A real S3 server that refuses, tears and dies, and a driver that dies too: the bytes of a disk all the same."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.cloud.ceph import Gateway, ceph
from tests.cloud.servers import FaultyProxy, download, environment, make_bucket, upload
from tests.faults.harness import N_BLOCKS, OPTIONS, Run, assert_same, call, make_image, make_model, start
from tilekit import status
from tilekit.place import RemotePath, as_url

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SECONDS_AWAY = 10
INPUTS = ("a.tif", "m.safetensors", "truth.npy")
LABEL = ["--min-size", "3", "--fill-holes", "20", "--overwrite", "--workers", "0"]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with ceph() as running:
        yield running


@pytest.fixture
def proxy(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """What all processes of the test take for the server: one request in ten refused, one in twenty torn."""
    with FaultyProxy(gateway.port, refused=0.1, torn=0.05) as running:
        for name, value in environment(running.port).items():
            monkeypatch.setenv(name, value)
        make_bucket(gateway.port, "images")
        yield running


def recorded(out: RemotePath, stage: str) -> int:
    """Blocks of a stage in its ledger."""
    found = status(str(out))["stages"] if (out / ".tilekit").is_dir() else []
    return next((s["done"] for s in found if s["stage"] == stage), 0)


def wait_until_recorded(run: Run, out: RemotePath, stage: str, blocks: int) -> None:
    while recorded(out, stage) < blocks:
        assert run.process.poll() is None, run.process.communicate()
        time.sleep(0.3)


def must(*arguments: str) -> dict[str, object]:
    done = call(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_ingest_segment_label_and_evaluate_through_faults_a_dead_server_and_a_dead_driver(
    gateway: Gateway, proxy: FaultyProxy, tmp_path: Path
) -> None:
    make_image(tmp_path / "a.tif")
    make_model(tmp_path / "m.safetensors")
    np.save(tmp_path / "truth.npy", (tifffile.imread(tmp_path / "a.tif") > 127).astype(np.uint8))
    bucket = as_url("s3://images/plate 1")
    for name in INPUTS:
        upload(tmp_path / name, bucket / name)

    def commands(folder: object, workers: int) -> tuple[list[str], ...]:
        a, m, truth = (f"{folder}/{name}" for name in INPUTS)
        out, several = f"{folder}/out.zarr", ["--workers", str(workers)]
        return (
            ["ingest", a, f"{folder}/image.zarr", "--block", "64", *several],
            ["segment", a, m, out, *OPTIONS, "--objects", *several],
            ["label", out, *LABEL],
            ["evaluate", out, truth, "--out", f"{folder}/scores", "--block", "64"],
        )

    for command in commands(tmp_path, 0):
        must(*command)
    ingest, segment, label, evaluate = commands(bucket, 2)
    must(*ingest)

    out = bucket / "out.zarr"
    run = start([*segment, "--json"], tmp_path)
    wait_until_recorded(run, out, "predict", 5)
    gateway.kill()
    time.sleep(SECONDS_AWAY)
    gateway.start()
    second = call(*segment)
    assert second.returncode == 2, second.stderr
    assert "another run is writing it; wait for it, or choose another output" in second.stderr
    wait_until_recorded(run, out, "predict", 30)
    run.kill_tree()
    done = recorded(out, "predict")
    again = must(*segment)
    print(
        f"driver killed at {done} of {N_BLOCKS} blocks: {again['written']} written and {again['redone']} redone after"
    )
    assert again["written"] == N_BLOCKS - done
    must(*label)
    must(*evaluate)

    copy = download(bucket, tmp_path / "copy")
    for store in ("image.zarr", "out.zarr"):
        assert_same(copy / store, tmp_path / store)
    left_out = ("seconds", "redone", "output")
    mine, theirs = (json.loads((f / "scores/scores.json").read_text()) for f in (copy, tmp_path))
    assert {k: v for k, v in mine.items() if k not in left_out} == {
        k: v for k, v in theirs.items() if k not in left_out
    }
    print(f"{proxy.counts}; {sum(path.is_file() for path in copy.rglob('*'))} objects")
    assert min(proxy.counts.values()) > 10


def test_wrong_credentials_are_one_line_and_status_2(
    gateway: Gateway, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_image(tmp_path / "a.tif", 100)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-7f3a")
    for arguments in (["s3://images/a.tif", str(tmp_path / "a.zarr")], [str(tmp_path / "a.tif"), "s3://images/a.zarr"]):
        done = call("ingest", *arguments, "--workers", "0")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "the server refuses these credentials; correct those in the environment" in done.stderr
        assert "wrong-7f3a" not in done.stderr
