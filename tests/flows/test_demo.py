"""The demo from end to end at small sizes, and the command that trains its network."""

from __future__ import annotations

import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from flows import demo_model
from flows.demo import SEED, run_demo, score, stored_classes
from models import load
from tilekit import predict, status
from tilekit.box import Box
from tilekit.errors import InputError
from tilekit.scores import confusion, iou
from tilekit.specimen import Specimen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, object]:
    run_demo(folder, 64, workers=0)  # a second demo in the same folder starts over
    return run_demo(folder, 512, workers=0)


def test_the_demo_scores_and_proves_what_it_made(folder: Path, result: dict[str, object]) -> None:
    assert result["size"] == [512, 512]
    assert min(result["iou"].values()) > 0.85  # type: ignore[attr-defined]
    assert result["pixel_accuracy"] > 0.9  # type: ignore[operator]
    assert result["verify"]["differing_pixels"] == 0  # type: ignore[index]
    assert result["verify"]["max_abs_dp"] < 1e-4  # type: ignore[index]
    assert status(folder / "specimen.zarr")["status"] == "complete"


def test_the_score_is_that_of_the_whole_maps(
    folder: Path, result: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    specimen, out, whole = Specimen(512, SEED), folder / "specimen.zarr", Box.whole((512, 512))
    found, truth = stored_classes(out, whole), specimen.truth(whole)
    monkeypatch.setattr("flows.demo.BLOCK", 384)
    monkeypatch.setattr("flows.demo.VIEW", 128)
    counts, worst = score(specimen, out)
    assert counts.tolist() == confusion(found, truth, 2).tolist()
    wrong = (found != truth).reshape(4, 128, 4, 128).sum((1, 3))
    assert tuple(n // 128 for n in worst.start) == np.unravel_index(wrong.argmax(), wrong.shape)
    assert worst.shape == (128, 128)


def test_the_picture_has_three_panels(result: dict[str, object]) -> None:
    picture = imagecodecs.png_decode(Path(str(result["picture"])).read_bytes())
    assert picture.shape == (512, 3 * 512 + 8, 3)


@pytest.mark.parametrize("size", [65, 300])
def test_any_size_will_do(tmp_path: Path, size: int) -> None:
    assert run_demo(tmp_path, size, workers=0)["verify"]["differing_pixels"] == 0


def test_a_size_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--size 63: must be at least 64"):
        run_demo(tmp_path / "new", 63)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_worker_processes_make_the_same_classes(tmp_path: Path) -> None:
    box = Box((900, 0), (1100, 1100))
    run_demo(tmp_path / "here", 1100, workers=0)
    run_demo(tmp_path / "there", 1100, workers=2)
    here, there = (stored_classes(tmp_path / name / "specimen.zarr", box) for name in ("here", "there"))
    assert (here == there).all()


def test_a_file_in_the_folder_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="is no folder; choose another"):
            run_demo(folder, 64)


def test_the_packaged_network_is_small_and_knows_its_scale() -> None:
    predictor = load(demo_model.MODEL)
    assert demo_model.MODEL.stat().st_size < 600_000
    assert (predictor.exact, predictor.class_names) == (True, ["background", "cell"])
    assert predictor.pixel_size == Specimen.pixel_size
    assert SEED not in {*demo_model.TRAINING_SEEDS, demo_model.VALIDATION_SEED, demo_model.TEST_SEED}


def test_it_scores_above_nine_tenths_on_an_unseen_specimen(tmp_path: Path) -> None:
    unseen = Specimen(512, demo_model.TEST_SEED)
    predict(unseen, load(demo_model.MODEL), tmp_path / "out.zarr")
    counts, _ = score(unseen, tmp_path / "out.zarr")
    assert iou(counts)[1] > 0.9


def test_the_command_that_trains_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_model, "SIDE", 128)
    monkeypatch.setattr(demo_model, "TRAINING_SEEDS", range(1, 3))
    path = tmp_path / "two.safetensors"
    monkeypatch.setattr(sys, "argv", ["demo_model", "--steps", "2", "--folder", str(tmp_path), "--out", str(path)])
    demo_model.main()
    assert load(path).class_names == demo_model.CLASS_NAMES
    assert load(path).pixel_size == Specimen.pixel_size
    assert "on seed 10" in capsys.readouterr().out
    assert (tmp_path / "model" / "card.md").is_file()
