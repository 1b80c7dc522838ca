"""The inbox without a server: by content and once, failures put aside, killed and gone on with, never two at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.inbox_state import State
from flows.limits import limit_of
from flows.params import InboxParameters, SegmentParameters, checked
from flows.tick import run_tick
from flows.work import plan_file, segment_file
from tests.faults.harness import assert_same, begun, environment, make_image, make_model, recorded, shards, unrecorded
from tilekit.errors import InputError
from tilekit.jobs.segment import ingest_stage, predict_stage
from tilekit.lock import lock

PLAIN = SegmentParameters(workers=0, device="cpu", block=128, tile=64)


@dataclass
class Inbox:
    folder: Path
    model: Path
    out: Path

    def tick(self, segment: SegmentParameters = PLAIN, **options: Any) -> dict[str, str]:
        """A tick's statuses by name."""
        return {Path(r["image"]).name: r["status"] for r in self.rows(segment, **options)}

    def rows(self, segment: SegmentParameters = PLAIN, **options: Any) -> list[dict[str, Any]]:
        quick = {"settle_seconds": 0, "retry_seconds": 0, "segment": segment, **options}
        return run_tick(str(self.folder), self.model, self.out, InboxParameters(**quick))

    def stores(self) -> list[str]:
        return sorted(p.name for p in self.out.glob("*.zarr"))

    def times(self, name: str) -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in shards(self.out / name)}


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    """A folder with an image, one of the same stem, a spoiled one and a text."""
    found = Inbox(tmp_path / "in", tmp_path / "model.safetensors", tmp_path / "out")
    found.folder.mkdir()
    make_image(found.folder / "a.tif", 150, seed=1)
    make_image(found.folder / "a.tiff", 100, seed=2)
    (found.folder / "b.tif").write_text("This is not an image.\n")
    (found.folder / "notes.txt").write_text("mine")
    make_model(found.model)
    return found


def test_each_image_is_done_once_as_if_alone_and_the_next_tick_does_nothing(inbox: Inbox, tmp_path: Path) -> None:
    assert inbox.tick() == {"a.tif": "segmented", "a.tiff": "segmented", "b.tif": "put aside", "notes.txt": "left out"}
    assert inbox.stores() == ["a.tif.zarr", "a.tiff.zarr"]
    for name in ("a.tif", "a.tiff"):
        alone = tmp_path / f"{name}.zarr"
        segment_file(inbox.folder / name, inbox.model, alone, PLAIN)
        assert_same(inbox.out / f"{name}.zarr", alone)
    reason = json.loads((inbox.out / "aside/b.tif.json").read_text())
    assert "not an image" in reason["reason"]
    assert reason["tries"] == 3
    assert (inbox.folder / "b.tif").exists()
    before = {name: inbox.times(name) for name in inbox.stores()}
    assert inbox.tick() == {"notes.txt": "left out"}
    assert {name: inbox.times(name) for name in inbox.stores()} == before


def test_contents_decide_and_neither_name_nor_time(inbox: Inbox, tmp_path: Path) -> None:
    inbox.tick()
    os.utime(inbox.folder / "a.tif", (0, 0))
    shutil.copy(inbox.folder / "a.tif", inbox.folder / "c.tif")
    assert inbox.tick() == {"c.tif": "same", "notes.txt": "left out"}
    assert inbox.stores() == ["a.tif.zarr", "a.tiff.zarr"]
    facts = (inbox.folder / "a.tif").stat()
    make_image(inbox.folder / "a.tif", 150, seed=7)
    os.utime(inbox.folder / "a.tif", ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as a careless copy leaves it
    assert inbox.tick() == {"a.tif": "segmented", "c.tif": "segmented", "notes.txt": "left out"}
    for name in ("a.tif", "c.tif"):
        segment_file(inbox.folder / name, inbox.model, tmp_path / f"{name}.zarr", PLAIN)
        assert_same(inbox.out / f"{name}.zarr", tmp_path / f"{name}.zarr")


def test_of_two_new_images_of_equal_contents_one_is_done(inbox: Inbox) -> None:
    shutil.copy(inbox.folder / "a.tif", inbox.folder / "z.tif")
    assert inbox.tick()["z.tif"] == "waiting"
    assert inbox.tick() == {"z.tif": "same", "notes.txt": "left out"}


def test_an_image_that_still_changes_waits(inbox: Inbox) -> None:
    started = time.monotonic()
    assert set(inbox.tick(settle_seconds=1.0).values()) == {"waiting", "left out"}
    rows = {Path(r["image"]).name: r for r in inbox.rows(settle_seconds=3600)}
    assert "taken after 3600 s" in rows["a.tif"]["reason"]
    time.sleep(max(0.0, 1.05 - (time.monotonic() - started)))
    make_image(inbox.folder / "a.tif", 150, seed=8)
    assert inbox.tick(settle_seconds=1.0) == {
        "a.tif": "waiting", "a.tiff": "segmented", "b.tif": "put aside", "notes.txt": "left out",
    }  # fmt: skip


def test_an_image_put_aside_is_tried_again_when_contents_options_or_model_change_or_asked(inbox: Inbox) -> None:
    inbox.tick()
    assert inbox.tick(again=["b*"])["b.tif"] == "put aside"
    assert inbox.tick(PLAIN.model_copy(update={"pixel_size": "0.5"}))["b.tif"] == "put aside"
    assert "b.tif" not in inbox.tick(PLAIN.model_copy(update={"pixel_size": "0.5"}))
    make_image(inbox.folder / "b.tif", 90, seed=3)
    assert inbox.tick()["b.tif"] == "segmented"
    assert not (inbox.out / "aside/b.tif.json").exists()


def test_a_new_model_redoes_old_images_only_if_asked(inbox: Inbox, tmp_path: Path) -> None:
    (inbox.folder / "b.tif").unlink()
    inbox.tick()
    make_model(inbox.model, base=4)
    assert inbox.tick() == {"notes.txt": "left out"}
    assert inbox.tick(redo_with_new_model=True) == {
        "a.tif": "segmented",
        "a.tiff": "segmented",
        "notes.txt": "left out",
    }
    segment_file(inbox.folder / "a.tif", inbox.model, tmp_path / "alone.zarr", PLAIN)
    assert_same(inbox.out / "a.tif.zarr", tmp_path / "alone.zarr")


def test_an_image_put_aside_is_moved_if_asked_and_never_over_another(inbox: Inbox, tmp_path: Path) -> None:
    aside = tmp_path / "bad"
    inbox.tick(move_aside=str(aside), retries=0)
    (inbox.folder / "b.tif").write_text("This neither.\n")
    inbox.tick(move_aside=str(aside), retries=0)
    assert sorted(p.name for p in aside.iterdir()) == ["b-1.tif", "b.tif"]
    assert not (inbox.folder / "b.tif").exists()


def test_a_second_tick_is_refused_and_its_lock_is_not_left(inbox: Inbox) -> None:
    with lock(inbox.out), pytest.raises(InputError, match="another run is writing it"):
        inbox.tick()
    assert inbox.tick()["a.tif"] == "segmented"


def test_what_is_no_images_fault_ends_the_tick_and_puts_none_aside(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(inbox.folder)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    from tilekit.errors import RunError

    with pytest.raises(RunError, match="0 bytes are free"):
        inbox.tick()
    assert not any(r.aside for r in State.read(inbox.out).images.values())
    monkeypatch.undo()
    assert inbox.tick()["a.tif"] == "segmented"


def test_a_state_that_is_none_is_refused_and_parameters_have_limits(inbox: Inbox) -> None:
    inbox.out.mkdir()
    (inbox.out / "inbox.json").write_text('{"version": 1, "images": 3}')
    with pytest.raises(InputError, match=r"inbox\.json: is no state of an inbox"):
        inbox.tick()
    with pytest.raises(InputError, match="--at-once 0"):
        checked(InboxParameters, at_once=0)
    with pytest.raises(InputError, match="not for an inbox"):
        checked(InboxParameters, segment={"overwrite": True})
    with pytest.raises(InputError, match="is the folder of the images"):
        run_tick(str(inbox.folder), inbox.model, inbox.folder, InboxParameters())


@pytest.mark.slow
def test_several_at_once_give_the_same_bytes(inbox: Inbox, tmp_path: Path) -> None:
    for seed in range(3, 6):
        make_image(inbox.folder / f"{seed}.tif", 200, seed=seed)
    statuses = inbox.tick(PLAIN.model_copy(update={"workers": None}), at_once=2)
    assert sorted(statuses.values()) == ["left out", "put aside", *["segmented"] * 5]
    for name in ("3.tif", "a.tif"):
        segment_file(inbox.folder / name, inbox.model, tmp_path / "alone" / name, PLAIN)
        assert_same(inbox.out / f"{name}.zarr", tmp_path / "alone" / name)


def test_a_killed_tick_is_gone_on_with_by_the_next(inbox: Inbox, tmp_path: Path) -> None:
    make_image(inbox.folder / "a.tif", 400, seed=4)
    program = (
        "import sys; from flows.params import *; from flows.tick import run_tick; "
        "run_tick(*sys.argv[1:4], InboxParameters(settle_seconds=0, segment=SegmentParameters.model_validate_json("
        "sys.argv[4])))"
    )
    segment = SegmentParameters(workers=0, device="cpu", block=64, tile=32)
    arguments = [str(inbox.folder), str(inbox.model), str(inbox.out), segment.model_dump_json()]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], env=environment())
    out = inbox.out / "a.tif.zarr"
    while begun(out, "predict") < 10:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept, left = recorded(out, "predict"), len(unrecorded(out, "predict"))
    row = next(r for r in inbox.rows(segment) if r["image"].endswith("a.tif"))
    print(f"killed with {kept} of 49 blocks recorded and {left} begun; {row['redone']} redone")
    assert (row["status"], row["blocks"], row["written"]) == ("segmented", 49, 49 - kept)
    assert row["redone"] <= left
    segment_file(inbox.folder / "a.tif", inbox.model, tmp_path / "alone.zarr", segment)
    assert_same(out, tmp_path / "alone.zarr")


def test_a_stage_on_a_gpu_has_the_tag_whose_limit_the_server_keeps(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = plan_file(inbox.folder / "a.tif", inbox.model, inbox.out, PLAIN.model_copy(update={"device": "cuda:1"}))
    on_cpu = plan_file(inbox.folder / "a.tif", inbox.model, inbox.out, PLAIN)
    assert limit_of(predict_stage, (on_gpu,)) == ["gpu"]
    assert limit_of(ingest_stage, (on_gpu,)) == limit_of(predict_stage, (on_cpu,)) == []
    monkeypatch.setenv("TILEKIT_GPU_LIMIT", "gpu-of-this-machine")
    assert limit_of(predict_stage, (on_gpu,)) == ["gpu-of-this-machine"]


@pytest.mark.parametrize("flow", ["inbox", "segment", "train", "evaluate", "ingest", "label", "weigh"])
def test_every_field_of_a_form_says_what_it_is(flow: str) -> None:
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(load_flow_from_entrypoint(f"flows.{flow}.{flow}"))
    fields = [schema.properties, *(d["properties"] for d in schema.definitions.values() if "properties" in d)]
    silent = [name for group in fields for name, field in group.items() if not field.get("description")]
    assert not silent
