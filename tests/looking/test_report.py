"""The report page: right figures, every text escaped, nothing from outside, in memory that does not grow."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

import tilekit
from flows.evaluate_files import evaluate_files
from flows.looking.objects import Histogram, histogram_svg, survey_objects
from flows.looking.pictures import composite
from flows.looking.report import _digits, _unit, find_scores, write_report
from flows.looking.shown import Channel
from tests.faults.harness import TILEKIT, environment
from tests.looking.browser import browser, needs_browser
from tests.looking.specimen import CLASS_NAMES, SHAPE, classes, make_store
from tilekit.errors import InputError
from tilekit.tables import read_parts

EVIL = '"><img src=http://evil.example/x onerror=alert(1)><script>alert(2)</script>'


class Reader(HTMLParser):
    """What a page consists of: texts, tags, and all that names something to load."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.html = page.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(text for text in self.texts if text)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("report") / "out.zarr")


def test_figures_are_those_of_the_data(store: Path) -> None:
    page = store.parent / "page.html"
    result = write_report(store, page, [])
    reader, found = Reader(page), classes()
    counts = {value: int((found == value).sum()) for value in (0, 1, 2, 255)}
    assert result["classes"] == dict(zip([*CLASS_NAMES, "void"], counts.values(), strict=True))
    valid = found.size - counts[255]
    for value, name in enumerate(CLASS_NAMES):
        n = counts[value]
        area = f"{_digits(n * 0.25)} µm²" if n * 0.25 < 1e5 else f"{n * 0.25 / 1e6:.4g} mm²"
        assert f"{value} {name} {n:,} {100 * n / valid:.2f} % {area}" in reader.text
    assert f"255 void {counts[255]:,}" in reader.text
    assert (result["objects"], result["pictures"]) == (3, 4 * 3)  # overview and three zooms: image, classes, objects
    assert "3 objects" in reader.text
    assert f"{SHAPE[0]:,} x {SHAPE[1]:,} (y, x)" in reader.text
    assert "predict" in reader.text
    digest = zarr.open_group(str(store), mode="r").attrs["tilekit"]["model"]["digest"]  # type: ignore[index,call-overload]
    assert str(digest) in reader.text


def test_it_stands_by_itself(store: Path) -> None:
    page = store.parent / "page.html"
    write_report(store, page, [])
    reader = Reader(page)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "a"} & set(reader.tags)
    assert reader.loads
    assert all(load.startswith("data:image/jpeg;base64,") for load in reader.loads)
    assert not {name for name in reader.attributes if name.startswith("on")}
    assert "url(" not in reader.html
    assert "@import" not in reader.html
    assert set(re.findall(r"https?://[^\s\"'<]+", reader.html)) == {"http://www.w3.org/2000/svg"}  # a name, no address
    assert "default-src 'none'" in reader.html


def spoiled(folder: Path) -> Path:
    """A store all of whose names are a page's worst."""
    store = make_store(folder / "<script>alert(3)<script>&.zarr")
    for path, key in ((store, "tilekit"), (store / "labels/classes", "ome")):
        group = zarr.open_group(str(path))
        text = json.dumps(dict(group.attrs)[key])
        for name in ["object", *("channel 0" for _ in range(key == "tilekit"))]:
            text = text.replace(json.dumps(name), json.dumps(EVIL))
        group.attrs[key] = json.loads(text)
    group = zarr.open_group(str(store))
    facts: Any = group.attrs["tilekit"]
    group.attrs["tilekit"] = {**facts, "source": EVIL, "date": EVIL, "status": EVIL, "image": {"channel_names": [EVIL]}}
    return store


def test_texts_are_escaped(tmp_path: Path) -> None:
    store, page = spoiled(tmp_path), tmp_path / "page.html"
    write_report(store, page, [])
    reader = Reader(page)
    assert reader.text.count(EVIL) >= 5  # as text
    assert "script" not in reader.tags
    assert {load[:5] for load in reader.loads} == {"data:"}
    assert not {name for name in reader.attributes if name.startswith("on")}


@needs_browser
def test_a_browser_asks_for_nothing_and_runs_nothing(tmp_path: Path) -> None:
    store, place = spoiled(tmp_path), tmp_path / "page.html"
    write_report(store, place, [])
    with browser() as page:
        dialogs: list[Any] = []
        page.page.on("dialog", lambda dialog: dialogs.append(dialog))
        page.page.goto(place.as_uri())
        page.page.wait_for_timeout(500)
        assert [url for url in page.requests if not url.startswith("data:")] == [place.as_uri()]
        assert (page.errors, dialogs) == ([], [])
        sizes = page.page.evaluate("[...document.images].map(i => [i.naturalWidth, i.naturalHeight])")
        assert len(sizes) == 12
        assert all(min(size) > 200 for size in sizes)
        assert page.page.evaluate("document.querySelectorAll('svg rect').length") > 40


def test_scores_of_a_truth_and_those_beside(store: Path) -> None:
    truth = classes()
    truth[:64] = 0
    tifffile.imwrite(store.parent / "truth.tif", truth)
    command = [*TILEKIT, "report", str(store), "--truth", str(store.parent / "truth.tif"), "--json"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=True)
    result = json.loads(done.stdout)
    assert (result["scores"], result["page"]) == (1, str(store.parent / "out-report.html"))
    scored = evaluate_files([str(store / "labels/classes"), str(store.parent / "truth.tif")])
    text = Reader(Path(result["page"])).text
    assert f"mean IoU {scored['miou']:.4f}" in text
    for name, value in zip(CLASS_NAMES, scored["iou"], strict=True):
        assert f"{name} {value:.4f}" in text
    assert find_scores(store) == []
    beside = store.parent / "out-scores"
    beside.mkdir()
    (beside / "scores.json").write_text(json.dumps(scored))
    assert find_scores(store) == [scored]
    (beside / "scores.json").write_text("{}")
    with pytest.raises(InputError, match=r"scores\.json: holds no scores of tilekit evaluate"):
        find_scores(store)


def test_an_image_alone_and_labels_alone(tmp_path: Path) -> None:
    tilekit.ingest(np.arange(3000, dtype=np.uint16).reshape(50, 60), tmp_path / "image.zarr")
    assert write_report(tmp_path / "image.zarr", tmp_path / "a.html", [])["pictures"] == 1  # too small for zooms
    assert "Class areas" not in (tmp_path / "a.html").read_text()
    ids = np.zeros((50, 60), np.uint8)
    ids[5:20, 5:20] = 1
    tilekit.label_objects(ids, tmp_path / "objects.zarr")
    result = write_report(tmp_path / "objects.zarr", tmp_path / "b.html", [])
    assert (result["pictures"], result["objects"]) == (1, 1)
    with pytest.raises(InputError, match="no such store"):
        write_report(tmp_path / "nothing.zarr", tmp_path / "c.html", [])
    with pytest.raises(InputError, match=r"cannot be written .* choose another place with --out"):
        write_report(tmp_path / "image.zarr", tmp_path / "no" / "c.html", [])


def test_classes_that_others_predicted_are_estimated(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "copy.zarr", ignore=shutil.ignore_patterns(".tilekit"))
    result = write_report(tmp_path / "copy.zarr", tmp_path / "page.html", [])
    assert "Estimated from level 1" in (tmp_path / "page.html").read_text()
    n = int((classes() == 2).sum())
    assert result["classes"][CLASS_NAMES[2]] == pytest.approx(n, rel=0.05)


def test_objects_are_counted_a_part_at_a_time(store: Path) -> None:
    objects = survey_objects(store)
    assert objects is not None
    assert objects.by_class == {1: 2, 2: 1}
    assert [h.column for h in objects.histograms] == ["equivalent_diameter_um", "area_um2", "mean_0"]
    rows = [np.asarray(part["area_um2"]) for part in read_parts(store / "tables/objects.parquet")]
    area = objects.histograms[1]
    assert (area.low, area.high) == (float(np.concatenate(rows).min()), float(np.concatenate(rows).max()))
    assert [int(h.counts.sum()) for h in objects.histograms] == [3, 3, 3]
    assert survey_objects(store.parent) is None


def test_histograms_have_round_ticks() -> None:
    one = Histogram("x", "size <µm>", is_log=False, low=3.0, high=97.0)
    one.count(np.array([3.0, 50.0, 50.0, 97.0]))
    svg = histogram_svg(one)
    assert "size &lt;µm&gt;" in svg
    assert re.findall(r">(\d+)</text>", svg) == ["2", "0", "20", "40", "60", "80"]
    wide = Histogram("x", "area", is_log=True, low=1.0, high=1000.0)
    wide.count(np.array([1.0, 10.0, 1000.0]))
    assert wide.counts.sum() == 3
    assert {"1", "10", "1000"} & set(re.findall(r">(\d+)</text>", histogram_svg(wide)))
    alike = Histogram("x", "one size", is_log=False, low=5.0, high=5.0)
    alike.count(np.array([5.0, 5.0]))
    assert ">2</text>" in histogram_svg(alike)


def test_channels_are_added_up_with_their_contrast() -> None:
    pixels = np.array([[[0.0, 10.0, 20.0, np.nan]], [[100.0, 100.0, 300.0, 100.0]]])
    red = Channel(0, "a", (255, 0, 0), 0.0, 20.0, 0.0, 20.0, shown=True)
    white = Channel(1, "b", (255, 255, 255), 100.0, 200.0, 0.0, 1.0, shown=True)
    rgb = composite(pixels, [red, white])
    assert rgb.tolist() == [[[0, 0, 0], [128, 0, 0], [255, 255, 255], [0, 0, 0]]]


def test_units_have_no_exponents() -> None:
    areas = ((1e6, "mm²"), (1.0, "µm²"))
    assert [_unit(n, areas) for n in (0.5, 12.0, 99_999.0, 978_800.0, 5e12)] == [
        "0.5 µm²",
        "12 µm²",
        "99,999 µm²",
        "0.9788 mm²",
        "5,000,000 mm²",
    ]


HUGE = """
import sys, resource
from pathlib import Path
from flows.looking.report import write_report
write_report(Path(sys.argv[1]), Path(sys.argv[2]), [])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def huge(folder: Path, side: int, n_levels: int) -> Path:
    """An image and a class map of side x side pixels of which nothing was ever written: all fill values."""
    for place, label in (
        (folder, {}),
        (folder / "labels/classes", {"image-label": {"colors": COLORS, "properties": NAMES}}),
    ):
        datasets = []
        for k in range(n_levels):
            n = -(-side // 2**k)
            options: Any = {"shape": (n, n), "chunks": (512, 512), "dtype": "u1", "fill_value": 1}
            zarr.create_array(str(place / str(k)), dimension_names=["y", "x"], **options)
            datasets.append({"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": [2.0**k] * 2}]})
        axes = [{"name": a, "type": "space"} for a in "yx"]
        ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}], **label}
        zarr.open_group(str(place)).attrs["ome"] = ome
    zarr.open_group(str(folder / "labels")).attrs["ome"] = {"version": "0.5", "labels": ["classes"]}
    return folder


COLORS = [{"label-value": 1, "rgba": [255, 0, 0, 255]}]
NAMES = [{"label-value": 1, "class": "one"}]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    """10^12 pixels, and 6·10^7 of which no coarser level is there, beside 10^6."""
    used = []
    for number, (side, n_levels) in enumerate(((1024, 2), (2**20, 12), (2**13 + 5, 1))):
        store = huge(tmp_path / f"{number}.zarr", side, n_levels)
        command = [sys.executable, "-c", HUGE, str(store), str(tmp_path / f"{number}.html")]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200, check=True)
        used.append(int(done.stdout))
    assert max(used) - used[0] < 150_000, used  # KiB
