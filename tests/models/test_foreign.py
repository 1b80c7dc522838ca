"""Networks from elsewhere: measured, exact where they can be, picklable; what is not taken is refused in one line."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import tilekit
from models import load
from models.foreign import ForeignPredictor
from tests.models.foreign import RDF_4, RDF_5, onnx_network, package, torch_network
from tests.oracles import structured_image
from tilekit.errors import InputError


def made(kind: str, folder: Path) -> Path:
    """A network of each kind that can be exact."""
    torch.manual_seed(0)
    if kind == "torch":
        return torch_network(folder, classes=["background", "cell", "border"], pixel_size=[0.5, 0.5])
    if kind == "torch, stated":
        return torch_network(folder, halo=8, stride=2)
    if kind == "monai":
        return monai_network(folder)
    if kind == "onnx":
        return onnx_network(folder / "net.onnx")
    if kind == "onnx, probabilities":
        onnx_network(folder / "net.onnx", ends="Softmax")
        (folder / "net.toml").write_text('onnx = "net.onnx"\noutputs = "probabilities"\nclasses = ["a", "b", "c"]\n')
        return folder / "net.toml"
    if kind == "bioimage 0.4":
        return package(folder / "p", RDF_4)
    return package(folder / "p", RDF_5, zipped=True)


def monai_network(folder: Path, norm: str = "batch") -> Path:
    nets = pytest.importorskip("monai.networks.nets")
    from safetensors.torch import save_file

    settings = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [4, 8, 8], "strides": [2, 2]}
    net = nets.UNet(**settings, norm=norm)
    for name, tensor in net.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    folder.mkdir(exist_ok=True)
    save_file(net.state_dict(), folder / "unet.safetensors")
    lines = ['import = "monai.networks.nets:UNet"', 'weights = "unet.safetensors"', "in_channels = 1", "[arguments]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in {**settings, "norm": norm}.items()]
    (folder / "monai.toml").write_text("\n".join(lines) + "\n")
    return folder / "monai.toml"


KINDS = ["torch", "torch, stated", "monai", "onnx", "onnx, probabilities", "bioimage 0.4", "bioimage 0.5"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_tiled_equals_whole_on_odd_sizes(kind, tmp_path):
    p = load(made(kind, tmp_path / "net"), "cpu")
    assert isinstance(p, ForeignPredictor)
    assert p.exact, p.inexact_reason
    image = structured_image((1, 101, 77), "uint8")[0]
    sides = [-(-n // s) * s for n, s in zip(image.shape, p.stride, strict=True)]
    pads = [(b, a + m - n) for b, a, n, m in zip(p.halo.before, p.halo.after, image.shape, sides, strict=True)]
    whole = p.probabilities(np.pad(image, pads, mode="reflect")[None, None])[0, :, :101, :77]
    tilekit.predict(image, p, tmp_path / "out.zarr", tile=20, block=64, level=0)
    found = zarr.open_array(str(tmp_path / "out.zarr/labels/classes/0"), mode="r")[:]
    best = np.partition(whole, -2, 0)
    expected = whole.argmax(0) if p.meaning.head == "softmax" else whole[1:].argmax(0) + 1
    if p.meaning.head == "sigmoid":
        expected = np.where((whole[1:] > np.reshape(p.meaning.thresholds, (-1, 1, 1))).any(0), expected, 0)
    assert ((found == expected) | (best[-1] - best[-2] < 1e-4)).all()
    assert len(np.unique(found)) > 1
    facts = tilekit.verify(tmp_path / "out.zarr", p, boxes=4, side=40)
    assert facts["differing_pixels"] == 0
    assert facts["max_abs_dp"] < 1e-5


def test_halo_and_stride_are_measured_once_and_kept_beside(tmp_path):
    path = torch_network(tmp_path / "net")
    p = load(path, "cpu")
    assert (p.halo.before, p.halo.after, p.stride, p.geometry.source) == ((8, 8), (8, 8), (2, 2), "measured")
    assert p.geometry.costs.parameters == 4 * 9 + 4 + 4 * 4 * 25 + 4 + 4 * 4 * 4 + 4 + 3 * 4 * 9 + 3
    assert p.multiply_adds_per_pixel == 4 * 9 + 4 * 4 * 25 / 4 + 4 * 4 + 3 * 4 * 9
    kept = path.with_name("network.toml.probe.json")
    kept.write_text(kept.read_text().replace('"measured"', '"kept"'))
    assert load(path, "cpu").geometry.source == "kept"
    path.write_text(path.read_text().replace("in_channels = 1", 'in_channels = 1\nhead = "softmax"'))
    assert load(path, "cpu").geometry.source == "measured"


def test_costs_of_onnx_are_those_of_the_same_layers(tmp_path):
    p = load(onnx_network(tmp_path / "net.onnx"), "cpu")
    assert p.multiply_adds_per_pixel == 4 * 9 + 4 * 4 * 25 / 4 + 4 * 4 + 3 * 4 * 9
    assert p.activation_bytes(128, 128) >= 4 * 4 * 128 * 128


def test_what_a_package_says_is_what_the_network_is_given(tmp_path):
    four, five = (load(made(f"bioimage 0.{n}", tmp_path / str(n)), "cpu") for n in (4, 5))
    assert (four.halo.before, four.stride, four.geometry.source) == ((8, 8), (2, 2), "stated")
    assert five.geometry.source == "measured"  # its halo of 4 is not enough
    assert (five.halo, five.channel_names, five.meaning.thresholds) == (four.halo, ("DAPI",), (0.4, 0.4, 0.4))
    x = np.full((1, 1, 32, 32), 150, np.uint8)
    np.testing.assert_allclose(four.meaning.normalization.apply(x, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(five.meaning.normalization.apply(x, axis=1), 1, rtol=1e-6)


def test_probabilities_of_a_network_that_ends_with_them_are_its_own(tmp_path):
    plain = load(onnx_network(tmp_path / "a" / "net.onnx"), "cpu")
    ended = load(made("onnx, probabilities", tmp_path / "b"), "cpu")
    x = np.random.default_rng(0).integers(0, 256, (2, 1, 48, 52), dtype=np.uint8)
    np.testing.assert_allclose(ended.probabilities(x), plain.probabilities(x), atol=1e-6)
    np.testing.assert_array_equal(ended.classes(x), plain.classes(x))


def test_a_changed_file_is_refused_on_the_worker(tmp_path):
    path = torch_network(tmp_path / "net", "changed_net")
    pickled = pickle.dumps(load(path, "cpu"))
    assert len(pickled) < 4000
    torch_network(tmp_path / "net", "changed_net", arguments={"n": 2})
    x = np.zeros((1, 1, 32, 32), np.uint8)
    with pytest.raises(InputError, match="has changed since the run was planned"):
        pickle.loads(pickled).classes(x)


@pytest.mark.slow
def test_workers_give_the_bytes_of_one_process(tmp_path):
    """Also: planning imports neither torch nor onnxruntime once the network has been measured."""
    p = load(onnx_network(tmp_path / "net.onnx"), "cpu")
    image = structured_image((1, 150, 130), "uint8")[0]
    for workers in (0, 2):
        tilekit.predict(image, p, tmp_path / f"{workers}.zarr", tile=40, block=64, workers=workers)
    maps = [zarr.open_array(str(tmp_path / f"{w}.zarr/labels/classes/0"), mode="r")[:] for w in (0, 2)]
    np.testing.assert_array_equal(*maps)
    code = (
        "import sys; from models import load; load(sys.argv[1]).stride; assert not {'torch', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "net.onnx"], check=True)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda f: torch_network(f, arguments={"norm": "InstanceNorm2d"}), r"instance norm \(layer layers.4\)"),
        (lambda f: onnx_network(f / "net.onnx", norm="InstanceNormalization"), r"instance norm \(node norm\)"),
        (lambda f: onnx_network(f / "net.onnx", norm="GlobalAveragePool"), r"global pooling \(node pool\)"),
        (lambda f: monai_network(f, "instance"), r"instance norm \(layer model.0.adn.N\)"),
    ],
    ids=["torch", "onnx, norm", "onnx, pooling", "monai"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_network_that_sees_the_whole_tile_is_refused_with_the_layer(make, reason, tmp_path):
    p = load(make(tmp_path / "net"), "cpu")
    assert not p.exact
    with pytest.raises(InputError, match=f"cannot be exact: {reason} looks at the whole tile"):
        tilekit.predict(np.zeros((64, 64), np.uint8), p, tmp_path / "out.zarr")


def changed(path: Path, old: str, new: str) -> Path:
    path.write_text(path.read_text().replace(old, new))
    return path


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def archive(path: Path, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(name, b"\x80\x02.")
    return path


def rdf(*changes: tuple[str, str, object]) -> dict:
    """RDF_4 with changes: where ("inputs" or "outputs"), key, value."""
    found = copy.deepcopy(RDF_4)
    for where, key, value in changes:
        (found[where][0] if where in ("inputs", "outputs") else found)[key] = value
    return found


def wider(folder: Path) -> Path:
    path = torch_network(folder)
    return changed(path, "width = 4", "width = 8")


REFUSED = {
    "weights of another width": (wider, r"layers.0.bias has shape \(4,\), the network \(8,\); correct arguments"),
    "no class": (lambda f: changed(torch_network(f), ":Net", ":Nothing"), "has no attribute 'Nothing'; correct import"),
    "no module": (lambda f: changed(torch_network(f), "foreign_net:", "no_such:"), "cannot import no_such"),
    "other arguments": (lambda f: changed(torch_network(f), "width =", "breadth ="), "breadth.*correct arguments"),
    "unknown key": (lambda f: torch_network(f, classe=["a"]), "'classe' is unknown; the keys are"),
    "too few classes": (lambda f: torch_network(f, classes=["a", "b"]), "classes holds 2 names, the network has 3"),
    "a stated halo too small": (lambda f: torch_network(f, halo=4, stride=2), "halo 4, 4 and stride 2 differ"),
    "weights that are a pickle": (
        lambda f: changed(torch_network(f), "net.safetensors", "net.pth"), "net.pth: is a pickle.*nothing is unpickled"
    ),
    "no TOML": (lambda f: written(f / "n.toml", b"import ="), "is no TOML"),
    "TorchScript": (lambda f: archive(f / "net.ts", "code/a.py"), "TorchScript archive.*nothing is unpickled: export"),
    "pt2": (lambda f: archive(f / "net.pt2", "data.pkl"), "reads through pickle.*torch.onnx.export"),
    "pth": (lambda f: archive(f / "net.pth", "data.pkl"), "is a pickle.*safetensors"),
    "zip of torch": (lambda f: archive(f / "net.zip", "net/data.pkl"), "TorchScript or torch archive"),
    "corrupt zip": (lambda f: written(f / "net.zip", b"PK\x03\x04" + bytes(40)), "no whole zip archive"),
    "corrupt ONNX": (lambda f: written(f / "net.onnx", b"\x08\x09" * 50), "no whole ONNX file"),
    "empty ONNX": (lambda f: written(f / "net.onnx", b""), "no whole ONNX file"),
    "ONNX of a fixed size": (
        lambda f: onnx_network(f / "net.onnx", fixed=64), "inputs of 64 x 64 pixels alone; export it with torch.onnx"
    ),
    "unknown step before": (
        lambda f: package(f / "p", rdf(("inputs", "preprocessing", [{"name": "clip"}]))),
        "preprocessing clip is not known",
    ),
    "step of each sample": (
        lambda f: package(f / "p", rdf(("inputs", "preprocessing", [{"name": "scale_range", "kwargs": {}}]))),
        "scale_range reads statistics of each sample",
    ),
    "unknown step after": (
        lambda f: package(f / "p", rdf(("outputs", "postprocessing", [{"name": "stardist"}]))),
        "postprocessing stardist is not known",
    ),
    "other axes": (lambda f: package(f / "p", rdf(("inputs", "axes", "bczyx"))), "axes are bczyx, must be bcyx"),
    "package of torch weights": (
        lambda f: package(f / "p", rdf(("", "weights", {"torchscript": {"source": "w.pt"}}))),
        "weights as torchscript, none as ONNX; nothing is unpickled",
    ),
    "no weights there": (
        lambda f: package(f / "p", rdf(("", "weights", {"onnx": {"source": "gone.onnx"}}))), "gone.onnx cannot be read"
    ),
    "damaged YAML": (lambda f: written(f / "rdf.yaml", b"a: [1"), "its YAML is damaged"),
    "no model": (lambda f: written(f / "rdf.yaml", b"a: 1"), "is no BioImage.IO model"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_taken_is_refused_in_one_line(what, tmp_path):
    make, said = REFUSED[what]
    with pytest.raises(InputError, match=said) as refused:
        load(make(tmp_path / "net"), "cpu")
    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value)
