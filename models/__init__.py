"""Networks and what surrounds them: receptive-field arithmetic, checkpoints, the predictor.

The networks and `save` need torch; `load` and the `Predictor` that it returns do not until something is computed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.checkpoint import save
    from models.families import FCN, DeepLab, SegNet
    from models.predictor import Predictor, load
    from models.unet import UNet

__all__ = ["FCN", "DeepLab", "Predictor", "SegNet", "UNet", "load", "save"]

_HOMES = {
    "DeepLab": "models.families",
    "FCN": "models.families",
    "Predictor": "models.predictor",
    "SegNet": "models.families",
    "UNet": "models.unet",
    "load": "models.predictor",
    "save": "models.checkpoint",
}


def __getattr__(name: str) -> object:
    """Import a public name where it is first asked for (PEP 562): planning a run never imports torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'models' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
