"""The commands that are about networks: models, probe."""

from __future__ import annotations

from typing import Any

from flows.options import Json, Model
from flows.terminal import print_facts, print_table

HEADINGS = {
    "model": "model",
    "kind": "kind",
    "parameters": "parameters",
    "halo": "halo",
    "stride": "stride",
    "exact": "exact",
    "multiply_adds_per_pixel": "multiply-adds/px",
    "bytes_per_megapixel": "memory/Mpx",
}


def models(json: Json = False) -> None:
    """List the networks: parameters, halo, stride, multiply-adds per pixel and memory per megapixel."""
    from models.probing import list_models

    rows = list_models()
    print_table(rows if json else [{HEADINGS[k]: _shown(k, v) for k, v in row.items()} for row in rows], json)


def probe(model: Model, json: Json = False) -> None:
    """Measure a network's halo and stride by running it, and say whether tiling can be exact, or which layer is to
    blame.
    """
    from models.probing import probe_model

    facts = probe_model(model)
    print_facts(facts if json else {k: v for k, v in facts.items() if v is not None}, json)


def _shown(name: str, value: Any) -> str:
    if name == "parameters":
        return f"{value:,}"
    if name == "halo":
        return f"{value[0]}, {value[1]}"
    if name == "exact":
        return "yes" if value else "no"
    if name == "multiply_adds_per_pixel":
        return f"{value:,}"
    return f"{value / 2**20:,.0f} MiB" if name == "bytes_per_megapixel" else str(value)
