"""The benchmarks' runner: rows to JSON to tables, one benchmark alone, failures told; the page is not stale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import bench, common, page

PAGE = "# Fast\n\n<!-- bench:goals -->\nold\n<!-- end -->\n\nProse.\n\n<!-- bench:tiny -->\n<!-- end -->\n"


TINY = '''"""A tiny one."""
from benchmarks.common import note, row
def measure(quick=False):
    print("no result")
    return [row("a job", 2.0, "s", limit=1.6, goal="≤ 1.2 x", **{"peak MiB": 12}), note("So it is.")]
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two benchmarks beside the real ones, one of them broken, with a page and a result file of their own."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "tiny.py").write_text(TINY)
    (tmp_path / "benchmarks" / "broken.py").write_text('"""Broken."""\ndef measure(quick): raise OSError("no disk")')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(bench, "NAMES", ("broken", "tiny", "other"))
    (tmp_path / "page.md").write_text(PAGE)
    other = {"date": "2026-01-02", "size": "full", "seconds": 1.0, "machine": common.machine(), "failed": None}
    known = {"benchmarks": {"other": {**other, "rows": [common.row("kept", 1.0, "s")]}}}
    (tmp_path / "bench.json").write_text(json.dumps(known))
    return tmp_path


def _run(folder: Path, *more: str) -> int:
    return bench.main([*more, "--json", str(folder / "bench.json"), "--page", str(folder / "page.md")])


def test_one_benchmark_runs_and_the_figures_of_the_others_stay(folder: Path) -> None:
    assert _run(folder, "tiny") == 0
    found = json.loads((folder / "bench.json").read_text())["benchmarks"]
    assert list(found) == ["tiny", "other"]
    assert found["other"]["rows"][0]["what"] == "kept"
    assert found["tiny"]["rows"] == [
        {"what": "a job", "figure": 2.0, "unit": "s", "limit": 1.6, "ratio": 1.25, "goal": "≤ 1.2 x", "met": False,
         "more": {"peak MiB": 12}},
        {"note": "So it is."},
    ]  # fmt: skip
    text = (folder / "page.md").read_text()
    assert "| a job | 2 s | 1.6 s | 1.25 x | ≤ 1.2 x, missed | 12 |" in text
    assert "| tiny | a job | 2 s | 1.6 s | 1.25 x | ≤ 1.2 x, missed |" in text
    assert "So it is." in text
    assert "Prose." in text
    assert "old" not in text


def test_a_benchmark_that_fails_is_told_with_its_reason_and_the_next_one_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(folder, "broken", "tiny", "--quick") == 1
    said = capsys.readouterr().out
    assert "FAILED: benchmarks.broken:measure: OSError: no disk" in said
    assert "a job  2 s     1.6 s  1.25 x  ≤ 1.2 x  12" in said  # small sizes miss no goals
    assert said.rstrip().endswith("failed: broken")
    assert (folder / "page.md").read_text() == PAGE  # nor are they for the page


def test_a_case_that_raises_or_hangs_is_an_error_with_its_reason() -> None:
    with pytest.raises(common.CaseError, match=r"_hang: TypeError: .*unexpected keyword argument 'wrong'"):
        common.case(_hang, wrong=1)
    with pytest.raises(common.CaseError, match="_hang: took longer than 1 s"):
        common.case(_hang, timeout=1.0)


def _hang() -> None:
    import time

    time.sleep(60)


def test_goals_of_ratios_and_of_figures_are_told_apart() -> None:
    assert common.row("", 3.0, "s", limit=2.0, goal="≤ 1.5 x")["met"]
    assert not common.row("", 3.1, "s", limit=2.0, goal="≤ 1.5 x")["met"]
    assert common.row("", 90.0, "Mpx/s", limit=1000.0, goal="≥ 85")["met"]
    assert not common.row("", 1.0, "", goal="= 0")["met"]


def test_the_page_is_made_from_the_committed_figures() -> None:
    text = bench.PAGE.read_text()
    assert page.refresh(text, bench.read(bench.JSON)) == text, "run: python -m benchmarks.bench --render"
    missing = [name for name in bench.NAMES if f"<!-- bench:{name} -->" not in text]
    assert not missing
