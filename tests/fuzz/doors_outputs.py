"""An output that came from someone else: ledger, locks, boxes, the state of an inbox, the table of objects."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import tilekit
from flows.inbox_state import State
from flows.looking.objects import histogram_svg, survey_objects
from tests.fuzz.doors import Door, room
from tests.fuzz.seeds import pixels
from tests.looking.specimen import ByValue
from tilekit.errors import RunError
from tilekit.jobs.record import class_counts, stage_times
from tilekit.ledger import is_whole, written_digest
from tilekit.lock import _is_gone, _read
from tilekit.store import put_file
from tilekit.tables import read_rows

LEDGER = ".tilekit/predict"
TABLE = "tables/objects.parquet"


@cache
def finished() -> Path:
    """A whole small output, made where its copies will lie."""
    out = room() / "output.zarr"
    tilekit.ingest(pixels(48, 48), out, pixel_size=(0.5, 0.5))
    tilekit.predict(out, ByValue(), out)
    tilekit.label_objects(out / "labels/classes", out)
    return out.rename(room() / "finished.zarr")


def spoiled(name: str, data: bytes) -> Path:
    """A copy of it in which a file holds these bytes."""
    whole, out = finished(), room() / "output.zarr"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(whole, out)
    (out / name).write_bytes(data)
    return out


def look(out: Path) -> str:
    """All that reads the record of an output."""
    said = f"{tilekit.status(out)['status']} {class_counts(out)} {len(stage_times(out))}"
    return f"{said} {written_digest(out, 'predict')} {is_whole(out, 'predict', 'labels/objects')}"


def resumed(name: str) -> Callable[[bytes], str]:
    """Look at it, and run the same command again; a file that is spoiled must not change a pixel."""

    def read(data: bytes) -> str:
        out = spoiled(name, data)
        look(out)
        try:
            tilekit.predict(out, ByValue(), out)
        except RunError as error:
            return f"failed: {error}"
        found = [tilekit.open_image(o / "labels/classes").read(((0, 48), (0, 48))) for o in (out, finished())]
        assert (found[0] == found[1]).all(), "a record that is spoiled changes pixels"
        return "the same pixels"

    return read


def read_table(data: bytes) -> str:
    out = spoiled(TABLE, data)
    found = survey_objects(out)
    rows = read_rows(out / TABLE, [("class", ">=", 1)])
    drawn = [histogram_svg(one) for one in (found.histograms if found else [])]
    return f"{len(rows)} {len(drawn)}"


def read_inbox(data: bytes) -> str:
    folder = room() / "inbox"
    folder.mkdir(exist_ok=True)
    (folder / "inbox.json").write_bytes(data)
    return repr(State.read(folder))


def read_lock(data: bytes) -> str:
    """That of an object store."""
    put_file(room(), "lock", data)
    return f"{_is_gone(_read(room() / 'lock'))}"  # type: ignore[arg-type]


def _inbox() -> bytes:
    ended = {"digest": "d", "model": "m", "recipe": "r", "time": "t", "tries": 1, "reason": None}
    record = {"stamp": [1, 2, 3], "seen": 1.5, "digest": "d", "begun": ["d", "r"], "done": ended, "aside": ended}
    return json.dumps({"version": 1, "images": {"a.tif": record}}).encode()


def _written(name: str) -> list[bytes]:
    return [(finished() / LEDGER / name).read_bytes()]


def read_core(data: bytes) -> str:
    """Another value for the sides of the core in what a run was asked for."""
    arguments = json.loads(_written("arguments.json")[0])
    text = json.dumps(arguments | {"core": 0}).replace('"core": 0', '"core": ' + data.decode("utf-8", "replace"))
    return resumed(f"{LEDGER}/arguments.json")(text.encode())


DOORS = (
    Door("ledger", lambda: _written("ledger.jsonl"), resumed(f"{LEDGER}/ledger.jsonl")),
    Door("arguments", lambda: _written("arguments.json"), resumed(f"{LEDGER}/arguments.json")),
    Door("core", lambda: [json.dumps(json.loads(_written("arguments.json")[0])["core"]).encode()], read_core),
    Door("boxes", lambda: [b"[[[0,0],[16,16]],null]"], resumed(f"{LEDGER}/boxes.json")),
    Door("table", lambda: [(finished() / TABLE).read_bytes()], read_table),
    Door("inbox", lambda: [_inbox()], read_inbox),
    Door("lock", lambda: [b'{"machine":"m","pid":1,"begun":1.5,"token":"t","beat":3}'], read_lock),
)
