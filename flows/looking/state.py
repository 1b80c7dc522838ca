"""What neuroglancer is asked to show of a store, as its JSON state.

https://neuroglancer-docs.web.app/json/api/index.html
"""

from __future__ import annotations

import re
from math import ceil, floor, inf
from pathlib import Path
from typing import Any

from flows.looking.shown import Channel, Color, Labels, channels_of, open_store
from tilekit.doctor import NEUROGLANCER_TYPES, readers
from tilekit.errors import InputError
from tilekit.sources import Source
from tilekit.sources.ngff import Multiscale, ome_attributes, parse_multiscale
from tilekit.sources.units import METERS
from tilekit.sources.zarr_documents import attributes_of

SHADER = """#uicontrol invlerp contrast
#uicontrol vec3 color color
void main() {
  emitRGB(color * contrast());
}
"""
CLASS_OPACITY, ID_OPACITY = 0.4, 0.5
ROOM = (650, 950)
"""Height and width in pixels that the image gets of a window, at least."""
UNITS = re.compile(
    r"(yocto|zepto|atto|femto|pico|nano|micro|milli|centi|deci|deca|hecto|kilo|mega|giga|tera|peta|exa|zetta|yotta)?"
    r"(meter|second)|angstrom|foot|inch|mile|parsec|yard|minute|hour|day"
)
"""Units that neuroglancer reads; it shows nothing of an image with another."""
SECONDS = {"second": 1.0, "millisecond": 1e-3, "microsecond": 1e-6, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
State = dict[str, Any]


def viewer_state(out: Path, base: str) -> State:
    """The state that shows a store which is served below `base` (address of its folder): all channels, all labels.

    Channels are added up, label maps lie over them. Of class maps the classes with a color are drawn; objects, where
    there are classes too, are a layer that is off at first. InputError for what neuroglancer cannot read.
    """
    image, labels = open_store(out)
    pixels = image or labels[0].source
    place = out if image else out / "labels" / labels[0].name
    multiscale = _check_readable(place)
    layers = [] if image is None else [_channel_layer(c, image, out, base) for c in channels_of(image, out)]
    for one in labels:
        if one.source.dtype.name in NEUROGLANCER_TYPES:
            layers.append(_label_layer(one, out, base, visible=not any(layer.get("pick") for layer in layers)))
    dimensions, position, scale = _geometry(multiscale, pixels)
    return {
        "title": f"{out.name} – tilekit",
        "dimensions": dimensions,
        "position": position,
        "crossSectionScale": scale,
        "layers": _distinct(layers),
        "selectedLayer": {"layer": layers[0]["name"], "visible": True},
        "layout": "xy",
        "showAxisLines": False,
        "showDefaultAnnotations": False,
        "crossSectionBackgroundColor": "#000000",
    }


def _check_readable(place: Path) -> Multiscale:
    """The image's metadata; refuses an image that neuroglancer would not show."""
    attributes = attributes_of(place)
    multiscale = parse_multiscale(attributes, str(place))
    if multiscale is None or not multiscale.axes or multiscale.scales[0] is None:
        raise InputError(f"{place}: is no OME-Zarr 0.4 or 0.5; make it one with tilekit ingest")
    version = ome_attributes(attributes).get("version") or ome_attributes(attributes)["multiscales"][0].get("version")
    if version not in ("0.4", "0.5"):
        raise InputError(
            f"{place}: is OME-Zarr {version}, neuroglancer shows 0.4 and 0.5; convert it with tilekit ingest"
        )
    sizes = [n for axis, n in zip(multiscale.axes, multiscale.scales[0], strict=True) if axis != "c"]
    if strange_sizes := [n for n in sizes if not 0 < n < inf]:
        raise InputError(f"{place}: has pixels of size {strange_sizes[0]:g}, which none have; correct its `scale`")
    if strange := [unit for unit in multiscale.units if unit and not UNITS.fullmatch(unit)]:
        raise InputError(
            f"{place}: has axes in {strange[0]!r}, which neuroglancer does not know; convert it with tilekit ingest"
        )
    reader = next(r for r in readers(place) if r.name == "neuroglancer")
    if not reader.copes:
        raise InputError(f"{place}: neuroglancer {reader.why}")
    return multiscale


def _geometry(multiscale: Multiscale, pixels: Source) -> tuple[State, list[float], float]:
    """Dimensions with the size of a pixel, the middle of the image, and canonical voxels per pixel of the screen.

    Positions are in pixels from the center of the first one, as neuroglancer shows OME-NGFF.
    """
    scales, moved = multiscale.scales[0] or (), multiscale.translations[0]
    by_axis = dict(
        zip(multiscale.axes, zip(scales, multiscale.units, moved or [0.0] * len(scales), strict=True), strict=True)
    )
    dimensions, position, sizes = {}, [], {}
    for axis in [a for a in "xyzt" if a in by_axis]:
        scale, unit, start = by_axis[axis]
        known, si = (SECONDS, "s") if axis == "t" else (METERS, "m")
        factor = known.get(unit.lower()) if unit else None
        sizes[axis] = scale * (factor or 1.0)
        dimensions[axis] = [sizes[axis], si if factor else ""]
        n = pixels.shape[pixels.axes.index(axis)]
        position.append(start / scale + ((n - 1) / 2 if axis in "xy" else n // 2))
    voxel = min(sizes["y"], sizes["x"])
    rooms = zip("yx", pixels.shape[-2:], ROOM, strict=True)
    return dimensions, position, max(n * sizes[a] / voxel / room for a, n, room in rooms)


def _channel_layer(channel: Channel, image: Source, out: Path, base: str) -> State:
    whole = image.dtype.kind in "iu"
    limits = [[channel.low, channel.high], [channel.least, channel.most]]
    shown, window = [[floor(low), ceil(high)] if whole else [low, high] for low, high in limits]
    local = {"localDimensions": {"c'": [1, ""]}, "localPosition": [channel.number]} if "c" in image.axes else {}
    return {
        "type": "image",
        "name": channel.name,
        "source": _source(out, base),
        "tab": "rendering",
        "visible": channel.shown,
        "blend": "additive",
        "opacity": 1,
        "shader": SHADER,
        "codeVisible": False,
        "shaderControls": {"contrast": {"range": shown, "window": window}, "color": _hex(channel.color)},
        **local,
    }


def _label_layer(labels: Labels, out: Path, base: str, *, visible: bool) -> State:
    """Of classes those with a color are selected, so that void stays clear; of ids all are drawn, selected or not."""
    place = f"labels/{labels.name}"
    source: Any = _source(out / place, f"{base}{place}/")
    layer = {
        "type": "segmentation",
        "name": labels.name,
        "source": source,
        "tab": "segments",
        "pick": True,
        "visible": visible and bool(labels.colors or not labels.names),
        "segmentColors": {str(value): _hex(color) for value, color in labels.colors.items()},
    }
    if not labels.names:
        return {**layer, "selectedAlpha": ID_OPACITY, "notSelectedAlpha": ID_OPACITY}
    named = f"{base.removesuffix('/')}-names/{labels.name}/|neuroglancer-precomputed:"
    selected = {"segments": [str(value) for value in labels.colors], "selectedAlpha": CLASS_OPACITY}
    none = {"notSelectedAlpha": 0, "ignoreNullVisibleSet": False, "hoverHighlight": False}
    return {**layer, "source": [source, named], **selected, **none, "hideSegmentZero": 0 not in labels.colors}


def class_properties(labels: Labels) -> State:
    """Names of classes as neuroglancer reads them: inline segment properties, of a source of their own."""
    ids = sorted(labels.names)
    label = {"id": "label", "type": "label", "values": [labels.names[value] for value in ids]}
    inline = {"ids": [str(value) for value in ids], "properties": [label]}
    return {"@type": "neuroglancer_segment_properties", "inline": inline}


def _source(place: Path, base: str) -> str:
    return f"{base}|zarr{3 if (place / 'zarr.json').exists() else 2}:"


def _hex(color: Color) -> str:
    return "#" + bytes(color).hex()


def _distinct(layers: list[State]) -> list[State]:
    """The same with names that differ."""
    seen: dict[str, int] = {}
    for layer in layers:
        seen[layer["name"]] = seen.get(layer["name"], 0) + 1
        if seen[layer["name"]] > 1:
            layer["name"] += f" ({seen[layer['name']]})"
    return layers
