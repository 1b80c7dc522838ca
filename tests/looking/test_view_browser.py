"""The viewer in a real browser: what is drawn is the data, in its place; nothing is fetched from outside."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray

from flows.looking.state import CLASS_OPACITY, ID_OPACITY
from tests.looking.browser import Page, browser, needs_browser
from tests.looking.specimen import BRIGHT, DARK, classes, make_store, picture, served
from tilekit.ngff import class_colors

pytest.importorskip("neuroglancer", reason="no viewer here: pip install 'tilekit[view]'")

READY = "window.viewer && viewer.layerManager.managedLayers.every(l => !l.visible || l.isReady()) && viewer.isReady()"
GEOMETRY = """() => {
    const panel = [...viewer.display.panels].find(p => p.sliceView);
    const r = panel.element.getBoundingClientRect(), s = viewer.state.toJSON();
    return {left: r.left + panel.element.clientLeft, top: r.top + panel.element.clientTop,
            width: panel.element.clientWidth, height: panel.element.clientHeight,
            position: [...viewer.position.value], scale: viewer.navigationState.zoomFactor.value};
}"""
NEAR = 3
"""Pixels of the screen from another value within which interpolation may show."""


def settle(page: Page) -> None:
    """Wait until all that is to be drawn has been."""
    page.page.wait_for_function(READY, timeout=60_000)
    page.page.wait_for_timeout(500)
    page.page.wait_for_function(READY, timeout=60_000)
    page.page.wait_for_timeout(300)


def seen(page: Page) -> tuple[NDArray[np.uint8], NDArray[np.intp], NDArray[np.intp]]:
    """The panel's part of the screen, and the image's row and column at each of its rows and columns (-1: outside)."""
    settle(page)
    g = page.page.evaluate(GEOMETRY)
    top, left, height, width = (round(g[k]) for k in ("top", "left", "height", "width"))
    shown = page.picture()[top : top + height, left : left + width]
    places = []
    for n, middle, side in (
        (height, g["position"][1], classes().shape[0]),
        (width, g["position"][0], classes().shape[1]),
    ):
        at = np.rint(middle + (np.arange(n) + 0.5 - n / 2) * g["scale"]).astype(np.intp)
        places.append(np.where((at >= 0) & (at < side), at, -1))
    return shown, places[0], places[1]


def expected(
    base: NDArray[np.float64], colors: dict[int, Any], values: NDArray[Any], alpha: float
) -> NDArray[np.float64]:
    """Colors over a picture (y, x, 3)."""
    rgb = base.copy()
    for value, color in colors.items():
        here = values == value
        rgb[here] = rgb[here] * (1 - alpha) + np.array(color) * alpha
    return rgb


def difference(page: Page, wanted: NDArray[np.float64]) -> tuple[float, float]:
    """Largest difference of the screen and what is wanted of the image (y, x, 3), off its edges; share looked at."""
    shown, rows, columns = seen(page)
    inside = np.ix_(rows >= 0, columns >= 0)
    target = wanted[np.ix_(rows[rows >= 0], columns[columns >= 0])]
    flat = np.ones(target.shape[:2], np.bool)
    for axis in (0, 1):
        for step in range(-NEAR, NEAR + 1):
            flat &= (np.roll(target, step, axis) == target).all(-1)
    flat[:NEAR], flat[-NEAR:], flat[:, :NEAR], flat[:, -NEAR:] = False, False, False, False
    hidden = np.zeros(flat.shape, np.bool)  # the scale bar and the axes' names lie over the corners
    hidden[-70:, :130], hidden[:200, :160], hidden[:40, -60:] = True, True, True
    flat &= ~hidden | (len(rows) > len(rows[rows >= 0]))
    assert len(np.unique(target[flat], axis=0)) > 1
    apart = np.abs(shown[inside].astype(float) - target).max(-1)[flat]
    return float(apart.max()), float(flat.mean())


def gray() -> NDArray[np.float64]:
    """The image as it is to be shown without labels: from its lowest to its highest percent."""
    stretched = (picture().astype(float) - DARK) / (BRIGHT - DARK)
    return np.repeat(255 * stretched.clip(0, 1)[:, :, None], 3, axis=2)


def toggle(page: Page, name: str) -> None:
    """Click on a layer's name."""
    page.page.locator(".neuroglancer-layer-item", has_text=name).locator(".neuroglancer-layer-item-label").click()


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("form", ["sharded", "unsharded", "0.4"])
def test_image_and_labels_are_drawn_where_the_data_has_them(tmp_path: Path, form: str) -> None:
    options: dict[str, dict[str, Any]] = {"sharded": {}, "unsharded": {"shards": False}, "0.4": {"ngff": "0.4"}}
    store = make_store(tmp_path / "out.zarr", **options[form])
    colors = {k: c[:3] for k, c in enumerate(class_colors(3)) if k}
    plain, classed = gray(), expected(gray(), colors, classes(), CLASS_OPACITY)
    with served(store) as (address, _), browser() as page:
        page.page.goto(address)
        apart, share = difference(page, classed)
        assert apart <= 3
        assert share > 0.8
        toggle(page, "classes")
        apart, share = difference(page, plain)
        assert apart <= 3
        if form == "sharded":
            check_objects(page)
            check_zoom(page, plain)
            assert "bright <b>&" in names_listed(page)
        hosts = {urlsplit(url).netloc for url in page.requests if not url.startswith(("data:", "blob:"))}
        assert hosts == {urlsplit(address).netloc}
        assert [text for text in page.errors if "404" not in text] == []


def check_objects(page: Page) -> None:
    """Turned on, every object has a color of its own, and nothing else has one."""
    toggle(page, "objects")
    shown, rows, columns = seen(page)
    base, found = gray(), {}
    for name, (y, x) in {"bright": (100, 100), "large": (400, 420), "small": (420, 570)}.items():
        pixel = shown[np.argmin(np.abs(rows - y)), np.argmin(np.abs(columns - x))].astype(float)
        found[name] = np.round((pixel - (1 - ID_OPACITY) * base[y, x]) / ID_OPACITY)
        assert found[name].max() - found[name].min() > 60, name
    assert len({tuple(color) for color in found.values()}) == 3
    for y, x in ((100, 500), (400, 110), (500, 10)):  # the dark, nodata, the dark again
        pixel = shown[np.argmin(np.abs(rows - y)), np.argmin(np.abs(columns - x))]
        assert (pixel.astype(float) == base[y, x]).all()
    toggle(page, "objects")


def check_zoom(page: Page, plain: NDArray[np.float64]) -> None:
    """With the wheel, at the corner of the bright quarter, until the image reaches beyond the window."""
    before = page.page.evaluate(GEOMETRY)
    page.page.mouse.move(before["left"] + before["width"] / 2, before["top"] + before["height"] / 2)
    page.page.keyboard.down("Control")
    for _ in range(2):
        page.page.mouse.wheel(0, -120)
        page.page.wait_for_timeout(100)
    page.page.keyboard.up("Control")
    apart, share = difference(page, plain)
    assert page.page.evaluate(GEOMETRY)["scale"] < before["scale"] / 2
    assert apart <= 3
    assert share > 0.8


def names_listed(page: Page) -> str:
    """The text of the panel of classes, opened with a click of the other button."""
    page.page.locator(".neuroglancer-layer-item", has_text="classes").click(button="right", modifiers=["Control"])
    page.page.wait_for_timeout(1000)
    return str(page.page.locator(".neuroglancer-side-panel").first.inner_text())


FETCH = """async ([url, range]) => {
    const answer = await fetch(url, {headers: {Range: range}});
    return [answer.status, answer.headers.get("Content-Range"), (await answer.arrayBuffer()).byteLength];
}"""


class Blank(BaseHTTPRequestHandler):
    """A page elsewhere."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@needs_browser
def test_a_page_elsewhere_reads_the_store_where_it_is_named_and_nowhere_else(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out.zarr")
    size = (store / "0/c/0/0").stat().st_size
    with ThreadingHTTPServer(("127.0.0.1", 0), Blank) as named, ThreadingHTTPServer(("127.0.0.1", 0), Blank) as other:
        for server in (named, other):
            Thread(target=server.serve_forever, daemon=True).start()
        origins = [f"http://127.0.0.1:{server.server_port}" for server in (named, other)]
        with served(store, "--origin", origins[0]) as (address, _), browser() as page:
            asked = [f"{address}store.zarr/0/c/0/0", "bytes=-16"]
            page.page.goto(origins[0])
            found = page.page.evaluate(FETCH, asked)
            assert found == [206, f"bytes {size - 16}-{size - 1}/{size}", 16]
            page.page.goto(origins[1])
            with pytest.raises(Exception, match="Failed to fetch"):
                page.page.evaluate(FETCH, asked)
        for server in (named, other):
            server.shutdown()
