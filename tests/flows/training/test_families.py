"""Each family by one line of the TOML: trained, kept, and predicted with, as a U-Net is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flows.training.config import read_config
from flows.training.network import make_network, network_config
from flows.training.run import train_file
from models import SegNet, load
from tests.flows.test_train import write
from tilekit.errors import InputError

FAMILIES = {
    "fcn8s": "base = 2\nhidden = 8",
    "segnet": "base = 2",
    "deeplab": 'base = 2\nencoder = "resnet18"\nrates = [2, 4]\nwidth = 8\ndecoder = true',
}


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[] if f == "deeplab" else pytest.mark.slow) for f in FAMILIES]
)
def test_a_family_trains_and_predicts(family: str, tmp_path: Path) -> None:
    toml = write(tmp_path, steps=2, every=2)
    own = f'family = "{family}"\n{FAMILIES[family]}\ndropout = 0.2'
    toml.write_text(toml.read_text().replace("base = 4\ndepth = 2\ndropout = 0.2", own))
    result = train_file(toml)
    p = load(result["model"], "cpu")
    assert p.exact
    assert p.header.config == network_config(read_config(toml), None).changed(in_channels=1)
    assert 0 <= result["test"]["miou"] <= 1


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ('family = "vnet"', r"\[network\] family = \"vnet\": must be one of unet, fcn32s"),
        ('family = "fcn8s"\ndepth = 3', r"\[network\] depth is no setting of fcn8s, which has base, batch_norm, "),
        ("hidden = 64", r"\[network\] hidden is no setting of unet"),
    ],
)
def test_settings_of_another_family_are_refused(lines: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f"[network]\n{lines}\n")
    with pytest.raises(InputError, match=complaint):
        read_config(tmp_path / "c.toml")


def test_an_encoder_from_elsewhere_is_where_training_starts(tmp_path: Path) -> None:
    stored = {n.removeprefix("encoder."): t for n, t in SegNet(base=2).state_dict().items() if n.startswith("encoder.")}
    save_file(stored, tmp_path / "vgg16_bn.safetensors")
    toml = tmp_path / "c.toml"
    toml.write_text('[network]\nfamily = "segnet"\nbase = 2\n[training]\nencoder = "vgg16_bn.safetensors"\n')
    network = make_network(read_config(toml), None, 3, 2)
    assert torch.equal(network.state_dict()["encoder.features.40.weight"], stored["features.40.weight"])
    with pytest.raises(InputError, match=r"encoder = 'vgg16_bn.safetensors', and init has an encoder"):
        make_network(read_config(toml), tmp_path / "m.safetensors", 3, 2)
    del stored["features.40.weight"]
    save_file(stored, tmp_path / "vgg16_bn.safetensors")
    with pytest.raises(InputError, match=r"vgg16_bn.safetensors: lacks features.40.weight"):
        make_network(read_config(toml), None, 3, 2)
