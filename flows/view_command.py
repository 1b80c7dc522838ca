"""The command `view`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.options import Out


def view(
    out: Out,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0: one that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the viewer in a browser.")] = True,
    origin: Annotated[
        str | None, typer.Option(metavar="URL", help="A page elsewhere that may read the store: https://host.")
    ] = None,
) -> None:
    """Look at a store in a browser: image and labels, all levels, by neuroglancer and offline. Ctrl-C ends it."""
    import secrets
    import webbrowser

    from flows.looking.server import check_origin, listen, open_viewer, server_of
    from tilekit.errors import InputError
    from tilekit.place import is_url

    if is_url(out):
        raise InputError(f"{out}: a store is served from a local disk; copy it there, or give a viewer its address")
    store, token = Path(out).expanduser().absolute(), secrets.token_urlsafe(12)
    app = open_viewer(store, token, check_origin(origin))
    with listen(port) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/{token}/"
        for name, text in ways_to_look(store, address).items():
            typer.echo(f"{name:<14}{text}")
        server = server_of(app)
        signal.signal(signal.SIGINT, server.handle_exit)  # from now on, not just once uvicorn's loop runs
        typer.echo("Ctrl-C ends it.")
        if browser and has_display():
            webbrowser.open(address)
        server.run(sockets=[listener])
        typer.echo("ended")


def ways_to_look(store: Path, address: str) -> dict[str, str]:
    """The viewer's address, and what to do in other viewers."""
    from flows.looking.server import STORE
    from flows.looking.shown import open_store
    from tilekit.doctor import readers

    image, labels = open_store(store)
    place = store if image else store / "labels" / labels[0].name
    format_ = "zarr3" if (store / "zarr.json").exists() else "zarr2"
    gdal = [reader for reader in readers(place) if reader.name.startswith("QGIS")]
    able = [reader.name.partition(" with ")[2] for reader in gdal if reader.copes]
    qgis = f'Layer > Add Layer > Add Raster Layer, source ZARR:"{place}":/0, by {" or ".join(able)}'
    return {
        "viewer": address,
        "napari": f"napari --plugin napari-ome-zarr '{store}'",
        "neuroglancer": f"{address}{STORE}/|{format_}: as a layer's source, on the page named by --origin",
        "QGIS": qgis if able else f"not as it is ({gdal[-1].why}); tilekit export '{store}' writes GeoTIFF",
    }


def has_display() -> bool:
    """True where a browser would open a window, not take the terminal."""
    return sys.platform == "darwin" or any(os.environ.get(k) for k in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))
