"""What has been measured of a network from elsewhere, and where it is kept: beside the network, by its digest."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.receptive import Reach
from tilekit.documents import parse_json

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one forward pass in float32."""

    parameters: int
    multiply_adds: float
    """Per input pixel."""
    activation_bytes: float
    """Most that is alive at once, per input pixel."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """All that planning needs to know of a network."""

    reach: tuple[Reach, Reach]
    """Of y and x."""
    in_channels: int
    out_channels: int
    reason: str | None
    """Why it cannot be exact, None where it is."""
    source: str
    """"measured", or "stated" by its description and confirmed."""
    costs: Costs

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Geometry:
        y, x = (Reach(**r) for r in stored["reach"])
        return cls(**{**stored, "reach": (y, x), "costs": Costs(**stored["costs"])})


def stored_geometry(model: Path, digest: str) -> Geometry | None:
    """What was measured of this state of a network; None where nothing was."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = parse_json(_beside(model).read_bytes())
        if stored["format"] == FORMAT and stored["digest"] == digest:
            return Geometry.of(stored["geometry"])
    return None


def store_geometry(model: Path, digest: str, geometry: Geometry) -> None:
    """Keep it for the next run, where the folder may be written to."""
    text = json.dumps({"format": FORMAT, "digest": digest, "geometry": asdict(geometry)}, indent=1)
    with suppress(OSError):
        part = _beside(model).with_suffix(".part")
        part.write_text(text + "\n")
        part.replace(_beside(model))


def _beside(model: Path) -> Path:
    return model.with_name(f"{model.name}.probe.json")
