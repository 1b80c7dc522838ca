"""Areas of interest and channels: what is asked for is predicted as in the whole image, and nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import rasterio
import rasterio.features
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import Affine

import tilekit
from tests.oracles import PlainFilter, contents, structured_image, whole_image_classes
from tests.test_exact import classes_of
from tilekit import open_image
from tilekit.box import Box
from tilekit.errors import InputError, RunError
from tilekit.jobs.area import open_area
from tilekit.jobs.auto_mask import find_area
from tilekit.jobs.input import Input
from tilekit.polygons import Polygon
from tilekit.predictor import VOID
from tilekit.pyramid import halve_labels

SHAPE = (300, 260)
BLOCK = 64
PLAN: dict[str, Any] = {"tile": 32, "block": BLOCK}
FILTER = PlainFilter()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return structured_image((1, *SHAPE), np.uint8, seed=2)


@pytest.fixture(scope="module")
def whole(image: np.ndarray) -> np.ndarray:
    return whole_image_classes(FILTER, image)


def only(classes: np.ndarray, *boxes: tuple[tuple[int, int], tuple[int, int]]) -> np.ndarray:
    """Classes inside any of the boxes, void elsewhere."""
    kept = np.full(classes.shape, VOID, np.uint8)
    for (y0, y1), (x0, x1) in boxes:
        kept[y0:y1, x0:x1] = classes[y0:y1, x0:x1]
    return kept


def shards(out: Path) -> dict[tuple[int, int], tuple[int, bytes]]:
    """Time of last change and bytes of every shard of the class map, by its place."""
    folder = out / "labels/classes/0/c"
    found = {}
    for path in (p for p in folder.rglob("*") if p.is_file()):
        y, x = map(int, path.relative_to(folder).parts)
        found[y, x] = (path.stat().st_mtime_ns, path.read_bytes())
    return found


def touched(box: tuple[tuple[int, int], tuple[int, int]]) -> set[tuple[int, int]]:
    (y0, y1), (x0, x1) = box
    rows, columns = range(y0 // BLOCK, (y1 - 1) // BLOCK + 1), range(x0 // BLOCK, (x1 - 1) // BLOCK + 1)
    return {(y, x) for y in rows for x in columns}


FIRST, SECOND = ((10, 100), (70, 200)), ((90, 140), (5, 90))


def test_another_box_rewrites_its_blocks_alone_and_what_was_there_stays(
    image: np.ndarray, whole: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "out.zarr"
    tilekit.predict(image, FILTER, out, box=FIRST, **PLAN)
    assert (classes_of(out) == only(whole, FIRST)).all()
    before = shards(out)
    result = tilekit.predict(image, FILTER, out, box=SECOND, **PLAN)
    after = shards(out)
    assert (classes_of(out) == only(whole, FIRST, SECOND)).all()
    changed = {place for place in after if after[place] != before.get(place)}
    assert changed == touched(SECOND)
    assert result["written"] == len(touched(SECOND))
    assert result["redone"] == 0
    counts = np.bincount(classes_of(out).ravel(), minlength=256)
    assert result["classes"] == {str(v): int(n) for v, n in enumerate(counts) if n}
    proof = tilekit.verify(out, FILTER, boxes=8, side=64)
    assert proof["differing_pixels"] == 0
    assert tilekit.predict(image, FILTER, out, box=SECOND, **PLAN)["written"] == 0  # the same again is no work


def test_a_box_of_a_finished_run_rewrites_its_blocks_alone(image: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    tilekit.predict(image, FILTER, out, **PLAN)
    before, wanted = shards(out), contents(out)
    wanted.pop("zarr.json")
    result = tilekit.predict(image, FILTER, out, box=FIRST, **PLAN)
    after = shards(out)
    assert {p for p in after if after[p][0] != before[p][0]} == touched(FIRST)
    assert {p: data for p, (_, data) in after.items()} == {p: data for p, (_, data) in before.items()}
    assert result["written"] == len(touched(FIRST))
    found = contents(out)
    found.pop("zarr.json")  # says which boxes
    assert found == wanted
    assert tilekit.predict(image, FILTER, out, **PLAN)["written"] == 0


def test_the_whole_image_after_a_box_is_that_of_one_run_and_coarser_levels_follow(tmp_path: Path) -> None:
    big = structured_image((1, 1400, 1300), np.uint8, seed=3)
    plan = {"tile": 128, "block": 256}
    boxes: list[Any] = [((0, 300), (0, 300)), ((700, 720), (1000, 1010)), None]
    for n, box in enumerate(boxes):
        tilekit.predict(big, FILTER, tmp_path / "steps.zarr", box=box, **plan)
        levels = [np.asarray(zarr.open_array(str(tmp_path / f"steps.zarr/labels/classes/{k}"))[:]) for k in range(3)]
        for k in (1, 2):
            assert (levels[k] == halve_labels(levels[k - 1])).all(), (n, k)
    tilekit.predict(big, FILTER, tmp_path / "once.zarr", **plan)
    steps, once = (contents(tmp_path / name) for name in ("steps.zarr", "once.zarr"))
    assert {k: v for k, v in steps.items() if k != "zarr.json"} == {k: v for k, v in once.items() if k != "zarr.json"}


class Dying(PlainFilter):
    """A filter that fails after so many tiles."""

    left: ClassVar = [0]

    def predict(self, x: np.ndarray, probabilities: bool = False) -> Any:
        self.left[0] -= 1
        if self.left[0] < 0:
            raise InputError("enough")
        return super().predict(x, probabilities)

    @property
    def digest(self) -> str:
        return FILTER.digest


@pytest.mark.parametrize("tiles", [0, 1, 5, 9])
def test_a_run_that_died_between_boxes_continues_with_either(
    tiles: int, image: np.ndarray, whole: np.ndarray, tmp_path: Path
) -> None:
    for again in (FIRST, SECOND, ((200, 290), (100, 110))):
        out = tmp_path / f"{again[0][0]}.zarr"
        tilekit.predict(image, FILTER, out, box=FIRST, **PLAN)
        Dying.left[0] = tiles
        with pytest.raises(RunError, match="enough"):
            tilekit.predict(image, Dying(), out, box=SECOND, **PLAN)
        tilekit.predict(image, FILTER, out, box=again, **PLAN)
        assert (classes_of(out) == only(whole, FIRST, SECOND, again)).all()
        assert tilekit.status(out)["status"] == "complete"


def test_other_arguments_are_refused_with_a_box_too(image: np.ndarray, tmp_path: Path) -> None:
    tilekit.predict(image, FILTER, tmp_path / "out.zarr", box=FIRST, **PLAN)
    before = shards(tmp_path / "out.zarr")
    with pytest.raises(InputError, match="probabilities was null, now"):
        tilekit.predict(image, FILTER, tmp_path / "out.zarr", box=SECOND, probabilities="uint8", **PLAN)
    assert shards(tmp_path / "out.zarr") == before
    assert tilekit.predict(image, FILTER, tmp_path / "out.zarr", box=FIRST, **PLAN)["written"] == 0
    assert (classes_of(tmp_path / "out.zarr") == only(whole_image_classes(FILTER, image), FIRST)).all()


# Masks.


def test_a_mask_changes_nothing_inside_it(image: np.ndarray, whole: np.ndarray, tmp_path: Path) -> None:
    """Of the image's size, and coarser by whole and broken ratios: the nearest pixel of the mask decides."""
    random = np.random.default_rng(0)
    for shape in (SHAPE, (150, 130), (75, 65), (43, 37), (1, 1)):
        mask = (random.random(shape) < 0.6).astype(np.uint8) if shape != (1, 1) else np.ones(shape, np.uint8)
        tifffile.imwrite(tmp_path / "mask.tif", mask * 7)
        out = tmp_path / f"{shape[0]}.zarr"
        tilekit.predict(image, FILTER, out, mask=str(tmp_path / "mask.tif"), **PLAN)
        rows, columns = (np.floor((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(SHAPE, shape, strict=True))
        wanted = np.where(mask[rows[:, None], columns], whole, VOID)
        assert (classes_of(out) == wanted).all()
        assert tilekit.verify(out, FILTER, boxes=4, side=64)["differing_pixels"] == 0


def test_what_a_mask_leaves_out_is_neither_read_nor_predicted(
    image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[130:140, 70:90] = 1
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    tilekit.ingest(image, tmp_path / "out.zarr", block=BLOCK)
    read, inputs = [], Input.read

    def noted(self: Input, plane: Any, box: Box) -> Any:
        read.append(box)
        return inputs(self, plane, box)

    monkeypatch.setattr(Input, "read", noted)
    tilekit.predict(tmp_path / "out.zarr", FILTER, tmp_path / "out.zarr", mask=str(tmp_path / "mask.tif"), **PLAN)
    core = Box((128, 64), (160, 96))
    assert read == [core.grow(FILTER.halo.before, FILTER.halo.after)]


@st.composite
def polygons(draw: Any) -> list[list[tuple[float, float]]]:
    """Rings of x, y, some through pixel centers, corners and edges."""
    number = st.integers(-20, 120).map(lambda n: n / 2) | st.floats(-10, 60)
    return draw(st.lists(st.lists(st.tuples(number, number), min_size=3, max_size=9), min_size=1, max_size=3))


@given(polygons(), st.integers(1, 30))
def test_every_box_shows_the_same_of_a_polygon_and_centers_decide(rings, side):
    polygon = Polygon.of([np.array(ring, np.float64) for ring in rings])
    whole = np.zeros((50, 40), bool)
    polygon.draw(whole, Box((0, 0), (50, 40)))
    for y in range(0, 50, side):
        for x in range(0, 40, side):
            part = np.zeros((min(side, 50 - y), min(side, 40 - x)), bool)
            polygon.draw(part, Box((y, x), (y + part.shape[0], x + part.shape[1])))
            assert (part == whole[y : y + side, x : x + side]).all()
    for y, x in np.ndindex(50, 40):  # even-odd by hand
        crossings = 0
        for ring in rings:
            for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
                if min(y0, y1) <= y + 0.5 < max(y0, y1):
                    crossings += x0 + (y + 0.5 - y0) * ((x1 - x0) / (y1 - y0)) <= x + 0.5
        assert whole[y, x] == crossings % 2


SHAPES = [
    {"type": "Polygon", "coordinates": [[[20.2, 10.3], [200.7137, 30.1], [150.3, 250.9171], [20.2, 10.3]]]},
    {
        "type": "MultiPolygon",
        "coordinates": [
            [
                [[100.3, 100.3], [250.1, 100.3], [250.1, 290.2], [100.3, 100.3]],
                [[150.3, 120.4], [230.1, 120.6], [229.7, 200.2], [150.3, 120.4]],
            ],
            [[[1.2, 200.4], [60.7193, 210.2], [30.3, 280.8171], [1.2, 200.4]]],
        ],
    },
]


def geojson(path: Path, shapes: list[Any], **members: Any) -> Path:
    features = [{"type": "Feature", "properties": {}, "geometry": shape} for shape in shapes]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **members}))
    return path


def test_polygons_in_pixels_are_drawn_as_gdal_draws_them(image: np.ndarray, whole: np.ndarray, tmp_path: Path) -> None:
    area = geojson(tmp_path / "area.geojson", SHAPES)
    inside = rasterio.features.rasterize(SHAPES, SHAPE, all_touched=False)
    assert 0.2 < inside.mean() < 0.8
    tilekit.predict(image, FILTER, tmp_path / "out.zarr", mask=str(area), **PLAN)
    assert (classes_of(tmp_path / "out.zarr") == np.where(inside, whole, VOID)).all()
    assert tilekit.verify(tmp_path / "out.zarr", FILTER, boxes=4, side=64)["differing_pixels"] == 0
    area.write_text(area.read_text().replace("20.2", "21.2"))
    with pytest.raises(InputError, match="has changed since"):
        tilekit.verify(tmp_path / "out.zarr", FILTER)
    with pytest.raises(InputError, match=r"other arguments \(mask.sha256"):
        tilekit.predict(image, FILTER, tmp_path / "out.zarr", mask=str(area), **PLAN)


@pytest.mark.parametrize("transform", [Affine(10, 0, 5e5, 0, -10, 5.8e6), Affine(8, 6, 5e5, 6, -8, 5.8e6)])
@pytest.mark.parametrize("told", ["lonlat", "image", "named"])
def test_polygons_on_the_ground_are_where_the_image_is(
    told: str, transform: Affine, image: np.ndarray, tmp_path: Path
) -> None:
    from rasterio.warp import transform_geom

    path = tmp_path / "image.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=SHAPE[0], width=SHAPE[1], count=1, dtype="uint8", crs=32633,
        transform=transform,
    ) as file:  # fmt: skip
        file.write(image)

    def on_ground(x: float, y: float) -> list[float]:
        return list(transform @ (x, y))

    def moved(coordinates: Any) -> Any:
        return on_ground(*coordinates) if isinstance(coordinates[0], float) else [moved(c) for c in coordinates]

    ground = [{**shape, "coordinates": moved(shape["coordinates"])} for shape in SHAPES]
    given = ground
    members: dict[str, Any] = {}
    if told == "lonlat":
        given = [transform_geom("EPSG:32633", "EPSG:4326", shape) for shape in ground]
    if told == "named":
        given = [transform_geom("EPSG:32633", "EPSG:32634", shape) for shape in ground]
        members = {"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32634"}}}
    area = open_area(str(geojson(tmp_path / "area.geojson", given, **members)), open_image(path))
    assert area is not None
    inside = rasterio.features.rasterize(SHAPES, SHAPE)
    unlike = area.where(Box.whole(SHAPE)) != inside
    assert unlike.sum() <= 3  # a center within micrometers of an edge
    assert 0.2 < inside.mean() < 0.8


def test_polygons_beside_the_image_are_refused(image: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", image)
    triangle = [[[-50.0, -50.0], [-10.0, -50.0], [-10.0, -9.0], [-50.0, -50.0]]]
    area = geojson(tmp_path / "area.geojson", [{"type": "Polygon", "coordinates": triangle}])
    with pytest.raises(InputError, match=r"none of its 1 areas lies in image\.npy"):
        open_area(str(area), open_image(tmp_path / "image.npy"))


def test_auto_takes_brightness_where_three_channels_are_gray(tmp_path: Path) -> None:
    gray = np.zeros((60, 50), np.uint8)
    gray[10:30, 5:25] = 200
    source = open_image(np.stack([gray, gray, gray]))
    np.testing.assert_array_equal(find_area(Input.of(source, (0,), (0.0,))), gray > 0)


def test_auto_finds_tissue_and_nuclei_and_is_kept_in_the_output(tmp_path: Path) -> None:
    y, x = np.mgrid[:300, :260]
    spot = (y - 150) ** 2 + (x - 100) ** 2 < 60**2
    random = np.random.default_rng(0)
    dark = (random.normal(20, 5, (300, 260)) + 120 * spot).clip(0, 255).astype(np.uint8)
    slide = np.where(spot[..., None], (180, 90, 160), (240, 240, 242)) + random.integers(-4, 5, (300, 260, 3))
    np.save(tmp_path / "slide.npy", slide.astype(np.uint8))
    np.save(tmp_path / "dark.npy", dark[None])
    for name, channels in (("slide", 3), ("dark", 1)):
        predictor = PlainFilter(in_channels=channels)
        out = tmp_path / f"{name}.zarr"
        tilekit.predict(tmp_path / f"{name}.npy", predictor, out, mask="auto", **PLAN)
        found = classes_of(out) != VOID
        assert (found == spot).mean() > 0.98
        assert (open_image(out / "masks/auto").read([(0, 300), (0, 260)]) == found).all()
        assert tilekit.verify(out, predictor, boxes=4, side=64)["differing_pixels"] == 0
        assert tilekit.predict(tmp_path / f"{name}.npy", predictor, out, mask="auto", **PLAN)["written"] == 0


# Channels.


def rgba(path: Path, pixels: np.ndarray) -> Path:
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"] if pixels.shape[-1] == 4 else None)
    return path


def test_alpha_is_void_where_it_is_0_and_not_shown_to_a_network_of_three_channels(tmp_path: Path) -> None:
    colors = structured_image((3, *SHAPE), np.uint8, seed=4)
    alpha = np.full(SHAPE, 255, np.uint8)
    alpha[100:150, 50:90] = 0
    path = rgba(tmp_path / "image.tif", np.moveaxis(np.concatenate([colors, alpha[None]]), 0, -1))
    predictor = PlainFilter(in_channels=3)
    tilekit.predict(path, predictor, tmp_path / "out.zarr", **PLAN)
    means = np.floor(colors[:, alpha > 0].mean(1) + 0.5).astype(np.uint8)[:, None, None]
    wanted = whole_image_classes(predictor, np.where(alpha, colors, means))
    assert (classes_of(tmp_path / "out.zarr") == np.where(alpha, wanted, VOID)).all()
    four = PlainFilter(in_channels=4)
    tilekit.predict(path, four, tmp_path / "four.zarr", **PLAN)
    seen = np.concatenate([colors, alpha[None]])
    assert (classes_of(tmp_path / "four.zarr") == whole_image_classes(four, seen)).all()


def test_the_mask_of_a_file_is_void(image: np.ndarray, tmp_path: Path) -> None:
    valid = np.full(SHAPE, 255, np.uint8)
    valid[30:170, 40:70] = 0
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            tmp_path / "image.tif", "w", driver="GTiff", height=SHAPE[0], width=SHAPE[1], count=1, dtype="uint8",
            crs=32633, transform=Affine(1, 0, 5e5, 0, -1, 5e6),
        ) as file,
    ):  # fmt: skip
        file.write(image)
        file.write_mask(valid)
    tilekit.predict(tmp_path / "image.tif", FILTER, tmp_path / "out.zarr", **PLAN)
    found = classes_of(tmp_path / "out.zarr")
    mean = np.floor(image[0][valid > 0].mean() + 0.5).astype(np.uint8)
    assert (found == np.where(valid, whole_image_classes(FILTER, np.where(valid, image, mean)), VOID)).all()


@pytest.mark.parametrize("kind", ["alpha", "mask"])
def test_alpha_and_mask_of_a_resampled_image_are_void_on_its_own_pixels(kind: str, tmp_path: Path) -> None:
    """Read from level 1, of which a network pixel is 1.65; beyond the halo of the hole nothing changes."""
    shape, predictor = (700, 600), PlainFilter(in_channels=3, pixel_size=(3.3, 3.3))
    colors = np.moveaxis(structured_image((3, *shape), np.uint8, seed=7), 0, -1)
    valid = np.full(shape, 255, np.uint8)
    valid[301:348, 211:260] = 0
    found = []
    for name, hole in (("whole", np.full(shape, 255, np.uint8)), ("hole", valid)):
        path = tmp_path / f"{name}.tif"
        if kind == "alpha":
            rgba(path, np.concatenate([colors, hole[..., None]], axis=-1))
        else:
            with (
                rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
                rasterio.open(
                    path, "w", driver="GTiff", height=shape[0], width=shape[1], count=3, dtype="uint8", crs=32633,
                    transform=Affine(1, 0, 5e5, 0, -1, 5e6),
                ) as file,
            ):  # fmt: skip
                file.write(np.moveaxis(colors, -1, 0))
                file.write_mask(hole)
        out = tmp_path / f"{name}.zarr"
        tilekit.predict(path, predictor, out, pixel_size=1.0, tile=32, block=150)
        found.append(classes_of(out))
        assert ((found[-1] == VOID) == (hole == 0)).all()
        assert tilekit.verify(out, predictor, boxes=6, side=96)["differing_pixels"] == 0
    changed = np.argwhere((found[0] != found[1]) & (valid > 0))
    reach = (predictor.halo.before[0] + predictor.stride[0] + 2) * 3.3
    assert len(changed)
    assert ((changed >= (301 - reach, 211 - reach)) & (changed <= (348 + reach, 260 + reach))).all()


def test_a_pixel_with_the_nodata_value_in_the_networks_channel_alone_is_no_void(tmp_path: Path) -> None:
    pixels = np.maximum(structured_image((3, *SHAPE), np.uint8, seed=5), 1)
    pixels[1, 40:60, 40:60] = 0
    pixels[:, 100:120, 40:60] = 0
    tilekit.predict(pixels, FILTER, tmp_path / "out.zarr", channels=[1], nodata=0, **PLAN)
    assert ((classes_of(tmp_path / "out.zarr") == VOID) == (pixels == 0).all(0)).all()


def test_a_gray_slide_in_three_channels_is_taken_as_one_and_checked_block_by_block(
    image: np.ndarray, whole: np.ndarray, tmp_path: Path
) -> None:
    gray = np.repeat(image[0][..., None], 3, axis=-1)
    tilekit.predict(rgba(tmp_path / "gray.tif", gray), FILTER, tmp_path / "out.zarr", **PLAN)
    assert (classes_of(tmp_path / "out.zarr") == whole).all()
    large = np.repeat(structured_image((900, 900), np.uint8)[..., None], 3, axis=-1)
    large[200, 300, 1] ^= 1  # at none of the places that are sampled
    with pytest.raises(RunError, match=r"channels 0 and 1 differ in the box .*--channels"):
        tilekit.predict(rgba(tmp_path / "odd.tif", large), FILTER, tmp_path / "odd.zarr", **PLAN)
    large[:64, :64, 2] ^= 1
    with pytest.raises(InputError, match="3 channels, but the network takes 1"):
        tilekit.predict(rgba(tmp_path / "color.tif", large), FILTER, tmp_path / "color.zarr", **PLAN)


class Named(PlainFilter):
    """A filter that knows what its channels are called."""

    channel_names = ("DAPI", "FITC")


def test_channels_are_taken_in_the_networks_order_by_name(tmp_path: Path) -> None:
    pixels = structured_image((3, *SHAPE), np.uint8, seed=6)
    named = Named(in_channels=2)
    wanted = whole_image_classes(named, pixels[[2, 0]])

    def store(*names: str) -> Path:
        path = tmp_path / f"{'-'.join(names)}.ome.tif"
        tifffile.imwrite(path, pixels[: len(names)], metadata={"axes": "CYX", "Channel": {"Name": list(names)}})
        return path

    tilekit.predict(store("fitc", "TRITC", "dapi"), named, tmp_path / "out.zarr", **PLAN)
    assert (classes_of(tmp_path / "out.zarr") == wanted).all()
    tilekit.predict(store("FITC", "DAPI"), named, tmp_path / "two.zarr", **PLAN)
    assert (classes_of(tmp_path / "two.zarr") == whole_image_classes(named, pixels[[1, 0]])).all()
    with pytest.raises(InputError, match=r"'FITC', but the image's are called DAPI, Cy5; .*--channels"):
        tilekit.predict(store("DAPI", "Cy5"), named, tmp_path / "no.zarr", **PLAN)
    tilekit.predict(store("DAPI", "Cy5"), named, tmp_path / "no.zarr", channels=["cy5", 0], **PLAN)
    assert (classes_of(tmp_path / "no.zarr") == whole_image_classes(named, pixels[[1, 0]])).all()
    with pytest.raises(InputError, match="'GFP' asked for"):
        tilekit.predict(store("DAPI", "Cy5"), named, tmp_path / "gfp.zarr", channels=["GFP", "DAPI"], **PLAN)
