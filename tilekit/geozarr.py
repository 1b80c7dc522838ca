"""Where an image lies on the ground, as attributes of Zarr: what GDAL, xarray and GeoZarr each look for, side by side.

- GDAL: `_CRS` of each array.
- CF, as xarray and rioxarray read it: `grid_mapping` names a scalar array with `crs_wkt`, `GeoTransform` and `gcps`;
  the pixels' centers are in 1-D arrays named like the dimensions, from which GDAL takes its transform.
- GeoZarr: the conventions `proj:`, `spatial:` and `multiscales`, Zarr 3 alone.

Plain dictionaries in and out, no zarr. https://github.com/zarr-conventions
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilekit.georeference import Affine, ControlPoint, Georeference

GRID_MAPPING = "spatial_ref"
_TAGS = "https://raw.githubusercontent.com/zarr-conventions/{0}/refs/tags/v1/schema.json"
_SPECS = "https://github.com/zarr-conventions/{0}/blob/v1/README.md"
_UUIDS = {
    "geo-proj": ("f17cb550-5864-4468-aeb7-f3180cfb622f", "proj:", "Coordinate reference system"),
    "spatial": ("689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "spatial:", "Position of array indices in space"),
    "multiscales": ("d35379db-88df-4056-af3a-620245f8e347", "multiscales", "Levels of a pyramid"),
}
_GEOGRAPHIC = re.compile(
    r'\s*(?:(?:COMPD_CS|COMPOUNDCRS|BOUNDCRS)\[\s*(?:"[^"]*",\s*|SOURCECRS\[\s*))?'
    r"(?:GEOGCS|GEOGCRS|GEODCRS|GEODETICCRS|GEOGRAPHICCRS)\["
)
_CODE = re.compile(r'(?:AUTHORITY|ID)\["EPSG",\s*"?(\d+)"?\]\s*\]\s*$')
_WKT2 = re.compile(r"\s*[A-Z]+CRS\[")
_LENGTH = re.compile(r'(?:LENGTH)?UNIT\["([^"]+)"')
_CF_UNITS = {"metre": "m", "meter": "m", "kilometre": "km", "foot": "ft", "US survey foot": "US_survey_foot"}


def grid_mapping_name(level: int) -> str:
    """The scalar array of a level; each has its own, as each has its own transform."""
    return f"{GRID_MAPPING}_{level}" if level else GRID_MAPPING


def is_geographic(crs: str) -> bool:
    """True where the coordinates of a CRS (WKT) are angles."""
    return _GEOGRAPHIC.match(crs) is not None


def array_attributes(place: Georeference, level: int, shape: Sequence[int], version: str) -> dict[str, Any]:
    """Attributes of the array of a level whose (y, x) shape is given."""
    attributes: dict[str, Any] = {"grid_mapping": grid_mapping_name(level)}
    if place.crs is not None:
        attributes["_CRS"] = {"wkt": place.crs}
    if version != "0.4":
        attributes |= _conventions(place, [shape], multiscale=False)
    return attributes


def grid_mapping_attributes(place: Georeference) -> dict[str, Any]:
    """Attributes of the scalar array: CRS, GeoTransform in GDAL's order, control points as GeoJSON like rioxarray's."""
    attributes: dict[str, Any] = {}
    if place.crs is not None:
        attributes |= {"crs_wkt": place.crs, "spatial_ref": place.crs}
        if is_geographic(place.crs):
            attributes["grid_mapping_name"] = "latitude_longitude"
    if place.transform is not None:
        a, b, c, d, e, f = place.transform
        attributes["GeoTransform"] = " ".join(repr(float(n)) for n in (c, a, b, f, d, e))
    if place.gcps:
        points = [
            {
                "type": "Feature",
                "properties": {"id": str(i), "info": "", "row": p.row, "col": p.column},
                "geometry": {"type": "Point", "coordinates": [p.x, p.y, p.z]},
            }
            for i, p in enumerate(place.gcps, start=1)
        ]
        attributes["gcps"] = json.dumps({"type": "FeatureCollection", "features": points})
    return attributes


def coordinates(place: Georeference, shape: Sequence[int]) -> dict[str, tuple[NDArray[np.float64], dict[str, Any]]]:
    """The pixels' centers along y and x with their CF attributes; empty where rows and columns run askew."""
    if place.transform is None or not place.is_rectilinear:
        return {}
    a, _, c, _, e, f = place.transform
    columns, rows = (np.arange(n, dtype=np.float64) + 0.5 for n in (shape[-1], shape[-2]))
    centers: dict[str, NDArray[np.float64]] = {"y": f + e * rows, "x": c + a * columns}
    return {axis: (values, _coordinate_attributes(axis, place.crs)) for axis, values in centers.items()}


def _coordinate_attributes(axis: str, crs: str | None) -> dict[str, Any]:
    attributes = {"axis": axis.upper()}
    if crs is None:
        return attributes
    if is_geographic(crs):
        name, units = ("latitude", "degrees_north") if axis == "y" else ("longitude", "degrees_east")
        return attributes | {"standard_name": name, "units": units}
    lengths = _LENGTH.findall(crs) or ["metre"]
    units = _CF_UNITS.get(lengths[-1], lengths[-1])
    return attributes | {"standard_name": f"projection_{axis}_coordinate", "units": units}


def group_attributes(place: Georeference, shapes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """GeoZarr's attributes of the group of a pyramid by halving, whose levels have these (y, x) shapes."""
    return _conventions(place, shapes, multiscale=True)


def _conventions(place: Georeference, shapes: Sequence[Sequence[int]], *, multiscale: bool) -> dict[str, Any]:
    crs = _proj(place.crs)
    names = [*(["geo-proj"] if crs else []), "spatial", *(["multiscales"] if multiscale else [])]
    attributes: dict[str, Any] = {"zarr_conventions": [_convention(name) for name in names], **crs}
    attributes |= {"spatial:dimensions": ["y", "x"], **_spatial(place, shapes[0])}
    if multiscale:
        attributes["multiscales"] = {"layout": [_layout(place, k, shape) for k, shape in enumerate(shapes)]}
    return attributes


def _convention(repository: str) -> dict[str, str]:
    uuid, name, description = _UUIDS[repository]
    urls = {"schema_url": _TAGS.format(repository), "spec_url": _SPECS.format(repository)}
    return {"uuid": uuid, "name": name, **urls, "description": description}


def _proj(crs: str | None) -> dict[str, str]:
    """The CRS by its code and as WKT 2; WKT 1 without a code has no place in the convention."""
    said = {}
    if crs and (code := _CODE.search(crs)):
        said["proj:code"] = f"EPSG:{code[1]}"
    if crs and _WKT2.match(crs):
        said["proj:wkt2"] = crs
    return said


def _spatial(place: Georeference, shape: Sequence[int]) -> dict[str, Any]:
    told: dict[str, Any] = {"spatial:shape": [int(n) for n in shape]}
    if place.transform is not None:
        told |= {"spatial:transform": list(place.transform), "spatial:registration": "pixel"}
    return told


def _layout(place: Georeference, level: int, shape: Sequence[int]) -> dict[str, Any]:
    spatial = _spatial(place.at_scale((2.0**level, 2.0**level)), shape)
    spatial.pop("spatial:registration", None)
    if not level:
        return {"asset": "0", **spatial}
    relative = {"scale": [2.0, 2.0], "translation": [0.0, 0.0]}
    return {"asset": str(level), "derived_from": str(level - 1), "transform": relative, **spatial}


def parse_georeference(
    array: Mapping[str, Any], group: Mapping[str, Any], mapping: Mapping[str, Any], transform: Affine | None
) -> Georeference | None:
    """What the attributes of an array, its group and its grid mapping say together; None where they say nothing.

    `transform` is that of the coordinate arrays, which counts where no attribute states one.
    """
    crs = mapping.get("crs_wkt") or mapping.get("spatial_ref") or _other_crs(array) or _other_crs(group)
    stated = _geotransform(mapping.get("GeoTransform")) or _affine(array.get("spatial:transform"))
    transform = stated or transform
    gcps = _control_points(mapping.get("gcps"))
    if crs is None and transform is None and not gcps:
        return None
    return Georeference(crs, transform, gcps)


def _other_crs(attributes: Mapping[str, Any]) -> str | None:
    gdal = attributes.get("_CRS")
    said = gdal.get("wkt") if isinstance(gdal, Mapping) else None
    text = said or attributes.get("proj:wkt2") or attributes.get("proj:code")
    return text if isinstance(text, str) else None


def _geotransform(text: Any) -> Affine | None:
    numbers = _affine(text.split() if isinstance(text, str) else None)
    if numbers is None:
        return None
    c, a, b, f, d, e = numbers
    return a, b, c, d, e, f


def _affine(values: Any) -> Affine | None:
    try:
        a, b, c, d, e, f = (float(n) for n in values)
    except (TypeError, ValueError):
        return None
    return a, b, c, d, e, f


def _control_points(text: Any) -> tuple[ControlPoint, ...]:
    try:
        features = json.loads(text)["features"] if isinstance(text, str) else []
        return tuple(_control_point(f["properties"], f["geometry"]["coordinates"]) for f in features)
    except (ValueError, KeyError, TypeError):
        return ()


def _control_point(properties: Mapping[str, Any], at: Sequence[float]) -> ControlPoint:
    return ControlPoint(float(properties["row"]), float(properties["col"]), *(float(n) for n in at))


def transform_of_centers(y: NDArray[Any], x: NDArray[Any]) -> Affine | None:
    """The transform of evenly spaced pixel centers; None for others, and for fewer than two along an axis."""
    steps = []
    for values in (y, x):
        if values.ndim != 1 or values.size < 2 or values.dtype.kind not in "iuf":
            return None
        step = (float(values[-1]) - float(values[0])) / (values.size - 1)
        even = float(values[0]) + step * np.arange(values.size)
        if not step or not np.allclose(values, even, rtol=0, atol=abs(step) * 1e-3):
            return None
        steps.append(step)
    dy, dx = steps
    return dx, 0.0, float(x[0]) - dx / 2, 0.0, dy, float(y[0]) - dy / 2
