"""What a store says of its image: OME-NGFF of both versions, labels, colors, tilekit's own attributes, GeoZarr."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import tilekit
from flows.info import facts_for_people, image_facts
from flows.looking.shown import channels_of, open_store
from flows.looking.state import viewer_state
from tests.fuzz.doors import Door, room
from tests.fuzz.seeds import geotiff, pixels
from tests.fuzz.worker import open_and_read
from tests.looking.specimen import ByValue
from tilekit import open_image


@cache
def output(version: str, placed: bool = False) -> Path:
    """A small output with a class map, in both versions; `placed`: a satellite image on the ground, without one."""
    out = room() / f"ngff-{version}{'-placed' if placed else ''}.zarr"
    if placed:
        image = room() / "placed.tif"
        image.write_bytes(geotiff())
        tilekit.ingest(image, out, ngff=version)
        return out
    tilekit.ingest(pixels(48, 48), out, ngff=version, pixel_size=(0.5, 0.5))
    tilekit.predict(out, ByValue(), out)
    return out


def look(out: Path) -> str:
    """All that asks a store what it shows."""
    said = open_and_read(str(out))
    facts_for_people(image_facts(str(out), open_image(str(out))))
    image, _ = open_store(out)
    if image is not None:
        channels_of(image, out)
    viewer_state(out, "http://127.0.0.1/")
    return said


def attributes(store: Path, below: str) -> Door:
    """The attributes of a group or array of a store, as JSON."""

    def file() -> Path:
        folder = store_of() / below
        return folder / ("zarr.json" if (folder / "zarr.json").exists() else ".zattrs")

    def store_of() -> Path:
        return output(*STORES[store.name])

    def seeds() -> list[bytes]:
        content = json.loads(file().read_bytes())
        return [json.dumps(content.get("attributes", content), separators=(",", ":")).encode()]

    def read(data: bytes) -> str:
        before = file().read_bytes()
        # within a document that is right, so that the fuzzer spends its time on what it says
        whole = b'{"zarr_format":3,"node_type":"group","attributes":' + data + b"}"
        if below and below[-1].isdigit():
            document = json.loads(before)
            document["attributes"] = 0
            whole = json.dumps(document).encode().replace(b'"attributes": 0', b'"attributes":' + data)
        file().write_bytes(whole if file().name == "zarr.json" else data)
        try:
            return look(store_of())
        finally:
            file().write_bytes(before)

    return Door(f"{store.name}-{below.replace('/', '-') or 'root'}", seeds, read)


STORES: dict[str, tuple[Any, ...]] = {"0.5": ("0.5",), "0.4": ("0.4",), "placed": ("0.5", True)}
DOORS = tuple(
    attributes(Path(name), below)
    for name, below in (
        ("0.5", ""),
        ("0.4", ""),
        ("0.5", "labels"),
        ("0.5", "labels/classes"),
        ("0.4", "labels/classes"),
        ("0.5", "0"),
        ("placed", ""),
        ("placed", "0"),
        ("placed", "spatial_ref"),
    )
)
