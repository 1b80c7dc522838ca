"""Network and recipe of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flows.training.config import Config
from flows.training.sections import COMMON_KEYS, FAMILY_KEYS
from flows.training.sections import Network as Section
from models import receptive
from models.architecture import ARCHITECTURES
from models.augment import Augmentation, draw
from models.checkpoint import read_header
from models.configuration import Architecture
from models.network import Network
from models.pretrained import load_encoder
from models.recipe import PRESETS, Recipe
from models.starting import new_network, trained_network
from tilekit.errors import InputError


def recipe_of(config: Config) -> Recipe:
    """The preset with what the configuration changes; InputError where they do not fit."""
    t = config.training
    changes = t.model_dump(exclude={"preset", "init", "encoder", "device", "devices"}) | config.patches.model_dump()
    if t.warm_up is None:
        changes["warm_up"] = min(PRESETS[t.preset].warm_up, t.steps // 10)
    try:
        return Recipe.of(t.preset, **changes, every=config.validation.every)
    except ValueError as error:
        raise InputError(f"[training] {error}") from None


def network_config(config: Config, init: Path | None) -> Architecture:
    """The layers, whose halo and stride do not depend on the numbers of channels and classes."""
    return read_header(init).config if init else architecture_of(config.network)


def architecture_of(section: Section, **channels: int) -> Architecture:
    """What a section [network] describes, in the words of its family; InputError where it cannot be.

    channels: in_channels and n_classes, where they are known.
    """
    own = (*COMMON_KEYS, *FAMILY_KEYS[section.family])
    settings: dict[str, Any] = {key: getattr(section, key) for key in own} | channels
    name = {"unet": "UNet", "segnet": "SegNet", "deeplab": "DeepLab"}.get(section.family, "FCN")
    if name == "FCN":
        settings["variant"] = section.family.removeprefix("fcn")
    try:
        return ARCHITECTURES[name].of(settings)
    except ValueError as error:
        raise InputError(f"[network] {error}") from None


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


def make_network(config: Config, init: Path | None, in_channels: int, n_classes: int) -> Network:
    """The network to be trained."""
    seed = config.training.seed
    if init and config.training.encoder:
        raise InputError(f"[training] encoder = {config.training.encoder!r}, and init has an encoder; name one of them")
    if init:
        return trained_network(init, seed, in_channels=in_channels, n_classes=n_classes)
    network = new_network(seed, architecture_of(config.network, in_channels=in_channels, n_classes=n_classes))
    if config.training.encoder:
        load_encoder(network, config.path(config.training.encoder))
    return network
