"""`tilekit train` from end to end: a folder of pairs becomes a model, its card and curves; killed, it goes on."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness
from safetensors.numpy import load_file

import tilekit
from flows.training.run import Options, check, evaluate, fit, prepare, train_file
from flows.training.scoring import predict_samples
from models import load
from tests.models.disks import disks
from tilekit.errors import InputError, RunError

TILEKIT = Path(sys.executable).with_name("tilekit")
CONFIG = """
[data]
kind = "{kind}"
class_names = ["ground", "disk"]
[split]
by = "order"
validation = ["4"]
test = ["5"]
[weights]
kind = "{weights}"
[network]
base = 4
depth = 2
dropout = 0.2
[patches]
side = 32
batch = 2
[augment]
elastic = 1.0
[training]
steps = {steps}
learning_rate = 0.01
warm_up = 5
ema = 0.9
devices = {devices}
[validation]
every = {every}
score = "{score}"
[output]
folder = "out"
"""


def write(folder: Path, **changes: Any) -> Path:
    """Five images of disks with their classes or ids, and a configuration."""
    values = {"kind": "classes", "weights": "class", "steps": 12, "every": 6, "score": "miou", "devices": 1} | changes
    for part in ("images", "truth"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for k in range(1, 6):
        sample = disks(k, side=80, n=5)
        truth = sample.classes
        if values["kind"] == "ids":
            from skimage.measure import label

            truth = label(truth).astype(np.uint16)
        tifffile.imwrite(folder / "images" / f"f{k}.tif", sample.pixels[0])
        tifffile.imwrite(folder / "truth" / f"f{k}.tif", truth)
    (folder / "CONFIG.toml").write_text(CONFIG.format(**values))
    return folder / "CONFIG.toml"


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(TILEKIT), "train", *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("trained")
    done = run(write(folder, steps=120, every=40), "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_a_folder_of_pairs_becomes_a_model(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, result = trained
    out = folder / "out"
    p = load(result["model"])
    assert (p.class_names, p.header.normalization.kind) == (["ground", "disk"], "mean_std")
    pixels = np.stack([tifffile.imread(folder / f"images/f{k}.tif") for k in (1, 2, 3)]).astype(float)
    assert p.header.normalization.first[0] == pytest.approx(pixels.mean())  # of the training part alone
    assert p.header.normalization.second[0] == pytest.approx(pixels.std())
    assert result["test"]["miou"] > 0.85
    with (out / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["40", "80", "120"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert (out / "curves.png").stat().st_size > 5000
    assert not (out / "work").exists()


def test_tensorboard_reads_the_curves(trained: tuple[Path, dict[str, Any]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = trained
    events = EventAccumulator(str(folder / "out/events")).Reload()
    with (folder / "out/curves.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(losses)
    assert [e.step for e in events.Scalars("score")] == [40, 80, 120]


def test_the_scores_are_those_of_segment_and_evaluate(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, result = trained
    tilekit.predict(folder / "images/f5.tif", load(result["model"]), tmp_path / "f5.zarr")
    found = tilekit.evaluate(tmp_path / "f5.zarr/labels/classes", folder / "truth/f5.tif")
    assert found["miou"] == result["test"]["miou"]
    assert found["pixel_accuracy"] == result["test"]["pixel_accuracy"]


def test_the_card_says_what_the_model_is(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, result = trained
    card = Path(result["card"]).read_text()
    assert f"{result['test']['miou']:.4g}" in card
    assert "by order: 3 for train, 1 for validation, 1 for test" in card
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", card):
        assert (folder / "out" / picture).is_file(), picture
    assert "overlays/test/00.png" in card


@pytest.mark.slow
def test_thresholds_are_those_of_the_best_validation_score(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, result = trained
    prepared = prepare(folder / "CONFIG.toml")
    thresholds = load(result["model"]).header.thresholds
    assert thresholds[0] + thresholds[1] == pytest.approx(1)
    chosen = evaluate(prepared)["validation"]
    assert load(result["model"]).header.thresholds == thresholds  # tuning again finds the same
    from models.checkpoint import set_thresholds

    set_thresholds(result["model"], None)
    samples = prepared.survey.samples["validation"]
    from flows.training.scoring import score_stores

    stores = predict_samples(Path(result["model"]), samples, folder / "scratch", prepared.scoring)
    untuned = score_stores(stores, samples, prepared.scoring, 2)
    set_thresholds(result["model"], thresholds)
    assert chosen.score >= untuned.score


@pytest.mark.slow
def test_objects_are_scored_where_the_truth_has_ids(tmp_path: Path) -> None:
    result = train_file(write(tmp_path, kind="ids", weights="unet", score="ap", steps=60, every=60))
    assert 0 < result["validation"]["ap_by_image"] <= 1
    assert "seg" in result["test"]


@pytest.mark.slow
def test_training_killed_at_any_step_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """A real process, killed outright; a random time after its first stored state."""
    whole, killed = write(tmp_path / "whole", steps=60, every=10), write(tmp_path / "killed", steps=60, every=10)
    assert run(whole).returncode == 0
    process = subprocess.Popen([str(TILEKIT), "train", str(killed)])
    state = tmp_path / "killed/out/state.safetensors"
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(float(np.random.default_rng(os.getpid()).uniform(0, 1.5)))
    process.send_signal(signal.SIGKILL)
    process.wait()
    refused = run(killed)
    assert (refused.returncode, "--resume goes on with it" in refused.stderr) == (2, True)
    assert run(killed, "--resume").returncode == 0
    for name in ("last.safetensors", "model.safetensors"):
        one, other = (load_file(tmp_path / part / "out" / name) for part in ("whole", "killed"))
        assert all(np.array_equal(one[key], other[key]) for key in one), name


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    result = train_file(write(tmp_path, steps=20, every=10, devices=2))
    assert Path(result["model"]).is_file()
    broken = write(tmp_path / "broken", devices=2)
    broken.write_text(broken.read_text().replace("learning_rate = 0.01", "learning_rate = 1e2\noptimizer = 'sgd'"))
    with pytest.raises(RunError, match=r"training diverged, .*; lower learning_rate 100"):
        train_file(broken)


def test_it_starts_from_a_trained_model(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, result = trained
    again = train_file(write(tmp_path, steps=2, every=2), Options(init_from=result["model"]))
    assert again["test"]["miou"] > 0.8  # two steps from scratch learn nothing


def test_what_is_wrong_is_said_in_one_line_before_training(tmp_path: Path) -> None:
    config = write(tmp_path)
    tifffile.imwrite(tmp_path / "truth/f2.tif", np.zeros((80, 79), np.uint8))
    done = run(config)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "80 x 79" in done.stderr
    assert not (tmp_path / "out/state.safetensors").exists()
    with pytest.raises(InputError, match=r"score ap is of objects, but .* kind is classes"):
        check(write(tmp_path / "ap", score="ap"))
    odd = write(tmp_path / "odd")
    odd.write_text(odd.read_text().replace("side = 32", "side = 30"))
    with pytest.raises(InputError, match="side is 30 pixels, must be a multiple of the stride 4; take 28 or 32"):
        check(odd)


def test_there_is_something_to_resume_or_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no state to resume from; train without --resume"):
        check(write(tmp_path), Options(resume=True))


def test_init_writes_a_configuration_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "CONFIG.toml"
    assert run(path, "--init").returncode == 0
    assert "[data]" in path.read_text()
    done = run(path, "--init")
    assert (done.returncode, "is there already" in done.stderr) == (2, True)


@pytest.mark.slow
def test_a_worker_of_a_cluster_trains_the_same_model(tmp_path: Path) -> None:
    from distributed import LocalCluster

    here = train_file(write(tmp_path / "here"))
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        there = train_file(write(tmp_path / "there"), Options(scheduler=cluster.scheduler_address))
        broken = write(tmp_path / "broken")
        tifffile.imwrite(tmp_path / "broken/truth/f2.tif", np.zeros((80, 79), np.uint8))
        with pytest.raises(InputError, match="80 x 79"):
            train_file(broken, Options(scheduler=cluster.scheduler_address))
    one, other = (load_file(result["model"]) for result in (here, there))
    assert all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_the_flow_publishes_curves_and_pictures(tmp_path: Path) -> None:
    from flows.train import train

    with prefect_test_harness(server_startup_timeout=120):
        result = train(write(tmp_path))
        assert Path(result["model"]).is_file()
        with get_client(sync_client=True) as client:
            artifacts = {a.key: a for a in client.read_artifacts()}
            names = {run.name.split("-")[0] for run in client.read_task_runs()}
    assert {"train-curves", "train-overlays", "train-summary", "train-pictures"} <= set(artifacts)
    assert {"check", "fit", "evaluate", "describe"} <= names


@pytest.mark.slow
def test_a_second_try_of_a_stage_goes_on(tmp_path: Path) -> None:
    prepared = check(write(tmp_path))
    first = fit(prepared)
    assert fit(prepared) == first
