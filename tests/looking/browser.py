"""A real browser without a display, kept off the network: Debian's chromium, with WebGL in software."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
SIZE = {"width": 1200, "height": 800}

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or find_spec("playwright") is None,
    reason="no chromium (apt-get install chromium), or no playwright, here",
)


class Page:
    """A page, with every address that it asked for and all that it complained of."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)

    def picture(self) -> NDArray[np.uint8]:
        """What is seen, (y, x, 3)."""
        rgb: NDArray[np.uint8] = imagecodecs.png_decode(self.page.screenshot())[..., :3]
        return rgb


@contextmanager
def browser() -> Iterator[Page]:
    """An empty page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield Page(chromium.new_page(viewport=SIZE))
        finally:
            chromium.close()
