"""Train on real sets and score on held-out images, as `tilekit train` does it: one line of figures per set.

    python benchmarks/real_training.py NAME --data FOLDER --out FOLDER [--steps N]

FOLDER holds the sets by name: isbi2012-em, ctc-dic-hela, dsb2018-nuclei, axondeepseg-sem. NAME is one of RECIPES,
each a small network for one or two CPU cores. What is written into --out: NAME.toml, NAME.csv (the pairs), NAME/ (the
training). Splits keep what is alike together: slices of a stack in runs, frames by time, nuclei by kind of
image (its size tells the experiment), axons by animal.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path

from flows.training.run import Options, train_file

Row = tuple[Path, Path, str, str]
"""Image, truth, group, part."""

COMMON = """
[training]
precision = "bfloat16"
learning_rate = 0.003
ema = 0.998
"""
ISBI = """
[data]
kind = "classes"
map = "0=0,255=1"
class_names = ["membrane", "inside"]
[split]
by = "order"
validation = ["19-23"]
test = ["24-29"]
[weights]
kind = "none"
[network]
base = 16
depth = 3
dropout = 0.0
[patches]
side = 192
batch = 2
[augment]
gamma = 0.2
noise = 0.1
[validation]
score = "rand_isbi2012"
every = 900
"""
HELA = """
[data]
class_names = ["background", "cell"]
[split]
by = "order"
{split}
[network]
base = 16
depth = 4
dropout = 0.0
[patches]
side = 256
batch = 2
[augment]
gamma = 0.2
noise = 0.1
[validation]
score = "seg"
connectivity = 4
min_size = 200
fill_holes = 500
every = 700
"""
NUCLEI = """
[data]
class_names = ["background", "nucleus"]
[split]
by = "column"
[weights]
{weights}
[network]
base = 16
depth = 3
dropout = 0.0
[patches]
side = 192
batch = 2
choose = "class"
[augment]
scale = 0.4
contrast = 0.8
brightness = 0.3
gamma = 0.3
noise = 0.1
[validation]
score = "ap"
connectivity = 4
min_size = 12
fill_holes = 100
every = 600
"""
AXONS = """
[data]
kind = "classes"
map = "0=0,127=1,128=1,130=1,233=2,255=2"
class_names = ["background", "myelin", "axon"]
[split]
by = "column"
[weights]
kind = "class"
[network]
base = 8
depth = 4
dropout = 0.0
[patches]
side = 256
batch = 2
[augment]
gamma = 0.2
noise = 0.1
[validation]
every = 600
"""
RECIPES = {
    "isbi": (ISBI, 4500),
    "hela-late": (HELA.format(split='train = ["36-99"]\nvalidation = ["28-34"]\ntest = ["0-24"]'), 3500),
    "hela-early": (HELA.format(split='train = ["0-24"]\nvalidation = ["28-34"]\ntest = ["36-99"]'), 3500),
    "nuclei": (NUCLEI.format(weights='kind = "unet"'), 5000),
    "nuclei-no-border": (NUCLEI.format(weights='kind = "class"'), 5000),
    "nuclei-no-ridge": (NUCLEI.format(weights='kind = "class"\nridge = false'), 5000),
    "axons": (AXONS, 3000),
}
KINDS = {
    "256 x 320": "validation",
    "603 x 1272": "validation",
    "360 x 360": "test",
    "260 x 347": "test",
    "512 x 640": "test",
}
"""Kinds of nuclei images that are held out; training has 256 x 256, 520 x 696 and 1040 x 1388."""
ANIMALS = {
    "sub-rat2": "validation",
    "sub-rat5": "validation",
    "sub-rat4": "test",
    "sub-rat7": "test",
    "sub-rat8": "test",
}


def pairs(name: str, data: Path) -> Iterator[Row]:
    """Images with their truth."""
    if name == "isbi":
        for image in sorted((data / "isbi2012-em/image").glob("*.png")):
            yield image, data / "isbi2012-em/label" / image.name, "stack", ""
    elif name.startswith("hela"):
        for image in sorted((data / "ctc-dic-hela/01").glob("*.png")):
            yield image, data / f"ctc-dic-hela/01_ST/SEG/man_seg{image.stem[1:]}.tif", "01", ""
    elif name.startswith("nuclei"):
        folder = data / "dsb2018-nuclei"
        with (folder / "index.csv").open() as table:
            for row in csv.DictReader(table):
                if row["set"] == "fluorescence":
                    kind, place = f"{row['height']} x {row['width']}", folder / row["set"]
                    yield place / "images" / row["file"], place / "labels" / row["file"], kind, KINDS.get(kind, "train")
    else:
        folder = data / "axondeepseg-sem"
        for image in sorted(folder.glob("sub-*/micr/*.png")):
            animal = image.name.split("_")[0]
            truth = folder / "derivatives/labels" / animal / "micr" / f"{image.stem}_seg-axonmyelin-manual.png"
            yield image, truth, animal, ANIMALS.get(animal, "train")


def main() -> None:
    """Write the configuration, train, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    text, steps = RECIPES[arguments.name]
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{arguments.name}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "truth", "group", "part"])
        table.writerows(pairs(arguments.name, arguments.data.absolute()))
    config = (text + COMMON).replace("[data]\n", f'[data]\nimages = "{arguments.name}.csv"\n')
    config = config.replace("[training]\n", f"[training]\nsteps = {arguments.steps or steps}\n")
    (out / f"{arguments.name}.toml").write_text(config + f'[output]\nfolder = "{arguments.name}"\n')
    result = train_file(out / f"{arguments.name}.toml", Options(resume=arguments.resume))
    print(json.dumps({"set": arguments.name, **result}))


if __name__ == "__main__":
    main()
