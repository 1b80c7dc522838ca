"""Tables from the benchmarks' rows, for the terminal and for docs/performance.md.

A page has a part for each benchmark between two comments, which is written anew; the rest of it is prose and stays.
"""

from __future__ import annotations

import re
from typing import Any

Results = dict[str, Any]
_PART = re.compile(r"(<!-- bench:([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_COLUMNS = ("what", "figure", "limit", "ratio", "goal")


def refresh(page: str, results: Results) -> str:
    """The page with its parts made from the results; a benchmark that has none keeps its part."""

    def part(match: re.Match[str]) -> str:
        made = markdown(match[2], results)
        return match[0] if made is None else f"{match[1]}{made}{match[3]}"

    return _PART.sub(part, page)


def markdown(name: str, results: Results) -> str | None:
    """One part: the goals, the jobs, or a benchmark's table with the machine that it ran on."""
    found = results["benchmarks"]
    if name in ("goals", "jobs"):
        rows = [{**r, "benchmark": n} for n, result in found.items() for r in result["rows"]]
        return _markdown_table(goals(rows) if name == "goals" else jobs(rows))
    if name not in found:
        return None
    result = found[name]
    failed = f"**Failed:** {result['failed']}\n\n" if result["failed"] else ""
    notes = "".join(f"\n{r['note']}\n" for r in result["rows"] if "note" in r)
    table = _markdown_table(cells(result["rows"])) if any("what" in r for r in result["rows"]) else ""
    return f"{ran_on(result)}\n\n{failed}{table}{notes}"


def text(result: Results) -> str:
    """A benchmark's table for the terminal."""
    failed = [f"FAILED: {result['failed']}"] if result["failed"] else []
    return "\n".join([ran_on(result), *([table(result["rows"])] if result["rows"] else []), *failed])


def table(rows: list[Results]) -> str:
    """Rows in columns, and the notes below."""
    lines = cells(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ["  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*aligned, *(r["note"] for r in rows if "note" in r)])


def ran_on(result: Results) -> str:
    """When, on what, how long."""
    at, versions = result["machine"], result["machine"]["versions"]
    named = ", ".join(f"{k} {versions[k]}" for k in ("torch", "zarr", "numba"))
    sizes = "" if result["size"] == "full" else f"{result['size']} sizes, "
    return (
        f"{result['date']}, {sizes}{at['cores']} x {at['cpu']}, {at['memory_gib']:.0f} GiB, load {at['load']} before, "
        f"{named}; took {result['seconds']:.0f} s."
    )


def cells(rows: list[Results]) -> list[list[str]]:
    """Header and lines; columns that no row fills are left out."""
    rows = [r for r in rows if "what" in r]
    more = list(dict.fromkeys(name for r in rows for name in r.get("more", {})))
    lines = [[r["what"], quantity(r["figure"], r["unit"]), quantity(r["limit"], r["unit"]), times(r["ratio"]),
              goal(r), *(shown(r.get("more", {}).get(name)) for name in more)] for r in rows]  # fmt: skip
    table = [[*_COLUMNS, *more], *lines]
    kept = [i for i in range(len(table[0])) if any(line[i] for line in lines)]
    return [[line[i] for i in kept] for line in table]


def goals(rows: list[Results]) -> list[list[str]]:
    """All rows that have a goal."""
    lines = [[r["benchmark"], r["what"], quantity(r["figure"], r["unit"]), quantity(r["limit"], r["unit"]),
              times(r["ratio"]), goal(r)] for r in rows if r.get("goal")]  # fmt: skip
    return [["benchmark", *_COLUMNS], *lines]


def jobs(rows: list[Results]) -> list[list[str]]:
    """The whole jobs: rate, limit and memory side by side."""
    lines = [[r["job"], r["what"], *(shown(r["more"].get(k)) for k in ("Mpx/s", "peak MiB")), times(r["ratio"])]
             for r in rows if "job" in r]  # fmt: skip
    return [["job", "what", "Mpx/s per core", "peak MiB", "of its limit"], *lines]


def quantity(value: float | None, unit: str) -> str:
    return "" if value is None else f"{shown(value)} {unit}".strip()


def times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f} x" if ratio < 100 else f"{ratio:,.0f} x"


def goal(row: Results) -> str:
    said = {True: ", met", False: ", missed", None: ""}[row["met"]]
    return f"{row['goal']}{said}" if row["goal"] else ""


def shown(value: Any) -> str:
    """Three digits that count."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if value == 0 or abs(value) >= 1000 or (abs(value) >= 1 and float(value).is_integer()):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _markdown_table(table: list[list[str]]) -> str:
    header, *lines = table
    rule = ["---" if name in ("benchmark", "job", "what") else "---:" for name in header]
    return "".join(f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |\n" for line in (header, rule, *lines))
