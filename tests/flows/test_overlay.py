"""The pictures hold what they say: stretched grey, washed classes, opaque outlines, colored mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from flows.overlay import INVENTED, MISSED, outline, overlay_png, side_by_side, stretch

RED = {1: (255, 0, 0)}


def square() -> NDArray[np.uint8]:
    classes = np.zeros((20, 30), np.uint8)
    classes[5:15, 10:20] = 1
    return classes


def read(path: Path) -> NDArray[Any]:
    picture: NDArray[Any] = imagecodecs.png_decode(path.read_bytes())
    return picture


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_low_becomes_black_and_high_white(dtype: type[np.uint8] | type[np.uint16]) -> None:
    image = np.array([[10, 60, 110, 200]], dtype)
    assert stretch(image, 10, 110)[0, :, 0].tolist() == [0, 128, 255, 255]
    assert stretch(image).shape == (1, 4, 3)


def test_a_flat_image_is_drawn_without_a_warning() -> None:
    assert stretch(np.full((4, 4), 7, np.uint16)).max() == 0


def test_outline_lies_on_both_sides_of_a_border() -> None:
    assert outline(np.array([[0, 0, 1, 1, 1, 2]], np.uint8))[0].tolist() == [False, True, True, False, True, True]


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_classes_are_washed_and_outlined_and_the_rest_stays_grey(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "overlay.png"
    overlay_png(np.full(shape, 100, np.uint8), square(), path, colors=RED, opacity=0.5, low=0, high=255)
    picture = read(path)
    assert (picture.shape, picture.dtype.name) == ((20, 30, 3), "uint8")
    assert picture[0, 0].tolist() == picture[4, 12].tolist() == [100, 100, 100]  # outside, even right beside it
    assert picture[10, 15].tolist() == [178, 50, 50]  # half image, half red; 177.5 rounds to even
    assert picture[5, 15].tolist() == [240, 10, 10]  # the border, nine tenths red


def test_void_and_classes_without_a_color_stay_clear(tmp_path: Path) -> None:
    path = tmp_path / "overlay.png"
    overlay_png(np.full((20, 30), 50, np.uint8), square() * np.uint8(255), path, colors=RED, low=0, high=255)
    assert np.unique(read(path)).tolist() == [50]


def test_panels_are_image_overlay_and_mistakes(tmp_path: Path) -> None:
    path, image = tmp_path / "panels.png", np.full((20, 30), 90, np.uint8)
    truth = square()
    truth[5:15, 19], truth[5:15, 9], truth[0, :] = 0, 1, 255
    side_by_side(image, square(), truth, path, colors=RED, low=0, high=255)
    picture = read(path)
    assert picture.shape == (20, 3 * 30 + 2 * 4, 3)
    assert (picture[:, :30] == 90).all()
    assert (picture[:, 30:34] == 255).all()
    mistakes = picture[:, 68:]
    assert mistakes[10, 9].tolist() == list(MISSED)
    assert mistakes[10, 19].tolist() == list(INVENTED)
    assert mistakes[0, 3].tolist() == mistakes[10, 15].tolist() == [30, 30, 30]  # void, and right
