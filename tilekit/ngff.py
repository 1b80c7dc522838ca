"""OME-NGFF metadata as plain dictionaries, versions 0.4 (Zarr 2) and 0.5 (Zarr 3). https://ngff.openmicroscopy.org/"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

AXIS_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
VERSIONS = ("0.4", "0.5")
Scale = tuple[float, float]


def multiscales(
    name: str,
    axes: str,
    n_levels: int,
    version: str,
    *,
    pixel_size: Scale | None,
    translation: Scale = (0.0, 0.0),
    method: str,
) -> list[dict[str, Any]]:
    """The multiscales entry of a pyramid by halving; pixel size and translation (y, x) in micrometres, or in pixels.

    A cell of level k covers 2^k pixels, so its centre lies (2^k - 1) / 2 pixels further than that of level 0.
    """
    size = pixel_size or (1.0, 1.0)
    lead = len(axes) - 2
    datasets = []
    for k in range(n_levels):
        scale = [1.0] * lead + [s * 2**k for s in size]
        shift = [0.0] * lead + [t + s * (2**k - 1) / 2 for s, t in zip(size, translation, strict=True)]
        transformations: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if any(shift):
            transformations.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(k), "coordinateTransformations": transformations})
    entry: dict[str, Any] = {
        "name": name,
        "axes": [_axis(a, pixel_size is not None) for a in axes],
        "datasets": datasets,
        "type": method,
    }
    if version == "0.4":
        entry["version"] = version
    return [entry]


def _axis(name: str, sized: bool) -> dict[str, str]:
    axis = {"name": name, "type": AXIS_TYPES[name]}
    if sized and name in "yx":
        axis["unit"] = "micrometer"
    return axis


def omero(
    names: Sequence[str],
    windows: Sequence[tuple[float, float, float, float]],
    wavelengths: Sequence[float | None] | None = None,
) -> dict[str, Any]:
    """Channel names, colours, contrast and wavelengths.

    A window is (lowest, highest, from, to) in raw values; wavelengths are in nanometers, and kept under the key
    `emission_wavelength`, which no version of OME-NGFF names.
    """
    colors = ["FF0000", "00FF00", "0000FF"] if len(names) == 3 else ["FFFFFF"] * len(names)
    return {
        "channels": [
            {
                "label": name,
                "color": color,
                "active": True,
                "window": dict(zip(("min", "max", "start", "end"), window, strict=True)),
                **({} if wave is None else {"emission_wavelength": wave}),
            }
            for name, color, window, wave in zip(
                names, colors, windows, wavelengths or [None] * len(names), strict=True
            )
        ],
        "rdefs": {"model": "color" if len(names) == 3 else "greyscale"},
    }


def class_colors(n_classes: int) -> list[tuple[int, int, int, int]]:
    """RGBA of each class: the background transparent, the others well apart in hue."""
    colors = [(0, 0, 0, 0)]
    for i in range(1, n_classes):
        r, g, b = colorsys.hsv_to_rgb((0.08 + 0.618034 * (i - 1)) % 1, 0.85, 1.0)
        colors.append((round(255 * r), round(255 * g), round(255 * b), 255))
    return colors


def image_label(class_names: Sequence[str], void: int, version: str) -> dict[str, Any]:
    """Colours and names of a class map, for the key `image-label`."""
    values = [*range(len(class_names)), void]
    colors = [*class_colors(len(class_names)), (0, 0, 0, 0)]
    label: dict[str, Any] = {
        "colors": [{"label-value": v, "rgba": list(c)} for v, c in zip(values, colors, strict=True)],
        "properties": [{"label-value": v, "class": c} for v, c in zip(values, [*class_names, "void"], strict=True)],
        "source": {"image": "../../"},
    }
    if version == "0.4":
        label["version"] = version
    return label


def mask_label(version: str) -> dict[str, Any]:
    """Names of the two values of a mask, for the key `image-label`; where the image is valid nothing covers it."""
    label: dict[str, Any] = {
        "colors": [{"label-value": 0, "rgba": [0, 0, 0, 0]}, {"label-value": 1, "rgba": [0, 0, 0, 0]}],
        "properties": [{"label-value": 0, "class": "not valid"}, {"label-value": 1, "class": "valid"}],
        "source": {"image": "../../"},
    }
    if version == "0.4":
        label["version"] = version
    return label


def as_attributes(version: str, **content: Any) -> dict[str, Any]:
    """Attributes of a group: under `ome` from 0.5 on, bare in 0.4."""
    return {"ome": {"version": version, **content}} if version != "0.4" else dict(content)
