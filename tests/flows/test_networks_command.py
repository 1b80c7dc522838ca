"""tilekit models and probe: figures by arithmetic, and the same by measurement."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from models import UNet, load, save
from models.probing import list_models, probe_model
from tests.models.foreign import onnx_network, torch_network


def tilekit(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "flows.main", *map(str, arguments)], capture_output=True, text=True)


def test_the_list_has_every_family_and_starter_with_its_figures():
    rows = {row["model"]: row for row in list_models()}
    assert {"UNet", "nuclei", "axons"} <= rows.keys()
    paper = rows["UNet"]
    assert (paper["halo"], paper["stride"], paper["exact"]) == ([92, 96], 16, True)
    assert (paper["parameters"], paper["multiply_adds_per_pixel"]) == (31_030_658, 733_888)
    nuclei = load("nuclei")
    megapixel = nuclei.activation_bytes(1024, 1024) / 1024**2 * 1e6
    assert 0.9 < rows["nuclei"]["bytes_per_megapixel"] / megapixel <= 1


def test_the_probe_of_a_checkpoint_agrees_with_its_arithmetic(tmp_path: Path):
    save(UNet(2, 3, base=4, depth=2, padding="same", batch_norm=True), tmp_path / "m.safetensors")
    network = load(tmp_path / "m.safetensors", "cpu").network
    found = probe_model(tmp_path / "m.safetensors")
    assert (found["kind"], found["in_channels"], found["out_channels"]) == ("checkpoint", 2, 3)
    assert (found["halo"], found["stride"]) == ({"before": [24, 24], "after": [24, 24]}, [4, 4])
    assert (found["exact"], found["agrees"]) == (True, True)
    assert next(network.parameters()).dtype.is_floating_point
    assert next(network.parameters()).itemsize == 4  # the probe has a copy of its own


def test_the_probe_says_what_is_stated_and_which_layer_is_to_blame(tmp_path: Path):
    wide = probe_model(torch_network(tmp_path / "a", halo=16, stride=4))
    assert wide["stated"] == {"halo": {"before": [16, 16], "after": [16, 16]}, "stride": [4, 4]}
    assert (wide["halo"], wide["stride"], wide["agrees"]) == ({"before": [8, 8], "after": [8, 8]}, [2, 2], True)
    assert probe_model(torch_network(tmp_path / "a", halo=4, stride=2))["agrees"] is False
    normed = probe_model(onnx_network(tmp_path / "net.onnx", norm="InstanceNormalization"))
    assert (normed["exact"], normed["reason"]) == (False, "instance norm (node norm) looks at the whole tile")
    assert normed["halo"] is None


def test_both_commands_print_for_people_and_for_programs(tmp_path: Path):
    table = tilekit("models").stdout.splitlines()
    assert table[0].split()[:3] == ["model", "kind", "parameters"]
    assert "31,030,658" in next(line for line in table if line.startswith("UNet "))
    path = onnx_network(tmp_path / "net.onnx")
    assert json.loads(tilekit("probe", path, "--json").stdout)["stride"] == [2, 2]
    assert "exact" in tilekit("probe", path).stdout
    refused = tilekit("probe", onnx_network(tmp_path / "fixed.onnx", fixed=64))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "takes inputs of 64 x 64 pixels alone" in refused.stderr
