"""Every family on real images for the same budget of CPU seconds: what it learns in it, and what it then costs.

    python -m benchmarks.families --data FOLDER --out FOLDER [--minutes 2] [--only em/unet] [--docs docs/networks.md]

FOLDER of the data holds the sets by name: isbi2012-em, chesapeake-landcover. All trainings have one recipe but for the
number of steps: a few steps are timed first, and as many are taken as fit into the budget (CPU time of training,
readers included, validation not). So a network with a wide halo, which sees much around each patch, takes fewer.
Widths are such that each family has about half a million parameters. Test images are other slices of the stack, and
another place. Each training and each prediction is a process on one core, as threads that wait for each other spend CPU
time too. What is finished (--out/SET-FAMILY.json) is not done again, so the command can be stopped and continued;
--docs puts the table between its markers there.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import tilekit
from benchmarks.common import case, machine
from flows.training.run import Options, Prepared, check, evaluate, fit, prepare
from models import load
from models.checkpoint import read_header
from tilekit.box import Box

Row = tuple[Path, Path, str]
"""Image, truth, part."""

FAMILIES = {
    "unet": "base = 16\ndepth = 3",
    "fcn8s": "base = 8\nhidden = 128",
    "segnet": "base = 8",
    "deeplab": 'encoder = "resnet18"\nbase = 12\nwidth = 32\noutput_stride = 8\nrates = [2, 4, 6]\ndecoder = true',
}
EM = """
map = "0=0,255=1"
class_names = ["membrane", "inside"]
"""
LAND = """
channels = [0, 1, 2, 3]
map = "2=0,3=1,5=void,6=void"
class_names = ["forest", "field"]
"""
SETS = {"em": EM, "land": LAND}
RECIPE = """
[split]
by = "column"
[weights]
kind = "class"
[patches]
side = 192
batch = 1
choose = "class"
[augment]
gamma = 0.2
noise = 0.1
[training]
precision = "bfloat16"
learning_rate = 0.003
ema = 0.99
steps = {steps}
[validation]
every = {steps}
tune = true
overlays = 0
[network]
family = "{family}"
batch_norm = true
dropout = 0.1
{network}
[output]
folder = "{folder}"
"""
TIMED_STEPS = 8
"""Of which the first half warms up."""
SIDE = 2048
"""Of the image that prediction is timed on: a test image mirrored to this size, in pixels."""
BEGIN, END = "<!-- benchmarks/families.py begins -->", "<!-- benchmarks/families.py ends -->"


def pairs(name: str, data: Path) -> Iterator[Row]:
    """Images with their truth and part: EM by slices in runs, land by quadrangles, one of which has both test and
    validation.
    """
    if name == "em":
        for number, image in enumerate(sorted((data / "isbi2012-em/image").glob("*.png"))):
            part = "test" if number >= 24 else "validation" if number >= 22 else "train"
            yield image, data / "isbi2012-em/label" / image.name, part
        return
    folder = data / "chesapeake-landcover"
    for image in sorted((folder / "images_rgbn").glob("*.tif")):
        place, number = image.stem.split("_")[0], image.stem[-1]
        part = "train" if place == "train" else "validation" if number in "57" else "test"
        yield image, folder / "label_hr6" / f"{image.stem}.png", part


def write_config(out: Path, name: str, family: str, folder: str, steps: int) -> Path:
    """The configuration of one training; its pairs are in NAME.csv beside it."""
    path = out / f"{folder}.toml"
    recipe = RECIPE.format(steps=steps, family=family, network=FAMILIES[family], folder=folder)
    path.write_text(f'[data]\nimages = "{name}.csv"\nkind = "classes"{SETS[name]}{recipe}')
    return path


class Watch:
    """CPU seconds between steps of training."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        if what == "train":
            self.at.append(time.process_time())

    def per_step(self, first: int = 0) -> float:
        """Mean CPU seconds of a step, those before `first` left out."""
        return (self.at[-1] - self.at[first]) / (len(self.at) - 1 - first)


def seconds_per_step(out: Path, name: str, family: str) -> float:
    """Of a few steps, thrown away."""
    config = write_config(out, name, family, f"{name}-{family}-timed", TIMED_STEPS)
    watch = Watch()
    prepared = check(config, Options(overwrite=True))
    fit(prepared, watch)
    shutil.rmtree(prepared.folder)
    config.unlink()
    return watch.per_step(TIMED_STEPS // 2)


def train(folder: str, name: str, family: str, budget: float) -> dict[str, Any]:
    """Train for `budget` CPU seconds, in this process, and score on the held-out images."""
    out = on_one_core(folder)
    steps = max(TIMED_STEPS, round(budget / seconds_per_step(out, name, family)))
    prepared = check(write_config(out, name, family, f"{name}-{family}", steps), Options(overwrite=True))
    watch = Watch()
    fit(prepared, watch)
    scores = {part: scored.pooled for part, scored in evaluate(prepared).items()}
    shapes = read_header(prepared.folder / "model.safetensors").config.parameter_shapes
    return {
        "set": name, "family": family, "steps": steps, "training_s": round(watch.per_step() * steps, 1),
        "parameters": sum(prod(s) for n, s in shapes.items() if not n.endswith(("running_mean", "running_var"))),
        "class_names": list(prepared.survey.class_names),
        **{part: {"iou": [round(v, 4) for v in pooled["iou"]], "miou": round(pooled["miou"], 4)}
           for part, pooled in scores.items()},
    }  # fmt: skip


def on_one_core(folder: str) -> Path:
    """Keep this process on one core; the folder."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return Path(folder)


def predict(folder: str, name: str, family: str) -> dict[str, Any]:
    """CPU seconds per megapixel and peak memory of segmenting SIDE^2 pixels with a trained network, in this process."""
    prepared = prepare(on_one_core(folder) / f"{name}-{family}.toml")
    predictor = load(prepared.folder / "model.safetensors", device="cpu")
    image = mirrored(prepared)
    with tempfile.TemporaryDirectory() as scratch:
        tilekit.predict(image[:, :64, :64], predictor, Path(scratch) / "warm.zarr")
        before, start = peak_bytes(), time.process_time()
        tilekit.predict(image, predictor, Path(scratch) / "out.zarr")
        seconds = time.process_time() - start
    return {
        "halo": [predictor.halo.before[0], predictor.halo.after[0]], "stride": predictor.stride[0],
        "s_per_mpx": round(seconds * 1e6 / SIDE**2, 3), "peak_mib": peak_bytes() >> 20, "before_mib": before >> 20,
    }  # fmt: skip


def mirrored(prepared: Prepared) -> NDArray[Any]:
    """The first test image, raw values (c, y, x), mirrored until it has SIDE pixels a side."""
    return prepared.survey.samples["test"][0].read(Box((0, 0), (SIDE, SIDE)))


def peak_bytes() -> int:
    """Most memory that this process has held."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def measure(out: Path, name: str, family: str, budget: float) -> dict[str, Any]:
    """Figures of one training, kept in a file, and taken from it where they are there."""
    kept = out / f"{name}-{family}.json"
    if not kept.exists():
        which = {"folder": str(out), "name": name, "family": family}
        found = case("benchmarks.families:train", **which, budget=budget)
        found |= case("benchmarks.families:predict", **which)
        found |= {"budget_s": budget, "machine": machine()}
        kept.write_text(json.dumps(found, indent=1))
        print(row(found), flush=True)
    return dict(json.loads(kept.read_text()))


def row(found: dict[str, Any]) -> str:
    """One line of the table."""
    each = ", ".join(f"{n} {v:.3f}" for n, v in zip(found["class_names"], found["test"]["iou"], strict=True))
    cells = [
        found["set"], found["family"], f"{found['parameters']:,}", "{}, {}".format(*found["halo"]), found["stride"],
        found["steps"], each, f"{found['test']['miou']:.3f}", f"{found['s_per_mpx']:.2f}", f"{found['peak_mib']:,}",
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


HEAD = """
| set | family | parameters | halo | stride | steps | held-out IoU | mean | CPU s/Mpx | peak MiB |
|---|---|---|---|---|---|---|---|---|---|
""".strip()


def put(docs: Path, table: str) -> None:
    """The table between its markers."""
    before, rest = docs.read_text(encoding="utf-8").split(BEGIN)
    docs.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=2, help="CPU minutes of each training")
    parser.add_argument("--only", action="append", help="SET/FAMILY; several times for several")
    parser.add_argument("--docs", type=Path)
    arguments = parser.parse_args()
    out, budget = arguments.out.absolute(), arguments.minutes * 60
    chosen = [each.split("/") for each in arguments.only or [f"{name}/{f}" for name in SETS for f in FAMILIES]]
    out.mkdir(parents=True, exist_ok=True)
    for name in {name for name, _ in chosen}:
        with (out / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("image", "truth", "part"), *pairs(name, arguments.data.absolute())])
    table = "\n".join([HEAD, *(row(measure(out, name, family, budget)) for name, family in chosen)])
    (out / "table.md").write_text(table + "\n")
    print(table)
    if arguments.docs:
        put(arguments.docs, table)


if __name__ == "__main__":
    main()
