"""What `tilekit evaluate` says to people."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

import tilekit
from flows.evaluate_command import for_people

TILEKIT = Path(sys.executable).with_name("tilekit")


def test_of_many_classes_those_that_occur_are_shown() -> None:
    prediction, truth = np.uint8([[0, 200, 200, 7]]), np.uint8([[0, 200, 3, 3]])
    shown = for_people(tilekit.evaluate(prediction, truth))
    assert "confusion" not in shown
    assert shown["iou"] == {0: 1.0, 3: 0.0, 7: 0.0, 200: 0.5}
    assert "confusion" in for_people(tilekit.evaluate(prediction % 8, truth % 8))


def test_a_truth_of_0_and_255_is_noted(tmp_path: Path) -> None:
    truth = np.zeros((8, 8), np.uint8)
    truth[:4] = 255
    np.save(tmp_path / "truth.npy", truth)
    np.save(tmp_path / "found.npy", np.uint8(np.eye(8)))

    def said(*options: str) -> str:
        command = [str(TILEKIT), "evaluate", str(tmp_path / "found.npy"), str(tmp_path / "truth.npy"), *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    assert "--map 0=0,255=1" in said()
    assert said("--map", "0=0,255=1") == ""
