"""Real images through `tilekit segment` and `tilekit verify`, as a user types them; prints a table.

    python benchmarks/real_input.py [WORDS ...]      only the images whose name holds one of the words

Reads ../shared/data beside the checkout: electron microscopy, nuclei, cells, whole slides, OME-Zarr of both versions.
Networks are random (base 4, depth 3): what is shown is that every image passes, and passes exactly.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
SLIDE = "large-crc-wsi/CRC01_Hoechst_level2_17408x14336.ome.tif"
SMALL = ("--tile", "96", "--block", "192")
"""For images that would otherwise be one tile, so that there are seams to prove."""
TISSUE = "large-crc-wsi/CRC01_HE_level2_crop_8192x8192_x3072_y5120.tif"


@dataclass(frozen=True)
class Case:
    """One image, and how to segment it."""

    name: str
    sources: tuple[Path, ...]
    """The file or store; several PNG files become one stack, since tilekit reads no PNG."""
    stacked_as: str = ""
    """Suffix of the file that the sources are converted to; empty where tilekit reads the source itself."""
    arguments: tuple[str, ...] = ()
    slow: bool = False


@dataclass(frozen=True)
class Row:
    """What came of a case."""

    name: str
    shape: tuple[int, ...]
    blocks: int
    seconds: float
    """Of the segmentation's stages; `wall` has the whole command."""
    wall: float
    megapixels_per_second: float
    boxes: int
    differing: int
    ties: int
    max_abs_dp: float
    out: Path
    classes: dict[str, int] = field(default_factory=dict)


def cases() -> Iterator[Case]:
    """All images, quick ones first."""
    em = sorted((DATA / "isbi2012-em/image").glob("*.png"))
    yield Case("em slice", tuple(em[:1]), ".npy", SMALL)
    for path in one_of_each_shape(sorted((DATA / "dsb2018-nuclei").glob("*/images/*.png"))):
        yield Case(f"{path.parents[1].name} nuclei {path.stem[:6]}", (path,), ".tif", SMALL)
    cells = sorted((DATA / "ctc-dic-hela/01").glob("*.png"))
    yield Case("hela cells, one frame", tuple(cells[:1]), ".tif", SMALL)
    for store in ome_zarr_images():
        name = f"ome-zarr {store.relative_to(DATA / 'ome-zarr')}"
        big = "pyramid" in name
        yield Case(name, (store,), arguments=("--level", "1") if big else SMALL, slow=big or "skimage" in name)
    yield Case("em slices, all", tuple(em), ".tif", slow=True)
    yield Case("hela cells, all frames", tuple(cells), ".npy", slow=True)
    yield Case("tissue, 3 channels", (DATA / TISSUE,), slow=True)
    yield Case("slide, channel 0", (DATA / SLIDE,), arguments=("--channels", "0"), slow=True)
    yield Case("slide, channel 0, level 2", (DATA / SLIDE,), arguments=("--channels", "0", "--level", "2"))


def one_of_each_shape(paths: list[Path]) -> list[Path]:
    from PIL import Image

    found: dict[Any, Path] = {}
    for path in paths:
        with Image.open(path) as image:
            found.setdefault((image.size, image.mode), path)
    return list(found.values())


def ome_zarr_images() -> list[Path]:
    """Groups with a pyramid, in stores of both versions."""
    found = []
    for root, _, files in os.walk(DATA / "ome-zarr"):
        documents = [Path(root, name) for name in (".zattrs", "zarr.json") if name in files]
        if any('"multiscales"' in path.read_text() for path in documents):
            found.append(Path(root))
    return sorted(found)


def converted(case: Case, folder: Path) -> Path:
    """The case's image as one file that tilekit reads."""
    if not case.stacked_as:
        return case.sources[0]
    import tifffile
    from PIL import Image

    planes = []
    for path in case.sources:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB") if image.mode in ("RGBA", "P") else image)
        planes.append(np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels)
    if len(planes) == 1:
        pixels, axes = planes[0], "CYX"[3 - planes[0].ndim :]
    else:
        pixels, axes = np.stack(planes)[None, :], "CZYX"
    path = folder / f"image{case.stacked_as}"
    if case.stacked_as == ".npy":
        np.save(path, pixels)
    else:
        tifffile.imwrite(path, pixels, ome=True, photometric="minisblack", metadata={"axes": axes})
    return path


def tilekit(*arguments: str) -> dict[str, Any]:
    """A command with --json; raises with its standard error where it fails."""
    command = [sys.executable, "-m", "flows.main", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def model_for(channels: int, folder: Path) -> str:
    """A random network for this many channels."""
    path = folder / f"{channels}-channels.safetensors"
    if not path.exists():
        import torch

        from models import UNet, save

        torch.manual_seed(channels)
        net = UNet(channels, 3, base=4, depth=3)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(0, 0.05)
            net.head.weight *= 10  # sure of itself, also where contrast is low
        save(net, path, class_names=["background", "cell", "border"])
    return str(path)


def run(case: Case, folder: Path, workers: int = 0) -> Row:
    """Segment and verify one case in a folder."""
    image = str(converted(case, folder))
    level = case.arguments[case.arguments.index("--level") + 1] if "--level" in case.arguments else "0"
    facts = tilekit("info", image, "--level", level)
    n = facts["shape"][facts["axes"].index("c")] if "c" in facts["axes"] else 1
    model = model_for(1 if "--channels" in case.arguments else n, folder)
    out = folder / "out.zarr"
    started = time.perf_counter()
    done = tilekit("segment", image, model, str(out), "--workers", str(workers), "--overwrite", *case.arguments)
    wall = time.perf_counter() - started
    proof = tilekit("verify", str(out), model)
    return Row(
        name=case.name,
        shape=tuple(facts["shape"]),
        blocks=done["blocks"],
        seconds=done["seconds"],
        wall=wall,
        megapixels_per_second=done["megapixels_per_second"],
        boxes=proof["boxes"],
        differing=proof["differing_pixels"],
        ties=proof["ties"],
        max_abs_dp=proof["max_abs_dp"],
        out=out,
        classes=done["classes"],
    )


def main(words: list[str]) -> int:
    print(f"{'image':<66}{'shape':<26}{'blocks':>7}{'s':>8}{'Mpx/s':>8}{'max dp':>9}{'ties':>6}{'differ':>8}")
    failed = 0
    for case in cases():
        if words and not any(word in case.name for word in words):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = run(case, Path(folder), workers=2 if case.slow else 0)
            except RuntimeError as error:
                print(f"{case.name[-64:]:<66}{error}", flush=True)
                failed += 1
                continue
        failed += row.differing > 0
        print(
            f"{row.name[-64:]:<66}{'x'.join(map(str, row.shape)):<26}{row.blocks:>7}{row.seconds:>8.2f}"
            f"{row.megapixels_per_second:>8.2f}{row.max_abs_dp:>9.1e}{row.ties:>6}{row.differing:>8}",
            flush=True,
        )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
