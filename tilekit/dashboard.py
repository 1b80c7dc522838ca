"""Where Dask's dashboard is: said once, to whoever listens."""

from __future__ import annotations

import logging
from typing import Any
from urllib.request import ProxyHandler, build_opener

DASHBOARD = logging.getLogger("tilekit.dashboard")
"""Told the address, also as `link` of the record, or that there is none."""


def tell_dashboard(client: Any) -> None:
    """Say where the dashboard is, once it has answered; a scheduler without bokeh has an address and no page there."""
    if not DASHBOARD.isEnabledFor(logging.INFO):
        return
    link = client.dashboard_link
    try:
        with build_opener(ProxyHandler({})).open(link, timeout=2) as page:
            is_there = b"Dask needs bokeh" not in page.read(200)
    except (OSError, ValueError, AttributeError):
        is_there = False
    if is_there:
        DASHBOARD.info("Dask dashboard: %s", link, extra={"link": link})
    else:
        DASHBOARD.info("Dask dashboard: none; where the scheduler runs, pip install 'bokeh>=3.1' brings it")
