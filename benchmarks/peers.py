"""Other ways to do the same, on the same weights, image and machine, in turn: CPU seconds, peak memory, and error.

Segmentation: a lightly trained U-Net 16/3 on a specimen, from Zarr to a Zarr of class ids, one torch thread, network in
channels_last, start-up left out; the error is against one pass over the whole image (of the padded twin for peers that
pad, over the image as it is; mirrored otherwise). tilekit also writes the image's pyramid, statistics and ledger.
MONAI's window once more on a larger image, in torch's own layout too, without the pass over the whole image, which
memory does not hold there.
Then dask_image's labels, and the usual recipe for weight maps: a distance transform per cell.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, windows
from benchmarks.common import WORK, CaseError, Row, case, medians, note, row, say, timed
from tilekit.allocator import ALLOCATOR_ENV

sys.path.append(str(Path(sys.prefix) / "peers"))  # where `make peers` installs what is measured here alone


def folder_of(size: int) -> Path:
    return WORK / f"peers-{size}"


def prepare(size: int, steps: int, whole: bool = True) -> None:
    """Image, network, and the passes over the whole image; made once."""
    import torch
    import zarr

    from models import UNet, save
    from tilekit.box import Box
    from tilekit.specimen import Specimen

    folder = folder_of(size)
    if folder.exists():
        return
    part = Path(tempfile.mkdtemp(dir=WORK))
    pixels = Specimen(size).read(Box((0, 0), (size, size)))
    zarr.create_array(part / "image.zarr", data=pixels, chunks=(512, 512), dimension_names=["y", "x"])
    net = _trained(UNet(base=16, depth=3), steps)
    save(net, part / "net.safetensors", class_names=["background", "cell"])
    with torch.inference_mode():
        for padding in ("valid", "same") if whole else ():
            net = windows.network(part, padding)
            pad = windows.HALO if padding == "valid" else 0
            x = np.pad(pixels, (pad, pad + 4 * bool(pad)), mode="reflect")  # 4 more: a size that the network takes
            y = net(windows.tensor(x))[0, :, :size, :size]
            np.save(part / f"{padding}.npy", torch.sigmoid(y[1] - y[0]).numpy())
    part.rename(folder)


def _trained(net: Any, steps: int) -> Any:
    """Trained so far that it draws cells, in a minute."""
    import torch

    from tilekit.box import Box
    from tilekit.specimen import Specimen

    torch.manual_seed(0)
    side, cut = 220, windows.HALO
    specimen, box, rng = Specimen(1024, 1), Box((0, 0), (1024, 1024)), np.random.default_rng(0)
    pixels = torch.from_numpy(specimen.read(box).astype(np.float32) / 255)
    truth = torch.from_numpy((specimen.truth(box) > 0).astype(np.int64))
    net = net.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(steps):
        corners = rng.integers(0, 1024 - side, (4, 2))
        x = torch.stack([pixels[y : y + side, x : x + side] for y, x in corners])[:, None]
        y = net(x.contiguous(memory_format=torch.channels_last))
        n = y.shape[-1]
        wanted = torch.stack([truth[y + cut :, x + cut :][:n, :n] for y, x in corners])
        loss = torch.nn.functional.cross_entropy(y, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def peer(name: str, size: int, layout: str = "channels_last") -> dict[str, Any]:
    """One peer in this process: CPU seconds, peak memory, share of labels that differ, largest difference."""
    import torch
    import zarr

    torch.set_num_threads(1)
    folder = folder_of(size)
    padding, job = windows.PEERS[name]
    net = windows.network(folder, padding, layout)
    found: dict[str, Any] = {}
    with torch.inference_mode():
        net(torch.rand(1, 1, 192 + 20 * (padding == "valid"), 192 + 20 * (padding == "valid")))
        cpu = timed(lambda: found.update(p=job(folder, net)))
    peak = common.high_water()
    if not (folder / f"{padding}.npy").exists():
        return {"cpu": cpu, "peak": peak}
    wanted, p = np.load(folder / f"{padding}.npy"), found["p"]
    classes = zarr.open_array(folder / "out.zarr", mode="r")[:]
    differing = int((classes != (wanted > 0.5)).sum())
    away = None if p is None else float(np.abs(p - wanted).max())
    return {"cpu": cpu, "peak": peak, "differing": differing, "dp": away}


def own(size: int, workers: int) -> dict[str, Any]:
    """tilekit on the same image, after a small one."""
    import zarr

    import tilekit
    from models import load

    folder, net = folder_of(size), load(str(folder_of(size) / "net.safetensors"), device="cpu")
    out = Path(tempfile.mkdtemp(dir=WORK))
    small = np.zeros((64, 64), np.uint8)

    def used(image: Any, name: str) -> float:
        return timed(lambda: tilekit.predict(image, net, out / name, workers=workers))

    used(small, "first.zarr")
    start = used(small, "second.zarr")
    cpu = used(str(folder / "image.zarr"), "out.zarr") - start
    peak = common.high_water()
    if not (folder / "valid.npy").exists():
        shutil.rmtree(out)
        return {"cpu": cpu, "peak": peak}
    classes = zarr.open_array(out / "out.zarr/labels/classes/0", mode="r")[:]
    verified = tilekit.verify(out / "out.zarr", net)
    shutil.rmtree(out)
    differing = int((classes != (np.load(folder / "valid.npy") > 0.5)).sum())
    return {"cpu": cpu, "peak": peak, "differing": differing, "dp": verified["max_abs_dp"]}


def segmentation(size: int, rounds: int, steps: int) -> list[Row]:
    """Peers as their users get them, and with tilekit's allocator settings."""
    case(prepare, size=size, steps=steps, timeout=600)
    runs: dict[str, list[dict[str, Any]]] = {}
    notes = {}
    for _ in range(rounds):
        runs.setdefault("tilekit, one process", []).append(case(own, size=size, workers=0))
        runs.setdefault("tilekit, one Dask worker", []).append(case(own, size=size, workers=1))
        for name in windows.PEERS:
            for env, how in ((None, "as it comes"), (ALLOCATOR_ENV, "same allocator")):
                try:
                    found = case(peer, env=env, timeout=600, name=name, size=size)
                    runs.setdefault(f"{name}, {how}", []).append(found)
                except CaseError as error:
                    notes[name] = note(f"{name}: left out; {error}; `make peers` installs what is missing")
            say(f"peers: {name}")
    mine = statistics.median(r["cpu"] for r in runs["tilekit, one process"])
    rows = []
    for name, found in runs.items():
        cpu, last = statistics.median(r["cpu"] for r in found), found[-1]
        share = f"{last['differing'] / size**2:.3%}" if last["differing"] else "0"
        more = {"peak MiB": last["peak"], "classes that differ": share, "max abs dp": last["dp"]}
        rows.append(row(f"{size}²: {name}", cpu, "s", limit=mine, **more))
    differing = max(r["differing"] for name in runs if name.startswith("tilekit") for r in runs[name])
    rows.append(row(f"{size}²: pixels in which tilekit differs from one pass", differing, "", goal="= 0"))
    return [
        *rows,
        *notes.values(),
        note("Limit: tilekit's CPU in one process; tilekit's max abs dp is that of `tilekit verify`."),
    ]


WINDOW = "MONAI sliding window, constant"
HOW = {
    "as users get it (torch's own layout and allocator)": ("contiguous_format", None, "≥ 3 x"),
    "channels_last": ("channels_last", None, None),
    "channels_last, same allocator": ("channels_last", ALLOCATOR_ENV, "≥ 2 x"),
}
"""Layout of the network, environment, and goal."""


def larger(size: int, rounds: int, steps: int) -> list[Row]:
    """MONAI's window in turn with tilekit: CPU alone."""
    case(prepare, size=size, steps=steps, whole=False, timeout=600)
    found: dict[str, list[dict[str, Any]]] = {"tilekit": [], **{how: [] for how in HOW}}
    try:
        for _ in range(rounds):
            found["tilekit"].append(case(own, size=size, workers=0))
            for how, (layout, env, _goal) in HOW.items():
                found[how].append(case(peer, env=env, timeout=1200, name=WINDOW, size=size, layout=layout))
            say(" ".join(f"{how} {runs[-1]['cpu']:.1f}" for how, runs in found.items()))
    except CaseError as error:
        return [note(f"{WINDOW} of {size}²: left out; {error}; `make peers` installs what is missing")]
    m = {how: medians(runs) for how, runs in found.items()}
    mine = m["tilekit"]
    rows = [row(f"{size}²: tilekit, one process", mine["cpu"], "s", **{"peak MiB": mine["peak"]})]
    for how, (_, _, goal) in HOW.items():
        ratio = statistics.median(a["cpu"] / b["cpu"] for a, b in zip(found[how], found["tilekit"], strict=True))
        more = {"limit": mine["cpu"], "ratio": ratio, "goal": goal, "peak MiB": m[how]["peak"]}
        rows.append(row(f"{size}²: {WINDOW}, {how}", m[how]["cpu"], "s", **more))
    return rows


def dask_labels(size: int) -> dict[str, Any]:
    """CPU seconds of dask_image.ndmeasure.label, Zarr to Zarr, with one thread; start-up left out."""
    import dask
    import dask.array as da
    from dask_image.ndmeasure import label

    from benchmarks.label import make
    from tilekit.specimen import Specimen

    def run(pixels: Any, out: Path) -> dict[str, int]:
        labels, n = label(pixels, structure=np.ones((3, 3)))
        with dask.config.set(scheduler="synchronous"):
            labels.astype(np.uint32).to_zarr(str(out))
            return {"objects": int(n.compute())}

    small = da.from_array(Specimen(256).truth([(0, 256), (0, 256)]), chunks=128)
    large = da.from_zarr(str(make(size))).rechunk(min(size, 2048))
    return common.measured_job(lambda out: run(small, out), lambda out: run(large, out))


def labels(size: int) -> list[Row]:
    """tilekit and dask_image on a class map."""
    from benchmarks.label import label

    mine = case(label, size=size)
    row_of = lambda name, found: row(  # noqa: E731
        f"labels, {size}²: {name}", found["cpu"], "s", limit=mine["cpu"],
        **{"peak MiB": found["peak"], "objects": found["objects"], "Mpx/s": size**2 / 1e6 / found["cpu"]},
    )  # fmt: skip
    rows = [row_of("tilekit, with pyramid and table", mine)]
    try:
        found = case(dask_labels, size=size, timeout=600)
    except CaseError as error:
        return [*rows, note(f"dask_image: left out; {error}; `make peers` installs what is missing")]
    return [*rows, {**row_of("dask_image", found), "goal": "≥ 15 x", "met": found["cpu"] >= 15 * mine["cpu"]}]


def recipe(ids: Any, cells: Any) -> Any:
    """The usual recipe, with running minima instead of a stack: a distance transform of the whole image per cell."""
    from scipy.ndimage import distance_transform_edt

    first = second = np.full(ids.shape, np.inf, np.float32)
    for cell in cells:
        distance = distance_transform_edt(ids != cell).astype(np.float32)
        second = np.minimum(second, np.maximum(first, distance))
        first = np.minimum(first, distance)
    return np.where(ids == 0, 10 * np.exp(-((first + second) ** 2) / 50), 0).astype(np.float32)


def weights(n: int, side: int, sample: int) -> dict[str, float]:
    """CPU seconds of both on n cells, the recipe's from a sample of them; their difference on a map of 512 pixels."""
    from benchmarks.weigh import discs
    from tilekit.weights import border_weights, ridge

    few = ridge(discs(512, 60))
    away = float(np.abs(recipe(few, np.unique(few)[1:]) - np.asarray(border_weights(few))).max())
    ids = ridge(discs(side, n))
    cells = np.unique(ids)[1:]
    used = timed(lambda: recipe(ids, cells[:sample])) / sample * len(cells)
    return {
        "recipe": used,
        "tilekit": statistics.median(timed(lambda: border_weights(ids)) for _ in range(3)),
        "away": away,
    }


def measure(quick: bool = False) -> list[Row]:
    """Segmentation, labels, weights."""
    size, rounds, steps = (1024, 1, 5) if quick else (4096, 1, 120)
    rows = segmentation(size, rounds, steps)
    rows += larger(2048 if quick else 8192, rounds, steps)
    rows += labels(2048 if quick else 4096)
    for n in (1000,) if quick else (1000, 5000):
        found = case(weights, n=n, side=1024 if quick else 2048, sample=3)
        rows += [
            row(f"weights of {n:,} cells: tilekit", found["tilekit"], "s", **{"max abs dw": found["away"]}),
            row(f"weights of {n:,} cells: a distance transform per cell (from 3 of them)", found["recipe"], "s",
                limit=found["tilekit"]),
        ]  # fmt: skip
    return rows
