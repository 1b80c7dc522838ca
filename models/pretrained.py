"""Encoders from files of weights named as torchvision and timm do: `features.N.weight`, `layer1.0.conv1.weight`."""

from __future__ import annotations

import os

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.network import Network
from tilekit.errors import InputError

PREFIX = "encoder."
_HEADS = ("classifier.", "fc.", "pre_logits.", "head.")
"""How the names of a classifier's last layers begin, which have no place in an encoder."""
_FULLY_CONNECTED = {"classifier.0": "fc6", "classifier.3": "fc7"}
"""Of torchvision's VGG-16 and of an FCN."""


def load_encoder(network: Network, path: str | os.PathLike[str]) -> None:
    """Put the weights of a safetensors file into the network's encoder; the rest of it stays as it was.

    The classifier's fully connected layers become an FCN's fc6 and fc7 where they fit, its last layer is left out. Of
    another number of channels, the first kernels are summed, and spread over as many as there are. InputError names the
    first key that is missing, foreign or of another shape.
    """
    path = os.fspath(path)
    try:
        stored = load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; give a safetensors file of an encoder") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is no safetensors file ({error}); save the encoder's state_dict as one") from None
    own = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if name.startswith(PREFIX) and not name.endswith("num_batches_tracked")
    }
    if not own:
        raise InputError(f"{path}: a {network.architecture.title} has no encoder from elsewhere; leave encoder out")
    taken = {f"{PREFIX}{name}": t for name, t in stored.items() if not name.startswith(_HEADS)}
    taken = {name: t for name, t in taken.items() if not name.endswith("num_batches_tracked")}
    first = next(iter(own))
    if first in taken:
        taken[first] = _for_channels(taken[first], own[first].shape[1])
    for name in [*own, *taken]:
        key = name.removeprefix(PREFIX)
        if name not in taken:
            raise InputError(f"{path}: lacks {key}, which this encoder has; give weights of the same encoder")
        if name not in own:
            raise InputError(f"{path}: holds {key}, which this encoder has not; give weights of the same encoder")
        if taken[name].shape != own[name].shape:
            raise InputError(
                f"{path}: {key} has shape {tuple(taken[name].shape)}, the encoder {tuple(own[name].shape)}"
            )
    network.load_state_dict(taken | _fully_connected(network, stored), strict=False)


def _for_channels(kernels: Tensor, n: int) -> Tensor:
    """First kernels (out, c, k, k) for images of n channels: equal shares of the sum over the c they were made for."""
    return (
        kernels if kernels.ndim != 4 or kernels.shape[1] == n else kernels.sum(1, keepdim=True).repeat(1, n, 1, 1) / n
    )


def _fully_connected(network: Network, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """fc6 and fc7 of a classifier as convolutions, where the network has them in the same size."""
    found, own = {}, network.state_dict()
    for source, target in _FULLY_CONNECTED.items():
        for part in ("weight", "bias"):
            wanted, given = own.get(f"{target}.{part}"), stored.get(f"{source}.{part}")
            if wanted is not None and given is not None and given.numel() == wanted.numel():
                found[f"{target}.{part}"] = given.reshape(wanted.shape)
    return found
