"""The networks there are, by arithmetic; and one of them, by measurement."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import receptive
from models.architecture import ARCHITECTURES
from models.checkpoint import read_header
from models.described import describe
from models.foreign import measured, open_for_probe
from models.geometry import Costs
from models.predictor import Predictor, load_checkpoint
from models.receptive import Reach
from models.starters import locate, starters
from tilekit.errors import InputError

if TYPE_CHECKING:
    from models.probe import Measured

MEGAPIXEL = 1024
"""Side of the core for which memory is counted."""


def list_models() -> list[dict[str, Any]]:
    """Families with their default settings, and the starters: figures from their lists of layers."""
    rows = [_row(name, "family", kind()) for name, kind in ARCHITECTURES.items()]
    for name in starters():
        header = read_header(locate(name))
        rows.append(_row(name, f"starter ({header.architecture})", header.config))
    return rows


def _row(name: str, kind: str, config: Any) -> dict[str, Any]:
    reach = receptive.reach(config.layers)
    core = -(-MEGAPIXEL // reach.stride) * reach.stride
    side = core + reach.before + reach.after
    whole = receptive.whole_tile_layers(config.layers)
    return {
        "model": name,
        "kind": kind,
        "parameters": count_parameters(config.parameter_shapes),
        "halo": [reach.before, reach.after],
        "stride": reach.stride,
        "exact": not whole,
        "multiply_adds_per_pixel": round(receptive.multiply_adds_per_pixel(config.layers)),
        "bytes_per_megapixel": round(4 * receptive.peak_elements(config.layers, (side, side)) * 1e6 / core**2),
    }


def count_parameters(shapes: dict[str, tuple[int, ...]]) -> int:
    """What is trained: not the running statistics of batch norms."""
    return sum(prod(shape) for name, shape in shapes.items() if ".running_" not in name)


def probe_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Halo, stride and exactness of a network, measured by running it; and what it says of itself.

    Keys: model, kind, parameters, in_channels, out_channels, halo (before and after, each y, x), stride, exact, reason,
    difference (of tiles and one pass, over the largest output), stated (halo and stride, None where it says nothing),
    agrees (None where nothing is stated), multiply_adds_per_pixel, bytes_per_megapixel.
    """
    found = Path(os.path.abspath(locate(path)))
    described = describe(found)
    if described is None:
        return _probe_checkpoint(str(path), load_checkpoint(found, "cpu"))
    network = open_for_probe(described)
    said = described.stored
    stated = None
    if {"halo", "stride"} <= said.keys():
        before, after = (said["halo"],) * 2 if isinstance(said["halo"], int) else said["halo"]
        stated = (Reach(before, after, said["stride"], 0),) * 2
    result = measured(described, network)
    return _facts(str(path), described.kind, network.channels, result, network.costs(result.reach), stated)


def _probe_checkpoint(model: str, p: Predictor) -> dict[str, Any]:
    from models import torch_network
    from models.probe import ProbeError, measure

    function, look, dtype = torch_network.probed(p.network)
    try:
        result = measure(function, p.in_channels, dtype, look=look)
    except ProbeError as error:
        raise InputError(f"{p.path}: {error}") from None
    row = _row(model, "checkpoint", p.header.config)
    costs = Costs(row["parameters"], row["multiply_adds_per_pixel"], row["bytes_per_megapixel"] / 1e6)
    return _facts(model, "checkpoint", p.in_channels, result, costs, (receptive.reach(p.header.config.layers),) * 2)


def _facts(
    model: str, kind: str, channels: int, found: Measured, costs: Costs, stated: tuple[Reach, Reach] | None
) -> dict[str, Any]:
    exact = found.reason is None
    return {
        "model": model,
        "kind": kind,
        "parameters": costs.parameters,
        "in_channels": channels,
        "out_channels": found.n_channels,
        **(_pairs(found.reach) if exact else {"halo": None, "stride": None}),
        "exact": exact,
        "reason": found.reason,
        "difference": found.difference if exact else None,
        "stated": _pairs(stated) if stated else None,
        "agrees": _is_enough(stated, found.reach) if stated and exact else None,
        "multiply_adds_per_pixel": round(costs.multiply_adds),
        "bytes_per_megapixel": round(costs.activation_bytes * 1e6),
    }


def _pairs(reach: tuple[Reach, Reach]) -> dict[str, Any]:
    """Halo and stride as JSON has them, (y, x)."""
    halo = {"before": [r.before for r in reach], "after": [r.after for r in reach]}
    return {"halo": halo, "stride": [r.stride for r in reach]}


def _is_enough(stated: tuple[Reach, Reach], found: tuple[Reach, Reach]) -> bool:
    """True where tiles by what is stated have all that the network was seen to look at."""
    pairs = list(zip(stated, found, strict=True))
    return all(s.before >= f.before and s.after >= f.after and s.stride % f.stride == 0 for s, f in pairs)
