"""The commands that plan and run: ingest, plan, segment, label."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.dispatch import dispatch, given
from flows.options import (
    Average,
    Axes,
    Blend,
    Block,
    BoxText,
    Channels,
    Confidence,
    Connectivity,
    Device,
    FillHoles,
    Image,
    Images,
    Json,
    Level,
    Mask,
    Memory,
    MinSize,
    Model,
    NetworkLevel,
    Nodata,
    Objects,
    Out,
    Outs,
    Overwrite,
    PixelSize,
    Polygons,
    Precision,
    Prefect,
    Preview,
    PreviewOnly,
    Probabilities,
    Scheduler,
    Series,
    Shards,
    Slice,
    Split,
    Tile,
    Time,
    TlsCa,
    TlsCert,
    TlsKey,
    Workers,
)
from flows.terminal import print_facts, print_rows


def ingest(
    image: Image,
    out: Out,
    chunk: Annotated[
        int | None, typer.Option(help="Side of a chunk. Default: 512, more where files would be too many.")
    ] = None,
    block: Block = None,
    ngff: Annotated[str, typer.Option(help="OME-NGFF version: 0.5 on Zarr 3, 0.4 on Zarr 2.")] = "0.5",
    shards: Shards = None,
    channels: Channels = None,
    level: Level = None,
    pixel_size: PixelSize = None,
    nodata: Nodata = None,
    axes: Axes = None,
    t: Time = None,
    z: Slice = None,
    series: Series = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    overwrite: Overwrite = False,
    prefect: Prefect = False,
    json: Json = False,
) -> None:
    """Chunk an image into OME-Zarr, with its pyramid and statistics."""
    from flows.params import IngestParameters, checked

    parameters = checked(IngestParameters, **given(locals(), IngestParameters))
    print_facts(
        dispatch("flows.ingest:ingest", "flows.work:ingest_file", image, out, parameters, prefect=prefect), json
    )


def plan(
    image: Image,
    model: Model,
    channels: Channels = None,
    level: NetworkLevel = None,
    pixel_size: PixelSize = None,
    nodata: Nodata = None,
    axes: Axes = None,
    t: Time = None,
    z: Slice = None,
    series: Series = None,
    box: BoxText = None,
    mask: Mask = None,
    probabilities: Probabilities = None,
    average: Average = None,
    blend: Blend = False,
    confidence: Confidence = None,
    tile: Tile = None,
    block: Block = None,
    memory: Memory = None,
    workers: Workers = None,
    device: Device = "auto",
    precision: Precision = "float32",
    json: Json = False,
) -> None:
    """Say what segment would do: tiles, blocks, halo, redundancy, memory, disk, time."""
    from flows.params import SegmentParameters, checked
    from flows.work import plan_file

    parameters = checked(SegmentParameters, **given(locals(), SegmentParameters))
    job = plan_file(image, model, "tilekit-plan.zarr", parameters)
    facts = {"image": image, "model": model, **job.to_json(), "workers": job.workers}
    print_facts({**facts, "seconds": round(job.seconds(), 1)}, json)


def segment(
    image: Images,
    model: Model,
    out: Outs,
    channels: Channels = None,
    level: NetworkLevel = None,
    pixel_size: PixelSize = None,
    nodata: Nodata = None,
    axes: Axes = None,
    t: Time = None,
    z: Slice = None,
    series: Series = None,
    box: BoxText = None,
    mask: Mask = None,
    preview: Preview = 0,
    preview_only: PreviewOnly = False,
    objects: Objects = False,
    probabilities: Probabilities = None,
    average: Average = None,
    blend: Blend = False,
    confidence: Confidence = None,
    tile: Tile = None,
    block: Block = None,
    memory: Memory = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    device: Device = "auto",
    precision: Precision = "float32",
    overwrite: Overwrite = False,
    prefect: Prefect = False,
    json: Json = False,
) -> None:
    """The main job: image and network to an OME-Zarr with the image's pyramid and its class map."""
    from flows.images import BatchError, is_several
    from flows.params import SegmentParameters, checked

    parameters = checked(SegmentParameters, **given(locals(), SegmentParameters))
    several = is_several(image)
    flow = "flows.segment:segment_images" if several else "flows.segment:segment"
    plain = "flows.batch:segment_files" if several else "flows.work:segment_file"
    show = None if json else _show_pictures
    try:
        result = dispatch(flow, plain, image, model, out, parameters, prefect=prefect, show=show)
    except BatchError as error:
        print_rows(error.rows, json)
        raise
    if several:
        print_rows(result, json)
    elif json or not parameters.preview_only:
        print_facts({k: v for k, v in result.items() if json or k != "preview"}, json)


def label(
    classes: Annotated[str, typer.Argument(metavar="OUT.zarr", help="A segmented store; or a class map, with OUT.")],
    out: Annotated[str | None, typer.Argument(metavar="[OUT]", help="Output for the objects of a class map.")] = None,
    connectivity: Connectivity = 8,
    min_size: MinSize = 0,
    fill_holes: FillHoles = 0,
    split: Split = 0,
    polygons: Polygons = None,
    block: Annotated[int, typer.Option(help="Side of what one task reads and writes; changes no id.")] = 4096,
    workers: Workers = None,
    scheduler: Scheduler = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    overwrite: Overwrite = False,
    prefect: Prefect = False,
    json: Json = False,
) -> None:
    """Number the objects of a class map over the whole image and measure them."""
    from flows.params import LabelParameters, checked

    parameters = checked(LabelParameters, **given(locals(), LabelParameters))
    print_facts(dispatch("flows.label:label", "flows.work:label_file", classes, out, parameters, prefect=prefect), json)


def _show_pictures(paths: list[str]) -> None:
    for path in paths:
        typer.echo(path)
