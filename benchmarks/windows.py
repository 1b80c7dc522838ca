"""One image segmented by each peer, as its documentation has it: windows of 512 that overlap by a quarter, or dask.

Each takes the folder that benchmarks.peers has prepared, reads image.zarr, writes class ids (uint8) as Zarr, and
returns the probabilities of class 1 (y, x) where it has them. The peers that pad get the padded twin of the network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW, OVERLAP, BATCH, TILE = 512, 0.25, 4, 1024
HALO = 44
"""Of the U-Net 16/3 before a core; after one it is 48, so that the input is of a size that the network takes."""
Map = NDArray[Any]


def network(folder: Path, padding: str, layout: str = "channels_last") -> Any:
    """The U-Net 16/3 in a layout of torch, unpadded or its padded twin with the same weights."""
    import torch
    from safetensors.torch import load_file

    from models import UNet

    net = UNet(base=16, depth=3, padding=padding).eval().requires_grad_(False)
    net.load_state_dict(load_file(folder / "net.safetensors"))
    return net.to(memory_format=getattr(torch, layout))  # type: ignore[call-overload]


def image(folder: Path) -> Any:
    import zarr

    return zarr.open_array(folder / "image.zarr", mode="r")


def tensor(pixels: Map) -> Any:
    """uint8 (y, x) as the network takes it."""
    import torch

    x = torch.from_numpy(np.ascontiguousarray(pixels)).float().div_(255)[None, None]
    return x.contiguous(memory_format=torch.channels_last)


def store(folder: Path, classes: Map) -> None:
    import zarr

    out = zarr.create_array(folder / "out.zarr", shape=classes.shape, chunks=(512, 512), dtype="uint8", overwrite=True)
    out[:] = classes


def monai_window(folder: Path, net: Any, mode: str) -> Map:
    from monai.inferers import sliding_window_inference

    x = tensor(image(folder)[:])
    y = sliding_window_inference(x, WINDOW, BATCH, lambda b: net(b).softmax(1), overlap=OVERLAP, mode=mode)
    store(folder, y.argmax(1)[0].numpy().astype(np.uint8))
    return y[0, 1].numpy()  # type: ignore[no-any-return]


def monai_merger(folder: Path, net: Any) -> Map:
    from monai.inferers import PatchInferer, SlidingWindowSplitter, ZarrAvgMerger

    x = tensor(image(folder)[:])
    n = x.shape[-1]
    shapes: dict[str, Any] = {"merged_shape": (1, 2, n + WINDOW, n + WINDOW), "cropped_shape": (1, 2, n, n)}
    splitter = SlidingWindowSplitter(WINDOW, overlap=OVERLAP)
    where: dict[str, Any] = {"store": str(folder / "merged.zarr"), "chunks": (1, 2, 512, 512)}
    infer = PatchInferer(splitter, ZarrAvgMerger, batch_size=BATCH, **where, **shapes)
    p = np.asarray(infer(x, lambda b: net(b).softmax(1))[0])
    store(folder, (p[1] > p[0]).astype(np.uint8))
    return p[1]  # type: ignore[no-any-return]


def tiler(folder: Path, net: Any) -> Map:
    from tiler import Merger, Tiler

    x = image(folder)[:]
    shared = int(WINDOW * OVERLAP)
    cut = Tiler(x.shape, (WINDOW, WINDOW), overlap=OVERLAP, mode="reflect")
    merged = Merger(Tiler((2, *x.shape), (2, WINDOW, WINDOW), overlap=(0, shared, shared), mode="reflect"))
    for number, tile in cut(x):
        merged.add(number, net(tensor(tile)).softmax(1)[0].numpy())
    y = merged.merge()
    store(folder, y.argmax(0).astype(np.uint8))
    return y[1]  # type: ignore[no-any-return]


def dask_overlap(folder: Path, net: Any) -> None:
    """map_overlap with the whole halo, mirrored at the border, on two threads."""
    import dask
    import dask.array as da
    import zarr

    depth = HALO + 8  # as wide on both sides, and the first pixel of the core on the phase of the poolings

    def classify(block: Map) -> Map:
        import torch

        torch.set_num_threads(1)
        with torch.inference_mode():
            y = net(tensor(block[8:-4, 8:-4]))[0]
            side = [n - 2 * depth for n in block.shape]
            return (y[1] > y[0]).numpy().astype(np.uint8)[: side[0], : side[1]]

    x = da.from_zarr(str(folder / "image.zarr")).rechunk(TILE)
    made: dict[str, Any] = {"dtype": "uint8", "chunks": x.chunks, "meta": np.empty((0, 0), np.uint8)}
    y = da.map_overlap(classify, x, depth=depth, boundary="reflect", trim=False, **made)
    out = zarr.create_array(folder / "out.zarr", shape=x.shape, chunks=(512, 512), dtype="uint8", overwrite=True)
    with dask.config.set(scheduler="threads", num_workers=2):
        da.store(y, out, lock=False)


PEERS: dict[str, tuple[str, Callable[[Path, Any], Map | None]]] = {
    "MONAI sliding window, constant": ("same", lambda f, n: monai_window(f, n, "constant")),
    "MONAI sliding window, gaussian": ("same", lambda f, n: monai_window(f, n, "gaussian")),
    "MONAI PatchInferer, ZarrAvgMerger": ("same", monai_merger),
    "tiler": ("same", tiler),
    "dask map_overlap, 2 threads": ("valid", dask_overlap),
}
"""Padding of the network, and the job."""
