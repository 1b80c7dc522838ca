"""Encoders from files named as torchvision and timm name them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models import FCN, DeepLab, SegNet, UNet
from models.network import Network
from models.pretrained import load_encoder
from tilekit.errors import InputError

BATCH_NORM = {"weight": 1, "bias": 1, "running_mean": 1, "running_var": 1}


def vgg16_bn(base: int, hidden: int) -> dict[str, Tensor]:
    """A state dict as torchvision's vgg16_bn has it, with fewer channels."""
    found, n_in, number = {}, 3, 0
    for step in (1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M"):
        if step == "M":
            number += 1
            continue
        n = base * int(step)
        found |= {f"features.{number}.weight": torch.randn(n, n_in, 3, 3), f"features.{number}.bias": torch.randn(n)}
        found |= {f"features.{number + 1}.{part}": torch.rand(n) for part in BATCH_NORM}
        found[f"features.{number + 1}.num_batches_tracked"] = torch.tensor(3)
        number, n_in = number + 3, n
    for i, (a, b) in {0: (49 * n_in, hidden), 3: (hidden, hidden), 6: (hidden, 1000)}.items():
        found |= {f"classifier.{i}.weight": torch.randn(b, a), f"classifier.{i}.bias": torch.randn(b)}
    return found


def resnet18(base: int) -> dict[str, Tensor]:
    """A state dict as torchvision's and timm's resnet18 has it, with fewer channels."""
    found = {"conv1.weight": torch.randn(base, 3, 7, 7), "fc.weight": torch.randn(1000, 8 * base)}
    found |= {f"bn1.{part}": torch.rand(base) for part in BATCH_NORM}
    for stage in range(4):
        n = base << stage
        for block in (0, 1):
            name, n_in = f"layer{stage + 1}.{block}", n if block or not stage else n // 2
            convs = {"conv1": (n_in, 3), "conv2": (n, 3)} | ({"downsample.0": (n_in, 1)} if n_in != n else {})
            found |= {f"{name}.{c}.weight": torch.randn(n, m, k, k) for c, (m, k) in convs.items()}
            norms = ["bn1", "bn2", *(["downsample.1"] if n_in != n else [])]
            found |= {f"{name}.{norm}.{part}": torch.rand(n) for norm in norms for part in BATCH_NORM}
    return found


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("network", "stored"),
    [
        (FCN(base=2, hidden=6, batch_norm=True), vgg16_bn(2, 6)),
        (SegNet(base=2), vgg16_bn(2, 6)),
        (DeepLab(base=2, encoder="vgg16", width=4), vgg16_bn(2, 6)),
        (DeepLab(base=2, encoder="resnet18", width=4, output_stride=8), resnet18(2)),
    ],
)
def test_an_encoder_takes_the_weights_of_a_classifier(
    network: Network, stored: dict[str, Tensor], tmp_path: Path
) -> None:
    load_encoder(network, written(tmp_path / "w.safetensors", stored))
    own = network.state_dict()
    names = [name for name in stored if not name.startswith(("classifier", "fc")) and "tracked" not in name]
    assert all(torch.equal(own[f"encoder.{name}"], stored[name]) for name in names)
    if isinstance(network, FCN):
        assert torch.equal(own["fc6.weight"].flatten(1), stored["classifier.0.weight"])
        assert torch.equal(own["fc7.bias"], stored["classifier.3.bias"])


def test_first_kernels_serve_other_channels(tmp_path: Path) -> None:
    stored, network = vgg16_bn(2, 6), SegNet(base=2, in_channels=1)
    load_encoder(network, written(tmp_path / "w.safetensors", stored))
    torch.testing.assert_close(
        network.state_dict()["encoder.features.0.weight"], stored["features.0.weight"].sum(1, True)
    )


def test_a_missing_or_foreign_key_is_named(tmp_path: Path) -> None:
    def complaint(network: Network, tensors: dict[str, Tensor]) -> str:
        with pytest.raises(InputError) as caught:
            load_encoder(network, written(tmp_path / "w.safetensors", tensors))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    stored = vgg16_bn(2, 6)
    short = {name: tensor for name, tensor in stored.items() if name != "features.7.weight"}
    assert "w.safetensors: lacks features.7.weight" in complaint(SegNet(base=2), short)
    assert "holds wing.weight, which this encoder has not" in complaint(
        SegNet(base=2), stored | {"wing.weight": torch.ones(1)}
    )
    assert "features.0.weight has shape (2, 3, 3, 3), the encoder (4, 3, 3, 3)" in complaint(SegNet(base=4), stored)
    assert "lacks conv1.weight" in complaint(DeepLab(base=2, encoder="resnet18", width=4), stored)
    assert "a U-Net has no encoder from elsewhere" in complaint(UNet(base=2), stored)
    (tmp_path / "torn.safetensors").write_bytes(b"12345678{")
    with pytest.raises(InputError, match="is no safetensors file"):
        load_encoder(SegNet(base=2), tmp_path / "torn.safetensors")
    with pytest.raises(InputError, match="there is no such file"):
        load_encoder(SegNet(base=2), tmp_path / "absent.safetensors")
