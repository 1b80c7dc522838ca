"""Starter models: small networks in the package, each with its card, to try or to train further."""

from __future__ import annotations

import os
from pathlib import Path

from tilekit.place import as_path

FOLDER = Path(__file__).parent / "data"


def starters() -> list[str]:
    """Their names.

    >>> {"axons", "nuclei"} <= set(starters())
    True
    """
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def locate(model: str | os.PathLike[str]) -> Path:
    """The file of a model: the path as it is, or a starter's where it is the name of one and there is no such file."""
    if str(model) in starters() and not Path(model).exists():
        return FOLDER / f"{model}.safetensors"
    return as_path(model)
