"""One image, one network and one undisturbed run for all faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import load
from tests.faults.harness import BLOCK, TILE, Case, make_image, make_model
from tilekit import open_image, predict


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("faults")
    found = Case(folder / "image.tif", folder / "model.safetensors", folder / "undisturbed.zarr")
    make_image(found.image)
    make_model(found.model)
    run_here(found, found.undisturbed)
    return found


def run_here(case: Case, out: Path, **options: object) -> dict[str, object]:
    """The same run in this process."""
    image = open_image(case.image, nodata=0)
    return predict(image, load(case.model), out, **{"block": BLOCK, "tile": TILE, **options})  # type: ignore[arg-type]
