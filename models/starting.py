"""Where training starts: fresh weights, or those of a trained model."""

from __future__ import annotations

import os

import torch
from safetensors.torch import load_file

from models.checkpoint import read_header
from models.configuration import Architecture
from models.families import build
from models.network import Network
from tilekit.errors import InputError

HEAD = "head."


def new_network(seed: int, config: Architecture) -> Network:
    """A network of this configuration whose first weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)


def trained_network(path: str | os.PathLike[str], seed: int, *, in_channels: int, n_classes: int) -> Network:
    """The network of a checkpoint, to be trained further; its head is a new one where the number of classes differs.

    InputError where it has other channels, which its first layer was trained for.
    """
    config = read_header(path).config
    if config.in_channels != in_channels:
        raise InputError(
            f"{os.fspath(path)}: the model takes {config.in_channels} channels, the images have {in_channels}; name as "
            "many in [data] channels, or start from another model"
        )
    network = new_network(seed, config.changed(n_classes=n_classes))
    tensors = load_file(path)
    if config.n_classes != n_classes:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(HEAD)}
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    lost = [name for name in missing if not name.startswith(HEAD) and not name.endswith("num_batches_tracked")]
    assert not lost, lost
    assert not unexpected, unexpected
    return network
