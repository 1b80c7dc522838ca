"""Real images through the command line to a valid OME-Zarr, exact by tilekit's own proof."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from benchmarks.real_input import DATA, Case, cases, converted, run
from tilekit import open_image, status

if not DATA.is_dir():
    pytest.skip("the folder of real images is not there", allow_module_level=True)

ALL = list(cases())
QUICK = {
    next(c.name for c in ALL if "fluorescence nuclei" in c.name),
    next(c.name for c in ALL if c.name.endswith("5d_testing/5d_dataset_v5.ome.zarr")),
}
"""One of each kind; the others take a minute and more together."""


def marked(case: Case) -> pytest.param:  # type: ignore[valid-type]
    marks = [] if case.name in QUICK else [pytest.mark.slow, pytest.mark.timeout(1800)]
    return pytest.param(case, id=case.name.replace(" ", "-"), marks=marks)


@pytest.mark.parametrize("case", [marked(case) for case in ALL])
def test_a_real_image_is_segmented_exactly_into_a_valid_ome_zarr(case: Case, tmp_path: Path) -> None:
    import yaozarrs

    row = run(case, tmp_path, workers=2 if case.slow else 0)
    print(f"\n{row}")
    assert row.differing == 0
    assert row.max_abs_dp < 1e-4
    assert status(row.out)["status"] == "complete"
    for name in ("", "labels/classes"):
        yaozarrs.validate_zarr_store(str(row.out / name))
    level = int(case.arguments[case.arguments.index("--level") + 1]) if "--level" in case.arguments else 0
    image, stored = open_image(converted(case, tmp_path), level=level), open_image(row.out)
    assert (stored.axes, stored.shape, stored.dtype) == (image.axes, image.shape, image.dtype)
    assert stored.pixel_size == pytest.approx(image.pixel_size)
    corner = [(0, min(n, 300)) for n in image.shape]
    assert (stored.read(corner) == image.read(corner)).all()
    classes = zarr.open_array(str(row.out / "labels/classes/0"), mode="r")
    assert classes.shape == tuple(n for a, n in zip(image.axes, image.shape, strict=True) if a != "c")
    assert sum(row.classes.values()) == np.prod(classes.shape)
    assert "255" not in row.classes
