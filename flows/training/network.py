"""Network and recipe of a configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flows.training.config import Config
from models import receptive
from models.architecture import UNetConfig
from models.augment import Augmentation, draw
from models.checkpoint import read_header
from models.recipe import PRESETS, Recipe
from models.starting import new_network, trained_network
from models.unet import UNet
from tilekit.errors import InputError


def recipe_of(config: Config) -> Recipe:
    """The preset with what the configuration changes; InputError where they do not fit."""
    t = config.training
    changes = t.model_dump(exclude={"preset", "init", "device", "devices"}) | config.patches.model_dump()
    if t.warm_up is None:
        changes["warm_up"] = min(PRESETS[t.preset].warm_up, t.steps // 10)
    try:
        return Recipe.of(t.preset, **changes, every=config.validation.every)
    except ValueError as error:
        raise InputError(f"[training] {error}") from None


def network_config(config: Config, init: Path | None) -> UNetConfig:
    """The layers, whose halo and stride do not depend on the numbers of channels and classes."""
    return read_header(init).config if init else UNetConfig(**config.network.model_dump())


def halo_of(config: Config, init: Path | None) -> int:
    """Pixels that the network sees around a place; InputError where a patch's side is no multiple of its stride."""
    reach = receptive.reach(network_config(config, init).layers)
    side = recipe_of(config).side
    if side % reach.stride:
        low = side // reach.stride * reach.stride
        near = " or ".join(str(n) for n in (low, low + reach.stride) if n)
        raise InputError(
            f"[patches] side is {side} pixels, must be a multiple of the stride {reach.stride}; take {near}"
        )
    try:  # as each patch will be, so that it is known before the data are read
        draw(Augmentation(**config.augment.model_dump()), np.random.default_rng(0), reach.before + side + reach.after)
    except InputError as error:
        raise InputError(f"[augment] {error}; set [augment] elastic, or [patches] side ({side} and the halo)") from None
    return max(reach.before, reach.after)


def make_network(config: Config, init: Path | None, in_channels: int, n_classes: int) -> UNet:
    """The network to be trained."""
    seed = config.training.seed
    if init:
        return trained_network(init, seed, in_channels=in_channels, n_classes=n_classes)
    return new_network(seed, in_channels=in_channels, n_classes=n_classes, **config.network.model_dump())
