"""Open outputs as napari does, through its own plugin manager, and compare every level with zarr's reading.

    python benchmarks/napari_reader.py [OUT.zarr ...]

Without arguments it makes a color image and its class map in a temporary folder, in OME-NGFF 0.5 and 0.4, if tilekit is
installed here. Needs npe2 and napari-ome-zarr; where napari is there too, layers are put in its viewer model (no
display). Prints a line per layer; ends with status 1 where a value differs.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import zarr

PLUGIN = "napari-ome-zarr"


def read(store: str) -> list[tuple[Any, dict[str, Any], str]]:
    """Layers of a store as (data, metadata, kind)."""
    import npe2
    from npe2.io_utils import read as read_with_plugin

    npe2.PluginManager.instance().discover()
    with redirect_stdout(io.StringIO()):  # the plugin prints all attributes
        return list(read_with_plugin([store], plugin_name=PLUGIN, stack=False))  # type: ignore[arg-type]


def stored_levels(store: str, name: str) -> list[np.ndarray]:
    """All levels below a group, by zarr alone."""
    folder = Path(store, name)
    return [np.asarray(zarr.open_array(folder / str(k), mode="r")) for k in range(sum(map(is_level, folder.iterdir())))]


def is_level(path: Path) -> bool:
    return path.name.isdecimal()


def compare(store: str) -> tuple[int, list[dict[str, Any]]]:
    """Pixels that differ, and what each layer is."""
    differing, rows = 0, []
    attributes = dict(zarr.open_group(store, mode="r").attrs)
    axes = [a["name"] for a in attributes.get("ome", attributes)["multiscales"][0]["axes"]]
    image, labels = stored_levels(store, ""), stored_levels(store, "labels/classes")
    started = time.perf_counter()
    for data, meta, kind in read(store):
        levels = data if isinstance(data, list) else [data]
        wanted, axis = (labels, None) if kind == "labels" else (image, meta.get("channel_axis"))
        assert axis is None or axes[axis] == "c"
        assert len(levels) == len(wanted)
        for found, stored in zip(levels, wanted, strict=True):
            pixels = np.asarray(found)
            # a label map without channels is shown on all of them: napari's reader adds an axis of size 1
            stored = stored if pixels.shape == stored.shape else stored.reshape(pixels.shape)
            differing += int((pixels != stored).sum())
        rows.append(
            {
                "kind": kind,
                "name": meta.get("name"),
                "shapes": [tuple(level.shape) for level in levels],
                "scale": np.asarray(meta.get("scale", ()), float).tolist(),
                "colormap": str(type(meta.get("colormap", meta.get("color"))).__name__),
            }
        )
    for row in rows:
        row["seconds"] = round(time.perf_counter() - started, 2)
    return differing, rows


def view(store: str) -> list[str] | None:
    """The layers that napari's viewer model makes of a store; None where napari is not installed."""
    try:
        from napari.components import ViewerModel
    except ImportError:
        return None
    import npe2

    npe2.PluginManager.instance().discover()
    model = ViewerModel()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        model.open(store, plugin=PLUGIN)
    return [f"{type(layer).__name__} {layer.name!r} {layer.data.shape} scale {layer.scale}" for layer in model.layers]


def examples(folder: Path) -> list[str]:
    """A color image with its classes, in both versions of the format."""
    import tilekit
    from models import UNet, load, save

    save(UNet(3, 3, 4, 3), folder / "m.safetensors", class_names=["background", "cell", "border"])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1040, 1200), np.uint8)
    stores = []
    for version in ("0.5", "0.4"):
        out = folder / f"{version}.zarr"
        tilekit.ingest(pixels, out, ngff=version, pixel_size=(0.5, 0.25))
        tilekit.predict(out, load(folder / "m.safetensors"), out)
        stores.append(str(out))
    return stores


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        status = 0
        for store in arguments or examples(Path(folder)):
            differing, rows = compare(store)
            print(f"{store}: {differing} pixels differ from zarr's reading")
            for row in rows:
                print("  ", row)
            for layer in view(store) or ["napari itself is not installed here"]:
                print("   viewer:", layer)
            status |= differing > 0
        return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
