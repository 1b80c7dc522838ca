"""What a person sees: figures, and a bar per stage."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer


def print_facts(facts: dict[str, Any], json: bool) -> None:
    """Figures for a program or for a person."""
    if json:
        typer.echo(jsonlib.dumps(facts, default=str))
        return
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        typer.echo(f"{name.replace('_', ' '):<{width}}{_shown(name, value)}")


UNITS = {"images": "images", "survey": "images", "train": "steps", "tiles": "tiles", "cog": "files"}
"""What stages count, where it is not blocks."""
COLUMNS = ("image", "status", "blocks", "seconds", "reason")


def print_rows(rows: list[dict[str, Any]], json: bool) -> None:
    """A line per image for a person, all figures for a program."""
    if json:
        typer.echo(jsonlib.dumps(rows, default=str))
        return
    shown = [{c: "" if row[c] is None else str(row[c]) for c in COLUMNS} for row in rows]
    _print_columns([dict(zip(COLUMNS, COLUMNS, strict=True)), *shown])


def print_table(rows: list[dict[str, Any]], json: bool) -> None:
    """Rows of the same keys: in columns for a person, as they are for a program."""
    if json:
        typer.echo(jsonlib.dumps(rows, default=str))
        return
    _print_columns([{k: k for k in rows[0]}, *({k: str(v) for k, v in row.items()} for row in rows)])


def _print_columns(rows: list[dict[str, str]]) -> None:
    widths = {k: max(len(row[k]) for row in rows) + 2 for k in rows[0]}
    for row in rows:
        typer.echo("".join(f"{text:<{widths[k]}}" for k, text in row.items()).rstrip())


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "unknown"
    if name.endswith("_bytes"):
        return f"{value / 2**20:,.0f} MiB"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@contextmanager
def progress_bars() -> Iterator[Any]:
    """A bar per stage with rate and time left, on a terminal; nothing elsewhere."""
    from tilekit.engine import no_progress

    if not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    from flows.dashboard import told_dashboard

    bars = Progress(*columns, console=Console(stderr=True))
    with told_dashboard(lambda line, _: bars.console.print(line, highlight=False)), bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                unit = UNITS.get(stage, "blocks")
                tasks[stage] = bars.add_task(stage, total=total, completed=done, rate="", unit=unit)
            task = bars.tasks[tasks[stage]]
            rate = f"{task.speed:.2f}/s" if task.speed else ""
            bars.update(tasks[stage], completed=done, total=total, rate=rate)

        yield show
