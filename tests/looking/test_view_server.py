"""The server of `tilekit view` over real sockets: ranges are served, and nothing but the store and the viewer."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from flows.looking.server import check_origin, listen, open_viewer
from tests.looking.specimen import make_store, served
from tilekit.errors import InputError

pytest.importorskip("neuroglancer", reason="no viewer here: pip install 'tilekit[view]'")

ORIGIN = "https://viewer.example"
SECRET = b"what nobody may read"
SHARD = "store.zarr/0/c/0/0"


class Server:
    """A running `tilekit view`."""

    def __init__(self, address: str, store: Path, process: subprocess.Popen[str]) -> None:
        parts = urlsplit(address)
        assert (parts.hostname, parts.port is None) == ("127.0.0.1", False)
        self.port, self.base, self.store, self.process = parts.port, parts.path, store, process

    def ask(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None, *, base: str | None = None
    ) -> tuple[HTTPResponse, bytes]:
        """Path below the address, sent as it is."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, (self.base if base is None else base) + path, headers=headers or {})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A store with links in it, and secrets beside it."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "secret").write_bytes(SECRET)
    (folder / "beside").mkdir()
    (folder / "beside" / "secret").write_bytes(SECRET)
    store = make_store(folder / "out.zarr")
    (store / "link").symlink_to(folder / "secret")
    (store / "folder").symlink_to(folder / "beside")
    (store / "gone").symlink_to(folder / "nothing")
    (store / "round").symlink_to(store / "round")
    (store / "inside").symlink_to(store / "zarr.json")
    (store / ".hidden").write_bytes(SECRET)
    with served(store, "--origin", ORIGIN) as (address, process):
        yield Server(address, store, process)


def test_whole_files_and_heads(server: Server) -> None:
    whole = (server.store / "0/c/0/0").read_bytes()
    answer, body = server.ask(SHARD)
    assert (answer.status, body, answer.headers["accept-ranges"]) == (200, whole, "bytes")
    answer, body = server.ask(SHARD, "HEAD")
    assert (answer.status, body, answer.headers["content-length"]) == (200, b"", str(len(whole)))
    assert server.ask("store.zarr/inside")[1] == (server.store / "zarr.json").read_bytes()


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-99", 10, 100),
        ("bytes=100-", 100, None),
        ("bytes=100-99999999", 100, None),  # further than the end: up to the end
        ("bytes=-68", -68, None),  # the index of a shard
        ("bytes=-99999999", 0, None),  # more than there is: all of it
    ],
)
def test_ranges(server: Server, asked: str, start: int, stop: int | None) -> None:
    whole = (server.store / "0/c/0/0").read_bytes()
    first, last = range(len(whole))[start:stop][0], range(len(whole))[start:stop][-1]
    answer, body = server.ask(SHARD, headers={"Range": asked})
    assert (answer.status, body) == (206, whole[start:stop])
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(whole)}"
    assert answer.headers["content-length"] == str(len(body))


def test_ranges_that_cannot_be(server: Server) -> None:
    size = (server.store / "0/c/0/0").stat().st_size
    for asked in (f"bytes={size}-", "bytes=-0"):
        answer, _ = server.ask(SHARD, headers={"Range": asked})
        assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{size}")
    for asked in ("bytes=9-3", "lines=1-2", "bytes=x-y"):
        assert server.ask(SHARD, headers={"Range": asked})[0].status == 400


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "..%2fsecret",
        "..%2Fsecret",
        "%2e%2e/secret",
        "%2e%2e%2fsecret",
        "0/../../secret",
        "0/..%2f..%2fsecret",
        "../beside/secret",
        "....//secret",
        "..\\secret",
        "..%5csecret",
        "/etc/passwd",  # after the store's own slash: two of them
        "%2fetc%2fpasswd",
        "{secret}",
        "/{secret}",
        "%2f{secret}",
        "..;/secret",
        "%00",
        "zarr.json%00",
        "link",
        "folder/secret",
        "folder",
        "gone",
        "round",
        "x" * 5000,
        ".hidden",
        ".tilekit/predict/arguments.json",
        "0/../.hidden",
    ],
)
def test_no_way_out_of_the_store(server: Server, path: str) -> None:
    named = path.format(secret=str(server.store.parent / "secret"))
    answer, body = server.ask("store.zarr/" + named)
    assert answer.status == 404, body
    assert SECRET not in body
    assert b"root:" not in body


@pytest.mark.parametrize("path", ["store.zarr", "store.zarr/", "store.zarr/0", "store.zarr/0/", "store.zarr/labels/"])
def test_nothing_is_listed(server: Server, path: str) -> None:
    answer, body = server.ask(path)
    assert answer.status in (307, 404)
    assert b"zarr.json" not in body


def test_nothing_lies_beside_the_token(server: Server) -> None:
    token = server.base.strip("/")
    for base in ("/", "/store.zarr/", f"/{token[:-1]}/", f"/{token}x/", f"//{token}/../"):
        for path in ("", "zarr.json", "store.zarr/zarr.json", "state.json", "v/viewer/"):
            assert server.ask(path, base=base)[0].status == 404, base + path
    assert len(token) >= 16
    assert server.ask("v/viewer/..%2f..%2fserver.py")[0].status == 404
    assert server.ask("v/viewer/../../server.py")[0].status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "OPTIONS"])
@pytest.mark.parametrize("path", [SHARD, "", "state.json", "v/viewer/index.html", "events/viewer"])
def test_other_methods_are_refused(server: Server, method: str, path: str) -> None:
    before = (server.store / "0/c/0/0").read_bytes()
    answer, _ = server.ask(path, method)
    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert (server.store / "0/c/0/0").read_bytes() == before


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "[::1]", "0.0.0.0"])
def test_names_of_others_are_refused(server: Server, host: str) -> None:
    """A page of evil.example whose name is suddenly 127.0.0.1 asks for evil.example still."""
    for path in (SHARD, "", "state.json"):
        answer, body = server.ask(path, headers={"Host": host})
        assert answer.status == 400
        assert server.base.encode() not in body


def test_own_names_are_served(server: Server) -> None:
    for host in ("localhost", f"localhost:{server.port}", "127.0.0.1:9999"):  # the last by a tunnel
        assert server.ask(SHARD, headers={"Host": host})[0].status == 200
        answer, _ = server.ask("", headers={"Host": host})
        base = f"http://{host}{server.base}"
        assert (answer.status, answer.headers["location"]) == (307, f"{base}v/viewer/#!{base}state.json")
        assert base in server.ask("state.json", headers={"Host": host})[1].decode()


def test_one_origin_elsewhere_may_read(server: Server) -> None:
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "range"}
    answer, _ = server.ask(SHARD, "OPTIONS", {"Origin": ORIGIN, **asked})
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert "Range" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD"
    answer, body = server.ask(SHARD, headers={"Origin": ORIGIN, "Range": "bytes=0-9"})
    assert (answer.status, len(body), answer.headers["access-control-allow-origin"]) == (206, 10, ORIGIN)
    assert "Content-Range" in answer.headers["access-control-expose-headers"]
    for other in ("https://evil.example", f"{ORIGIN}.evil.example", "http://viewer.example", "null"):
        answer, _ = server.ask(SHARD, "OPTIONS", {"Origin": other, **asked})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (400, None)
        assert server.ask(SHARD, headers={"Origin": other})[0].headers["access-control-allow-origin"] is None
    answer, _ = server.ask(SHARD, "OPTIONS", {"Origin": ORIGIN, **asked, "Access-Control-Request-Method": "PUT"})
    assert answer.status == 400


def test_only_loopback_is_listened_to(server: Server) -> None:
    listening = [c for c in psutil.Process(server.process.pid).net_connections("inet") if c.status == "LISTEN"]
    assert [(c.laddr.ip, c.laddr.port) for c in listening] == [("127.0.0.1", server.port)]


def test_pages_may_load_nothing_from_outside(server: Server) -> None:
    policy = server.ask("v/viewer/index.html")[0].headers["content-security-policy"]
    sources = {word for part in policy.split(";") for word in part.split()[1:]}
    assert sources <= {"'self'", "'none'", "'unsafe-eval'", "'unsafe-inline'", "data:", "blob:"}


def test_events_stay_open_and_do_not_hold_up_the_end(tmp_path: Path) -> None:
    """`served` checks that Ctrl-C ends it with status 0; also on a store of the older format."""
    store = make_store(tmp_path / "old.zarr", ngff="0.4")
    with served(store) as (address, process):
        server = Server(address, store, process)
        assert server.ask("store.zarr/.zattrs")[1] == (store / ".zattrs").read_bytes()
        assert server.ask("store.zarr/0/0/0")[1] == (store / "0/0/0").read_bytes()
        assert json.loads(server.ask("state.json")[1])["layers"][0]["source"].endswith("store.zarr/|zarr2:")
        held = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        held.sendall(f"GET {server.base}events/viewer HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert b"text/event-stream" in held.recv(4096)
    held.close()


def test_what_cannot_be_served_is_one_line(tmp_path: Path) -> None:
    for origin in ("viewer.example", "https://", "https://a/b", "*", "null", "file://x", "https://a/", "https://a?b"):
        with pytest.raises(InputError, match="is no origin; write it like https://"):
            check_origin(origin)
    assert check_origin("http://localhost:8080") == "http://localhost:8080"
    with pytest.raises(InputError, match="no such store"):
        open_viewer(tmp_path / "nothing.zarr", "token")
    with listen(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: cannot be had .* leave it out"):
            listen(port)
