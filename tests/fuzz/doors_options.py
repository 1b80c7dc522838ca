"""What is typed or asked: places and URLs, options of the command line, requests to the viewer's server."""

from __future__ import annotations

import contextlib
import re
import socket
from functools import cache
from threading import Thread
from typing import Any

from flows.evaluate_files import EvaluateParameters
from flows.images import is_several
from flows.looking.server import check_origin, listen, open_viewer, server_of
from flows.params import ImageParameters, SegmentParameters, WeighParameters, checked
from flows.parsing import parse_box, parse_bytes, parse_pair
from tests.fuzz.doors import Door, room
from tests.fuzz.doors_ngff import output
from tests.fuzz.seeds import pixels
from tilekit.box import Box
from tilekit.evaluation import Rules, parse_map, parse_void
from tilekit.place import RemotePath, as_path, beside
from tilekit.sources import open_image

SECRET = b"what nobody may read"


def read_place(data: bytes) -> str:
    """A path or URL, and what is done with it before anything is asked of a server."""
    text = data.decode("utf-8", "surrogateescape")
    path = as_path(text)
    beside(room(), text)
    if isinstance(path, RemotePath):
        parts = [path.key, path.name, path.suffix, (path / "a").parent, path.with_name("b") if path.name else path]
        assert as_path(str(path)) == path, (text, path)
        assert "@" not in path.parts[1], text
        return f"{path!r} {parts}"
    is_several(path)
    return repr(path)


def read_option(kind: type[Any], name: str, data: bytes) -> object:
    return checked(kind, **{name: data.decode("utf-8", "replace")})


def read_opening(data: bytes) -> str:
    """channels|pixel_size|nodata|axes|level, as one text."""
    parts = [*data.decode("utf-8", "replace").split("|"), "", "", "", "", ""]
    names = ("channels", "pixel_size", "nodata", "axes", "level", "t")
    given = {name: part or None for name, part in zip(names, parts, strict=False)}
    parameters = checked(ImageParameters, **given)
    source = open_image(pixels(3, 9, 9), **parameters.opening())
    source.read(Box((0,) * len(source.shape), source.shape))
    return f"{source.axes} {source.shape} {source.nodata}"


def read_rules(data: bytes) -> object:
    """map|void of a truth."""
    mapping, _, void = data.decode("utf-8", "replace").partition("|")
    checked(EvaluateParameters, map=mapping, void=void)
    return Rules.of("classes", parse_map(mapping), parse_void(void))


def read_small(data: bytes) -> object:
    """Sizes, pairs, boxes and origins."""
    text = data.decode("utf-8", "replace")
    found, refusal = [], None
    for parse in (parse_bytes, parse_pair, parse_box, check_origin):
        try:
            found.append(parse(text))
        except ValueError as error:
            if type(error) is ValueError:
                raise
            refusal = error
    for name in ("split", "block", "memory", "device", "box", "tile"):
        with contextlib.suppress(ValueError):
            read_option(SegmentParameters, name, data)
    with contextlib.suppress(ValueError):
        read_option(WeighParameters, "sigma", data)
    if not found and refusal is not None:
        raise refusal
    return found


@cache
def port() -> int:
    """Of a viewer in this process, with a secret beside its store, and one behind a link in it."""
    store = output("0.5")
    (store.parent / "secret").write_bytes(SECRET)
    with contextlib.suppress(FileExistsError):
        (store / "link").symlink_to(store.parent / "secret")
    (store / ".hidden").write_bytes(SECRET)
    listener = listen(0)
    server = server_of(open_viewer(store, "TOKEN"))
    Thread(target=server.run, args=([listener],), daemon=True).start()
    return int(listener.getsockname()[1])


def ask(data: bytes) -> str:
    """What a client may send: the secret is told to nobody, nothing is an error of the server, which lives on."""
    answer = _exchange(data)
    assert SECRET not in answer, data
    status = re.findall(rb"HTTP/1\.1 (\d{3})", answer)
    assert not [s for s in status if s.startswith(b"5")], (data, answer[:200])
    if not answer:
        assert _exchange(_requests()[2]).startswith(b"HTTP/1.1 200"), (data, "ended the server")
    return f"{status}"


def _exchange(data: bytes) -> bytes:
    """What comes back until nothing does: a request may be torn, and the stream of events never ends."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port()), timeout=5) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        connection.settimeout(5 if b"\r\n\r\n" in data else 0.2)
        while len(answer) < 1 << 16 and (part := connection.recv(1 << 16)):
            answer += part
            connection.settimeout(0.2)
    return answer


def _requests() -> list[bytes]:
    ends = b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    paths = ["", "state.json", "store.zarr/zarr.json", "store.zarr/..%2fsecret", "store.zarr/link", "v/viewer/"]
    paths += ["store.zarr-names/classes/info"]
    found = [b"GET /TOKEN/" + path.encode() + ends + b"\r\n" for path in paths]
    found.append(b"GET /TOKEN/store.zarr/0/c/0/0" + ends + b"Range: bytes=-20, 3-4\r\nIf-Range: x\r\n\r\n")
    found.append(b"OPTIONS /TOKEN/" + ends + b"Origin: http://a\r\nAccess-Control-Request-Method: GET\r\n\r\n")
    return found


DOORS = (
    Door(
        "place",
        lambda: [b"s3://bucket/key one/a.zarr", b"https://host:80/a%20b.tif", b"gs://b/k", b"az://c/k", b"~/a*.tif"],
        read_place,
    ),
    Door("opening", lambda: [b"0,2|0.5,10um|7|cyx|0|", b"2||nan||"], read_opening),
    Door("rules", lambda: [b"0=0,255=1,-1=void|none", b"0=0|7"], read_rules),
    Door("small", lambda: [b"4GB", b"0.6,2.5", b"0:512,100:400", b"https://viewer.example"], read_small),
    Door("request", _requests, ask),
)
