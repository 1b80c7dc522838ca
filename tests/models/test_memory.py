"""The memory that a predictor promises is not below what a process takes, over tiles of mixed sizes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from models import load, save
from models.architecture import ARCHITECTURES
from models.families import build
from tilekit.allocator import heap_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PROGRAM = """
import gc, sys
import numpy as np
from models import load
def read(path, key):
    return next(int(line.split()[1]) * 1024 for line in open(path) if line.startswith(key))
p = load(sys.argv[1], "cpu", sys.argv[2])
n = int(sys.argv[3])
h = p.halo.before[0] + p.halo.after[0]
p.network
tiles = [np.full((1, 1, y + h, x + h), 7, np.uint8) for y, x in ((n, n), (n, n // 2), (n // 4, n // 2), (n, n))]
gc.collect()
start = read("/proc/self/status", "VmRSS")
open("/proc/self/clear_refs", "w").write("5")
for tile in tiles:
    p.predict(tile, probabilities=True)
print(read("/proc/self/status", "VmHWM") - start)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "core", "precision"),
    [
        ({"base": 16, "depth": 3}, 512, "float32"),
        ({"base": 16, "depth": 3}, 1024, "float32"),
        ({"base": 16, "depth": 3}, 1024, "bfloat16"),
        ({"base": 16, "depth": 3, "padding": "same", "upsampling": "bilinear", "batch_norm": True}, 1024, "float32"),
        ({"base": 8, "depth": 3, "instance_norm": True}, 512, "float32"),
        ({"base": 16, "depth": 3, "n_classes": 64}, 512, "float32"),
        ({"base": 64, "depth": 4}, 256, "float32"),
        ({"family": "FCN", "base": 16, "hidden": 256, "batch_norm": True}, 512, "float32"),
        ({"family": "SegNet", "base": 16}, 512, "float32"),
        ({"family": "SegNet", "base": 16}, 512, "bfloat16"),
        ({"family": "DeepLab", "encoder": "resnet50", "base": 16, "width": 64, "rates": [2, 4]}, 512, "float32"),
        ({"family": "DeepLab", "encoder": "vgg16", "base": 16, "width": 64, "decoder": True}, 512, "float32"),
    ],
)
def test_measured_memory_is_under_the_promise(tmp_path, settings, core, precision):
    path = tmp_path / "m.safetensors"
    architecture = ARCHITECTURES[settings.get("family", "UNet")]
    own = {name: value for name, value in settings.items() if name != "family"}
    save(build(architecture.of({"in_channels": 1} | own)), path)
    command = [sys.executable, "-c", PROGRAM, str(path), precision, str(core)]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    promised = heap_bytes(load(path, "cpu", precision).activation_bytes(core, core))
    print(f"{settings} {core} {precision}: {taken / 2**20:.0f} of {promised / 2**20:.0f} MiB")
    assert 0 < taken <= promised  # a small tile may fit what loading has left of the heap
