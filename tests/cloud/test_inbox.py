"""An inbox that is a bucket: each image once, by the tags of its contents; failures put aside."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from flows.params import InboxParameters, SegmentParameters
from flows.tick import run_tick
from models import load
from tests.cloud.servers import download, upload
from tests.faults.harness import assert_same, make_image, make_model
from tilekit import predict
from tilekit.errors import InputError
from tilekit.place import RemotePath

QUICK = InboxParameters(
    settle_seconds=0, retry_seconds=0, segment=SegmentParameters(workers=0, device="cpu", block=128, tile=64)
)


@pytest.mark.slow
def test_what_is_new_or_changed_in_a_bucket_is_segmented_once(bucket: RemotePath, tmp_path: Path) -> None:
    make_image(tmp_path / "a.tif", 150, seed=1)
    (tmp_path / "b.tif").write_text("This is not an image.\n")
    make_model(tmp_path / "model.safetensors")
    for name in ("a.tif", "b.tif"):
        upload(tmp_path / name, bucket / "in" / name)
    upload(tmp_path / "model.safetensors", bucket / "model.safetensors")

    def tick() -> dict[str, str]:
        rows = run_tick(f"{bucket}/in", f"{bucket}/model.safetensors", f"{bucket}/out", QUICK)
        return {Path(r["image"]).name: r["status"] for r in rows}

    assert tick() == {"a.tif": "segmented", "b.tif": "put aside"}
    assert "not an image" in json.loads((bucket / "out/aside/b.tif.json").read_bytes())["reason"]
    assert tick() == {}
    time.sleep(1.1)  # times of objects are whole seconds
    upload(tmp_path / "a.tif", bucket / "in/a.tif")
    assert tick() == {}  # the same contents
    make_image(tmp_path / "a.tif", 150, seed=7)
    time.sleep(1.1)
    upload(tmp_path / "a.tif", bucket / "in/a.tif")
    assert tick() == {"a.tif": "segmented"}
    network = load(tmp_path / "model.safetensors", "cpu")
    predict(tmp_path / "a.tif", network, tmp_path / "a.zarr", block=128, tile=64)
    assert_same(download(bucket / "out/a.tif.zarr", tmp_path / "copy.zarr"), tmp_path / "a.zarr")


def test_no_image_is_moved_out_of_a_bucket(bucket: RemotePath, tmp_path: Path) -> None:
    make_model(tmp_path / "model.safetensors")
    parameters = QUICK.model_copy(update={"move_aside": str(tmp_path / "aside")})
    with pytest.raises(InputError, match="move_aside"):
        run_tick(f"{bucket}/in", tmp_path / "model.safetensors", tmp_path / "out", parameters)
