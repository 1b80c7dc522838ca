"""DOOR starlette and uvicorn: a store and neuroglancer on loopback, read only.

Everything lies below a random token, so that other pages cannot guess an address:

    /TOKEN/                  to the viewer, showing the store
    /TOKEN/store.zarr/...    the store's files, by ranges
    /TOKEN/store.zarr-names/LABELS/info    names of classes
    /TOKEN/state.json        what the viewer shows
    /TOKEN/v/viewer/...      neuroglancer, as its Python package has it
    /TOKEN/events/viewer     what that waits for; nothing comes
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from flows.looking.shown import open_store
from flows.looking.state import class_properties, viewer_state
from tilekit.errors import InputError

HOST = "127.0.0.1"
NAMES = [HOST, "localhost"]
"""Hosts that a browser may ask for: a page elsewhere cannot take this server for its own by a name that it controls."""
STORE = "store.zarr"
DOCUMENTS = {".zarray", ".zattrs", ".zgroup", ".zmetadata"}
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; "
    "img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'"
)
HEADERS = [
    ("Content-Security-Policy", POLICY),  # the viewer cannot reach outside even where someone asks it to
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
]
REQUEST_HEADERS = ["Range", "If-Match", "If-None-Match", "If-Modified-Since", "Cache-Control"]
RESPONSE_HEADERS = ["Accept-Ranges", "Content-Length", "Content-Range", "ETag", "Last-Modified"]
HEARTBEAT = 15.0
"""Seconds between signs of life to the viewer."""


class StoreFiles(StaticFiles):
    """Files below a folder, by ranges; none outside it, none that is hidden, and no list of them."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        if any(part.startswith(".") and part not in DOCUMENTS for part in Path(path).parts):
            return "", None
        try:
            return super().lookup_path(path)
        except OSError:  # what may not be read is not there
            return "", None


def open_viewer(out: Path, token: str, origin: str | None = None) -> Starlette:
    """The application; `origin` is a page elsewhere that may read the store too. Refuses what cannot be shown."""
    viewer_state(out, "")
    names = {labels.name: class_properties(labels) for labels in open_store(out)[1]}

    def home(request: Request) -> Response:
        base = _base(request, token)
        return RedirectResponse(f"{base}v/viewer/#!{base}state.json")

    def state(request: Request) -> Response:
        return JSONResponse(viewer_state(out, f"{_base(request, token)}{STORE}/"))

    def properties(request: Request) -> Response:
        found = names.get(request.path_params["labels"])
        return JSONResponse(found) if found else Response(status_code=404)

    def events(request: Request) -> Response:
        return StreamingResponse(_silence(), media_type="text/event-stream")

    routes = [
        Route("/", home),
        Route("/state.json", state),
        Route(f"/{STORE}-names/{{labels:path}}/info", properties),
        Route("/events/viewer", events),
        Mount(f"/{STORE}", StoreFiles(directory=out)),
        Mount("/v/viewer", StaticFiles(directory=client_folder(), html=True)),
    ]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=[origin] if origin else [],
        allow_methods=["GET", "HEAD"],
        allow_headers=REQUEST_HEADERS,
        expose_headers=RESPONSE_HEADERS,
        allow_private_network=True,  # for that origin; browsers ask this of pages on the net
    )
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=NAMES, www_redirect=False)
    return Starlette(routes=[Mount(f"/{token}", routes=routes)], middleware=[guard, cors])


def _base(request: Request, token: str) -> str:
    """The address below which all lies, as the browser sees it: a tunnel may have another port."""
    return f"http://{request.url.netloc}/{token}/"


async def _silence() -> AsyncIterator[str]:
    while True:
        yield ":\n\n"
        await asyncio.sleep(HEARTBEAT)


def client_folder() -> Path:
    """Neuroglancer's page, which its Python package brings along."""
    spec = find_spec("neuroglancer")
    folder = Path(spec.origin).parent / "static" / "client" if spec and spec.origin else None
    if folder is None or not (folder / "index.html").is_file():
        raise InputError("the viewer is not installed; install it with pip install 'tilekit[view]'")
    return folder


def check_origin(origin: str | None) -> str | None:
    """An origin as browsers name it: scheme, host and port, nothing else."""
    if origin is None:
        return None
    try:
        parts = urlsplit(origin)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or f"{parts.scheme}://{parts.netloc}" != origin:
        raise InputError(f"--origin {origin}: is no origin; write it like https://neuroglancer-demo.appspot.com")
    return origin.lower()


def listen(port: int) -> socket.socket:
    """A socket on loopback that takes connections from now on; port 0 is any that is free."""
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise InputError(f"--port {port}: cannot be had ({error}); leave it out for one that is free") from None


def server_of(app: Any) -> uvicorn.Server:
    """Its run answers on sockets until the process is told to end."""
    config = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        headers=HEADERS,
        timeout_graceful_shutdown=1,  # the viewer's stream of events never ends by itself
    )
    return uvicorn.Server(config)
