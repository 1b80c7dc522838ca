"""TensorBoard's logs of a training, where it is installed (pip install 'tilekit[tensorboard]')."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EVENTS = "events"


def write_events(folder: Path, row: dict[str, Any]) -> None:
    """Add the numbers of one validation, by name and step, to FOLDER/events; nothing without TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return
    with SummaryWriter(str(folder / EVENTS)) as writer:
        for name, value in row.items():
            writer.add_scalar(name, value, row["step"])
