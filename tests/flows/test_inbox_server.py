"""The inbox as an operator runs it: a server, a work pool, a worker, deployments, a schedule; seen in its page."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.params import SegmentParameters
from flows.work import segment_file
from tests.faults.harness import assert_same, make_image, make_model, shards
from tests.flows.prefect_server import Server, deployed, postgresql, prefect_server, wait_for

CHROMIUM = Path("/usr/bin/chromium")
OFFLINE = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
EVERY = 20
PLAIN = {"workers": 0, "device": "cpu", "block": 128, "tile": 64}


@dataclass(frozen=True)
class Site:
    server: Server
    folder: Path
    model: Path
    out: Path

    def summaries(self) -> list[dict[str, str]]:
        """What the tables say: statuses by name, of each tick."""
        tables = [json.loads(a["data"]) for a in self.server.artifacts("inbox-summary")]
        return [{Path(r["image"]).name: r["status"] for r in table} for table in tables]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All of it at work, over an inbox of five images of which one is spoiled."""
    home = tmp_path_factory.mktemp(request.param)
    folder, model, out = home / "in", home / "model.safetensors", home / "out"
    folder.mkdir()
    for seed in range(4):
        make_image(folder / f"{seed}.tif", 150 + 20 * seed, seed=seed)
    (folder / "corrupt.tif").write_bytes((folder / "0.tif").read_bytes()[:300])
    make_model(model)
    told = {"TILEKIT_INBOX": str(folder), "TILEKIT_MODEL": str(model), "TILEKIT_OUT": str(out)}
    with ExitStack() as stack:
        database = stack.enter_context(postgresql()) if request.param == "postgresql" else None
        server = stack.enter_context(prefect_server(home, database, **told))
        stack.enter_context(deployed(server, home))
        quick = {"settle_seconds": 0, "retry_seconds": 0, "segment": PLAIN}
        parameters = {"folder": str(folder), "model": str(model), "out": str(out), "parameters": quick}
        server.ask(f"deployments/{server.deployment('inbox')}", {"parameters": parameters}, "PATCH")  # as the page does
        arguments = ["inbox/inbox", "--interval", str(EVERY), "--replace", "--accept-yes"]
        server.prefect("deployment", "schedule", "create", *arguments)
        yield Site(server, folder, model, out)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_schedule_fires_and_the_inbox_does_what_is_new_or_changed_once(site: Site, tmp_path: Path) -> None:
    first = wait_for(lambda: [s for s in site.summaries() if s], saying="no schedule fired")[0]
    assert first == {**{f"{seed}.tif": "segmented" for seed in range(4)}, "corrupt.tif": "put aside"}
    assert sorted(p.name for p in site.out.glob("*.zarr")) == [f"{seed}.tif.zarr" for seed in range(4)]
    reason = json.loads((site.out / "aside/corrupt.tif.json").read_text())
    assert "corrupt.tif" in reason["reason"]
    assert reason["tries"] == 3
    segment_file(site.folder / "3.tif", site.model, tmp_path / "3.zarr", SegmentParameters(**PLAIN))
    assert_same(site.out / "3.tif.zarr", tmp_path / "3.zarr")

    written = {p: p.stat().st_mtime_ns for p in shards(site.out)}
    assert written
    n = len(site.summaries())
    wait_for(lambda: len(site.summaries()) > n, saying="no second tick")
    assert site.summaries()[n] == {}
    assert {p: p.stat().st_mtime_ns for p in shards(site.out)} == written

    make_image(site.folder / "1.tif", 170, seed=9)
    wait_for(lambda: {"1.tif": "segmented"} in site.summaries(), saying="the changed image was not done")
    segment_file(site.folder / "1.tif", site.model, tmp_path / "1.zarr", SegmentParameters(**PLAIN))
    assert_same(site.out / "1.tif.zarr", tmp_path / "1.zarr")
    assert len(site.server.artifacts("inbox-overlay")) == 5
    states = [r["state"]["name"] for r in site.server.runs("inbox")]
    print(f"{site.out.parent.name}: {states.count('Completed')} ticks completed; states {sorted(set(states))}")
    assert not {"Failed", "Crashed"} & set(states)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_shows_forms_with_units_and_limits_the_table_and_the_pictures(site: Site, tmp_path: Path) -> None:
    if not CHROMIUM.exists():
        pytest.skip("no Chromium here; Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    wait_for(lambda: any(site.summaries()), saying="no schedule fired")
    pictures, server = Path(os.environ.get("TILEKIT_PICTURES") or tmp_path), site.server
    full = next(a for a in server.artifacts("inbox-summary") if len(json.loads(a["data"])) == 5)
    overlay = server.artifacts("inbox-overlay")[0]
    pages = {
        "form": (f"deployments/deployment/{server.deployment('inbox')}/run", "Seconds for which an image must not"),
        "table": (f"artifacts/artifact/{full['id']}", "put aside"),
        "overlay": (f"artifacts/artifact/{overlay['id']}", ".tif.zarr"),
        "run": (f"runs/flow-run/{full['flow_run_id']}", "inbox"),
    }
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=str(CHROMIUM), args=OFFLINE)
        page = browser.new_page(viewport={"width": 1300, "height": 1600})
        for name, (path, text) in pages.items():
            page.goto(f"{server.address}/{path}")
            page.wait_for_timeout(3000)
            page.screenshot(path=pictures / f"{name}.png")
            page.get_by_text(text).first.wait_for(timeout=60_000)
        browser.close()
