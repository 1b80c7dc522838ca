"""The ledger on an object store: lines in objects that are put again until they are full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tilekit import journal
from tilekit.ledger import Ledger, mark_started, stages
from tilekit.place import RemotePath
from tilekit.store import put_file


def add(total: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    return {"n": total.get("n", 0) + part.get("n", 0)}


def test_lines_fill_one_object_after_another_in_order(bucket: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "PART_BYTES", 100)
    log = bucket / "ledger"
    for i in range(40):
        journal.append_line(log, json.dumps({"line": i}).encode())
    assert [line["line"] for line in journal.read_lines(log)] == list(range(40))
    names = [part.name for part in journal.parts(log)]
    assert names == [f"{i:08}.jsonl" for i in range(len(names))]
    assert 4 < len(names) < 10
    journal.remove(log)
    assert list(journal.read_lines(log)) == []


@pytest.mark.parametrize("is_remote", [True, False])
def test_a_ledger_continues_from_what_is_recorded_and_sound(
    bucket: RemotePath, tmp_path: Path, is_remote: bool
) -> None:
    out = bucket / "out.zarr" if is_remote else tmp_path / "out.zarr"
    ledger = Ledger(out, "stage", 5, add)
    ledger.begin({"block": 64})
    ledger.replay()
    for i in range(4):
        assert not mark_started(ledger.folder, i)
        ledger.add(i, [put_file(out, f"c/{i}", bytes(10 + i))], {"n": i})
        if i % 2:
            ledger.flush()
    assert mark_started(ledger.folder, 4) is False
    (out / "c/1").unlink()
    (out / "c/2").write_bytes(b"torn")
    again = Ledger(out, "stage", 5, add)
    again.begin({"block": 64})
    again.replay()
    assert list(again.missing()) == [1, 2, 4]
    assert again.total() == {"n": 6}
    assert mark_started(again.folder, 4) is True
    assert stages(out) == [{"stage": "stage", "done": 4, "blocks": 5}]
