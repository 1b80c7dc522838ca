"""The flow `evaluate`: the plain run's scores, a table artifact and pictures."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

import tilekit
from flows.evaluate import evaluate
from flows.evaluate_files import EvaluateParameters
from flows.overlay import read_png
from flows.score_pictures import VOID_COLOR, colored, confusion_svg, mistakes
from tilekit.errors import InputError
from tilekit.evaluation import NOTHING


@pytest.fixture(scope="module")
def server():
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of predictions and one of truths, three pairs."""
    generator = np.random.default_rng(0)
    made = tmp_path / "prediction", tmp_path / "truth"
    for folder in made:
        folder.mkdir()
        for k in range(3):
            tifffile.imwrite(folder / f"{k}.tif", generator.integers(0, 3, (40, 60), dtype=np.uint8))
    return made


@pytest.mark.slow
def test_the_flow_gives_the_plain_runs_scores_and_publishes_them(folders, server, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    found = evaluate(*folders, parameters=EvaluateParameters(out=str(out), labels="classes"))
    plain = tilekit.evaluate(*folders)
    assert (found["miou"], found["confusion"]) == (plain["miou"], plain["confusion"])
    for name in ("scores.json", "scores.csv", "confusion.svg", "worst-1.png"):
        assert (out / name).is_file(), name
    with get_client(sync_client=True) as client:
        artifacts = {a.key: a for a in client.read_artifacts()}
    assert "evaluate-scores" in artifacts
    assert "worst-1.png" in artifacts["evaluate-pictures"].data
    assert "confusion.svg" in artifacts["evaluate-pictures"].data


@pytest.mark.slow
def test_bad_input_of_the_flow_is_an_input_error(folders, server) -> None:
    (folders[0] / "1.tif").unlink()
    with pytest.raises(InputError, match="has no 1, which is in"):
        evaluate(*folders)


def test_worst_tiles_are_pictures_of_prediction_truth_and_mistakes(folders, tmp_path: Path) -> None:
    from flows.evaluate_files import evaluate_files

    result = evaluate_files([str(f) for f in folders], EvaluateParameters(out=str(tmp_path / "out")))
    picture = read_png(tmp_path / "out" / "worst-1.png")
    assert picture.shape == (40, 3 * 60 + 2 * 4, 3)
    red = (picture[:, -60:] == (255, 70, 90)).all(-1).sum()
    assert red == result["worst"][0]["wrong"] == max(tile["wrong"] for tile in result["worst"])
    assert imagecodecs.png_check((tmp_path / "out" / "worst-1.png").read_bytes())


def test_the_confusion_matrix_shows_shares_of_each_row() -> None:
    svg = confusion_svg([[3, 1], [0, 0]], [0, 5])
    for text in (">75.0%<", ">25.0%<", ">100.0%<", "<title>5 pixels</title>", ">void<"):
        assert text in svg


def test_void_is_gray_and_never_a_mistake() -> None:
    truth, prediction = np.array([[0, 1, NOTHING]], np.uint64), np.array([[0, 2, 1]], np.uint64)
    assert tuple(colored(truth)[0, 2]) == VOID_COLOR
    red = (mistakes(prediction, truth, "classes") == (255, 70, 90)).all(-1)
    assert red.tolist() == [[False, True, False]]
