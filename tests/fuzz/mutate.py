"""Ways to spoil a file: bytes anywhere, entries of a TIFF's directories, fields of PNG and npy, values of a JSON."""

from __future__ import annotations

import copy
import json
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

NUMBERS = [0, 1, 2, 3, 7, 8, 16, 17, 127, 255, 256, 32767, 32768, 65535, 65536, 10**6, 2**31 - 1, 2**31, 2**32 - 1]
NUMBERS += [2**32, 10**12, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
"""Numbers at which code breaks."""
JSON_VALUES = [None, True, -1, 0, 1, 1.5, 2**31, 2**40, 2**63, 2**70, 1e300, "", "x", "0", [], {}, [[]], [0], [-1, 3]]
JSON_VALUES += [[2**40, 2**40], [10**6, 10**6], {"a": 1}, "float64", "|O", "<U8", "bytes", "NaN", "../..", "\0", [None]]


@dataclass(frozen=True)
class Entry:
    """One entry of a directory of a TIFF."""

    start: int
    tag: int
    kind: int
    count: int
    big: bool
    order: str
    pointer: int
    """The value read as a place in the file, which it is where it does not fit the entry."""

    @property
    def value_at(self) -> int:
        return self.start + (12 if self.big else 8)


def entries(data: bytes) -> list[Entry]:
    """Entries of all directories of a valid TIFF, those below others included."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    todo, found, seen = [struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]], [], set()
    while todo:
        at = todo.pop()
        if not at or at in seen:
            continue
        seen.add(at)
        (n,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
        start, size = at + (8 if big else 2), 20 if big else 12
        for i in range(n):
            form = order + ("HHQQ" if big else "HHII")
            tag, kind, count, pointer = struct.unpack_from(form, data, start + i * size)
            found.append(Entry(start + i * size, tag, kind, count, big, order, pointer))
            if tag == 330 and count == 1:
                todo.append(pointer)
        todo.append(struct.unpack_from(order + ("Q" if big else "I"), data, start + n * size)[0])
    return found


def _put(data: bytearray, at: int, form: str, value: int) -> None:
    size = struct.calcsize(form)
    if 0 <= at <= len(data) - size:
        data[at : at + size] = struct.pack(form, value % (1 << 8 * size))


def tiff_entry(data: bytearray, known: list[Entry], which: int, field: str, value: int) -> None:
    """Change tag, type, count or value of an entry, the first number that it points to, or the next directory."""
    entry = known[which % len(known)]
    wide = "Q" if entry.big else "I"
    if field in ("tag", "type"):
        _put(data, entry.start + (0 if field == "tag" else 2), entry.order + "H", value)
    elif field == "count":
        _put(data, entry.start + 4, entry.order + wide, value)
    elif field == "value":
        form = "H" if entry.kind == 3 else wide
        _put(data, entry.value_at, entry.order + form, value)
    elif field == "pointed":
        _put(data, entry.pointer, entry.order + ("H" if entry.kind == 3 else "I"), value)
    elif field == "next":  # directories that lead to each other, or nowhere
        after = max(e.start for e in known if e.start - entry.start < 12 * 60) + (20 if entry.big else 12)
        _put(data, after, entry.order + wide, known[value % len(known)].start - 2)


@st.composite
def tiff_changes(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """One to four changes of a TIFF's directories, and perhaps some bytes."""
    fields = st.sampled_from(["tag", "type", "count", "value", "value", "value", "pointed", "next"])
    changes = st.tuples(st.just("entry"), st.integers(0, 60), fields, numbers())
    return draw(st.lists(changes, min_size=1, max_size=4)) + draw(byte_changes(0))


def numbers() -> st.SearchStrategy[int]:
    return st.one_of(st.sampled_from(NUMBERS), st.integers(0, 70), st.integers(0, 2**64 - 1))


def byte_changes(least: int = 1) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Bytes changed anywhere, a piece cut out, the end cut off."""
    place = st.floats(0, 1, exclude_max=True)
    return st.lists(
        st.one_of(
            st.tuples(st.just("byte"), place, st.integers(0, 255)),
            st.tuples(st.just("byte"), place, st.sampled_from([0, 1, 127, 128, 255])),
            st.tuples(st.just("cut"), place, st.integers(1, 64)),
            st.tuples(st.just("end"), place),
        ),
        min_size=least,
        max_size=6,
    )


def changed(seed: bytes, changes: list[tuple[Any, ...]]) -> bytes:
    """The file after these changes."""
    data = bytearray(seed)
    known = entries(seed) if any(change[0] == "entry" for change in changes) else []
    for kind, *how in changes:
        at = int(how[0] * len(data)) if kind in ("byte", "cut", "end", "again") and data else 0
        if kind == "entry":
            tiff_entry(data, known, *how)
        elif kind == "png":
            png_field(data, *how)
        elif kind == "npy":
            npy_field(data, *how)
        elif kind == "value":
            text_value(data, *how)
        elif kind == "again":  # a piece, once more
            data[at:at] = data[at : at + how[1]]
        elif kind == "byte" and data:
            data[at] = how[1]
        elif kind == "cut":
            del data[at : at + how[1]]
        elif kind == "end":
            del data[at:]
    return bytes(data)


def png_field(data: bytearray, which: int, value: int) -> None:
    """Width, height, bit depth, color type, compression, filter or interlace of a PNG, its checksum put right."""
    at, form = [(16, ">I"), (20, ">I"), (24, ">B"), (25, ">B"), (26, ">B"), (27, ">B"), (28, ">B")][which]
    _put(data, at, form, value)
    _put(data, 29, ">I", zlib.crc32(data[12:29]))


def npy_field(data: bytearray, field: str, text: str) -> None:
    """A field of the header of a npy file, the length of the header kept where the text is short enough."""
    header = data[10:128].decode("latin1")
    now = re.sub(rf"'{field}': (\([^)]*\)|[^,]*)", lambda _: f"'{field}': {text}", header)
    data[10:128] = now.rstrip(" \n").ljust(117).encode("latin1") + b"\n"


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to every value in a JSON document."""
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inside:
        yield (*path, key)
        yield from places(value, (*path, key))


NASTY = [str(n).encode() for n in (*NUMBERS, -1, 10**400, 1e300)]
NASTY += [b"1e999", b"NaN", b"null", b"true", b'"x"', b"[]", b"{}", b"", b"-0.0", b"0x1", b"9" * 5000]
NASTY += [b"[" * 100000, b'{"a":' * 50000, b'"\\ud800"', b'"\\u0000"', b'"a\\nb"']
"""What a value of a text may be replaced by."""


def text_changes() -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """One to three values of a text replaced, or bytes changed anywhere."""
    value = st.tuples(st.just("value"), st.integers(0, 200), st.sampled_from(NASTY))
    doubled = st.tuples(st.just("again"), st.floats(0, 1, exclude_max=True), st.integers(1, 60))
    return st.one_of(st.lists(value, min_size=1, max_size=3), st.lists(doubled, min_size=1, max_size=2), byte_changes())


def text_value(data: bytearray, which: int, value: bytes) -> None:
    """Replace a number, word, string, or list of a text."""
    found = list(re.finditer(rb'"[^"]*"|[-+.\w]+|\[[^\[\]]*\]|\{[^{}]*\}', bytes(data)))
    if found:
        chosen = found[which % len(found)]
        data[chosen.start() : chosen.end()] = value


def changed_json(seed: bytes, changes: list[tuple[int, Any]]) -> bytes:
    """The document with values replaced, or left out where the value is "delete"."""
    document = copy.deepcopy(json.loads(seed))
    for which, value in changes:
        known = list(places(document))
        if not known:
            break
        *path, last = known[which % len(known)]
        parent = document
        for key in path:
            parent = parent[key]
        if value == "delete":
            del parent[last]
        else:
            parent[last] = copy.deepcopy(value)
    return json.dumps(document).encode()
