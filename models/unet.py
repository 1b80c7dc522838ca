"""The U-Net of Ronneberger, Fischer and Brox 2015 (arXiv 1505.04597), as a torch module."""

from __future__ import annotations

from models.architecture import UNetConfig
from models.network import Network


class UNet(Network):
    """U-Net: (b, in_channels, y, x) float -> logits.

    The defaults are the paper's: 31.0 million parameters, unpadded, 64 to 1024 channels, He-initialised. y' = y - 184
    with depth 4 and padding="valid"; y' = y with padding="same". The layers, in order, are `UNetConfig.layers`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 2,
        base: int = 64,
        depth: int = 4,
        padding: str = "valid",
        *,
        batch_norm: bool = False,
        instance_norm: bool = False,
        upsampling: str = "learned",
        dropout: float = 0.5,
    ) -> None:
        super().__init__(
            UNetConfig(in_channels, n_classes, base, depth, padding, batch_norm, instance_norm, upsampling, dropout)
        )
