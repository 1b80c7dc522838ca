"""What a VRT, GDAL's image made of others, names: files beside it are its purpose, a network is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from tilekit.errors import InputError

VRT_START = b"<VRTDataset"
NAMING = ("filename", "sourcedataset", "dsname")
"""Ends of the tags whose text names a file, in lower case."""
ELSEWHERE = re.compile(r"/vsi|://", re.IGNORECASE)


def is_vrt(path: Path) -> bool:
    """Whether the file begins as a VRT does."""
    with path.open("rb") as file:
        return file.read(256).lstrip().startswith(VRT_START)


def check_vrt(path: Path) -> None:
    """Refuse a VRT that names, itself or through other VRTs, what is not a file on this machine."""
    todo, seen = [path], set()
    while todo:
        vrt = todo.pop()
        seen.add(vrt)
        root = _parse(vrt.read_bytes(), vrt)
        todo += [held for held in _files(root, vrt) if held not in seen and is_vrt(held)]


def stated_crs(path: Path) -> str | None:
    """The CRS that a VRT states, which GDAL leaves out where it doesn't know it."""
    return (_parse(path.read_bytes(), path).findtext("SRS") or "").strip() or None


def _parse(text: str | bytes, vrt: Path) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"{vrt}: cannot be read as VRT ({error}); write it again") from None


def _files(root: ElementTree.Element, vrt: Path) -> Iterator[Path]:
    """Local files that it names; refuses what is missing or elsewhere."""
    for element in root.iter():
        name = (element.text or "").strip()
        if not element.tag.lower().endswith(NAMING) or not name:
            continue
        if name.startswith("<"):
            yield from _files(_parse(name, vrt), vrt)
            continue
        if ELSEWHERE.search(name):
            raise InputError(f"{vrt}: names {name}, and nothing is fetched; copy it here and name the copy in the VRT")
        place = Path(vrt.parent, name) if element.get("relativeToVRT") == "1" else Path(name).absolute()
        if place.is_file():
            if not is_vrt(place) and _first_byte(place) == b"<":
                raise InputError(f"{vrt}: names {name}, a description that may fetch others; name an image instead")
            yield place
        elif ":" not in name and not place.exists():
            raise InputError(f"{vrt}: names {place}, which is not there; copy it too")


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(256).lstrip()[:1]
