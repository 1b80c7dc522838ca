"""The families' networks as torch modules; their settings and layers are in a file each, without torch."""

from __future__ import annotations

from typing import Any

from models.configuration import Architecture
from models.deeplab import DeepLabConfig
from models.fcn import FCNConfig
from models.network import Network
from models.segnet import SegNetConfig
from models.unet import UNet


class FCN(Network):
    """FCN-32s, 16s or 8s: (b, in_channels, y, x) float -> logits (b, n_classes, y, x); settings: `FCNConfig`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(FCNConfig(**settings))


class SegNet(Network):
    """SegNet: (b, in_channels, y, x) float -> logits (b, n_classes, y, x); settings: `SegNetConfig`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(SegNetConfig(**settings))


class DeepLab(Network):
    """DeepLab: (b, in_channels, y, x) float -> logits (b, n_classes, y, x); settings: `DeepLabConfig`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(DeepLabConfig(**settings))


_NETWORKS: dict[str, type[Network]] = {kind.__name__: kind for kind in (UNet, FCN, SegNet, DeepLab)}


def build(architecture: Architecture) -> Network:
    """The network of these settings, freshly initialised."""
    return _NETWORKS[architecture.name](**architecture.as_dict())
