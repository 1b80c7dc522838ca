"""What training went through: a table after each validation, as CSV and as a picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from tilekit.ledger import write_atomic

CSV, PNG = "curves.csv", "curves.png"


def write_curves(folder: Path, rows: list[dict[str, Any]]) -> list[Path]:
    """Write curves.csv, and curves.png where matplotlib is installed (pip install 'tilekit[train]')."""
    written = [folder / CSV]
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomic(written[0], text.getvalue())
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return written
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    steps = [row["step"] for row in rows]
    differs = any(row.get("miou", row["score"]) != row["score"] for row in rows)
    shown = {"loss": ["loss"], "score": ["score", "miou"] if differs else ["score"]}
    for axes, (title, keys) in zip(figure.subplots(1, 2), shown.items(), strict=True):
        for key in keys:
            axes.plot(steps, [row.get(key) for row in rows], marker=".", label=key)
        axes.set(xlabel="step", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    written.append(folder / PNG)
    figure.savefig(written[-1], dpi=110)
    return written
