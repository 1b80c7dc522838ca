"""The commands that plan and run: ingest, plan, segment, label."""

from __future__ import annotations

import logging
import os
from typing import Annotated, Any

import typer

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
from flows.terminal import print_facts, print_rows, progress_bars


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

    parameters = checked(IngestParameters, **_given(locals(), IngestParameters))
    if _is_flow(prefect):
        from flows.ingest import ingest as flow

        _leave_errors_to_main()
        print_facts(flow(image, out, parameters), json)
        return
    from flows.work import ingest_file

    with progress_bars() as progress:
        result = ingest_file(image, out, parameters, progress)
    print_facts(result, json)


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

    parameters = checked(SegmentParameters, **_given(locals(), SegmentParameters))
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

    parameters = checked(SegmentParameters, **_given(locals(), SegmentParameters))
    run = _segment_with_prefect if _is_flow(prefect) else _segment_plainly
    several = is_several(image)
    try:
        result = run(several, image, model, out, parameters, quiet=json)
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

    parameters = checked(LabelParameters, **_given(locals(), LabelParameters))
    if _is_flow(prefect):
        from flows.label import label as flow

        _leave_errors_to_main()
        print_facts(flow(classes, out, parameters), json)
        return
    from flows.work import label_file

    with progress_bars() as progress:
        result = label_file(classes, out, parameters, progress)
    print_facts(result, json)


def _segment_plainly(several: bool, image: str, model: str, out: str, parameters: Any, quiet: bool) -> Any:
    from flows.batch import segment_files
    from flows.work import segment_file

    show = None if quiet else _show_pictures
    with progress_bars() as progress:
        run: Any = segment_files if several else segment_file
        return run(image, model, out, parameters, progress, show=show)


def _segment_with_prefect(several: bool, image: str, model: str, out: str, parameters: Any, quiet: bool) -> Any:
    from flows.segment import segment as flow
    from flows.segment import segment_images

    _leave_errors_to_main()
    return (segment_images if several else flow)(image, model, out, parameters)


def _show_pictures(paths: list[str]) -> None:
    for path in paths:
        typer.echo(path)


def _given(values: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The options of a command that are parameters of this kind."""
    return {name: values[name] for name in kind.model_fields if name in values}


def _is_flow(prefect: bool) -> bool:
    return prefect or bool(os.environ.get("PREFECT_API_URL"))


def _leave_errors_to_main() -> None:
    """Keep Prefect's errors, with their tracebacks, off the terminal; its server has them."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.levelno < logging.ERROR)
