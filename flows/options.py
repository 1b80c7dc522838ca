"""The options of the command line, each said once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Image = Annotated[str, typer.Argument(metavar="IMAGE", help="An image: TIFF, OME-Zarr, Zarr, .npy, ...")]
Images = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE", help="An image, or several: a folder, a quoted glob ('*.tif'), a CSV with a column image."
    ),
]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Checkpoint of tilekit, .safetensors, or a starter: nuclei, axons.")
]
Out = Annotated[str, typer.Argument(metavar="OUT.zarr", help="Output.")]
Outs = Annotated[str, typer.Argument(metavar="OUT.zarr", help="Output; of several images, a folder for their stores.")]
Json = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]
Workers = Annotated[
    int | None, typer.Option(help="Worker processes; 0: in this process. Default: by cores and memory.")
]
Scheduler = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler to use instead.")]
TlsCa = Annotated[str | None, typer.Option(help="Certificate authority of a tls:// scheduler.")]
TlsCert = Annotated[str | None, typer.Option(help="Certificate to show to it.")]
TlsKey = Annotated[str | None, typer.Option(help="Key of that certificate.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over where the output exists.")]
Level = Annotated[int | None, typer.Option(help="Level of the image's pyramid.")]
NetworkLevel = Annotated[
    int | None, typer.Option("--level", help="Level of the image's pyramid. Default: by the network's pixel size.")
]
PixelSize = Annotated[
    str | None, typer.Option(help="Micrometres per pixel, where the file does not say: 0.5, y,x, or 10m.")
]
Nodata = Annotated[float | None, typer.Option(help="Value that means: nothing measured here; also nan.")]
Axes = Annotated[str | None, typer.Option(help="Names of the axes, where the file does not say: tyx.")]
Time = Annotated[int | None, typer.Option("--t", help="One time of a series.")]
Slice = Annotated[int | None, typer.Option("--z", help="One slice of a stack.")]
Series = Annotated[int | None, typer.Option(help="Which image of a file that holds several.")]
Channels = Annotated[
    str | None, typer.Option(help="Channels by name or number from 0, in the network's order: DAPI,2.")
]
Shards = Annotated[
    bool | None, typer.Option("--shards/--no-shards", help="Chunks in shards. Default: unless the image has a CRS.")
]
Tile = Annotated[int | None, typer.Option(help="Side of a tile's core, rounded down to the stride.")]
Block = Annotated[int | None, typer.Option(help="Side of what one task writes, a multiple of the stride.")]
Memory = Annotated[str | None, typer.Option(help="For all workers together: 4GB. Default: 4/5 of what is free.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[Any, typer.Option(help="float32 (exact) or bfloat16 (faster).")]
BoxText = Annotated[str | None, typer.Option("--box", metavar="Y0:Y1,X0:X1", help="Predict this part alone.")]
Mask = Annotated[str | None, typer.Option(help="Where to predict: an image (nonzero there), a GeoJSON file, or auto.")]
Preview = Annotated[int, typer.Option(metavar="N", help="First predict N boxes, as pictures in OUT-preview.")]
PreviewOnly = Annotated[bool, typer.Option("--preview-only", help="Stop after the preview (of 5 boxes by default).")]
Probabilities = Annotated[str | None, typer.Option(help="Store probabilities too: uint8 or float16.")]
Average = Annotated[str | None, typer.Option(help="flips: the mean over the 8 rotations and flips.")]
Blend = Annotated[bool, typer.Option("--blend", help="Take a network that cannot be exact: blend windows of it.")]
Confidence = Annotated[str | None, typer.Option(help="Store highest probability and entropy: uint8 or float16.")]
Objects = Annotated[bool, typer.Option("--objects", help="Number and measure the objects too, as label does.")]
Connectivity = Annotated[int, typer.Option(help="Neighbors of a pixel: 4, or 8 with corners.")]
MinSize = Annotated[int, typer.Option(help="Leave out objects of fewer pixels.")]
FillHoles = Annotated[int, typer.Option(help="Fill holes of fewer pixels that one class alone surrounds.")]
Split = Annotated[
    int, typer.Option(metavar="N", help="Split touching objects of up to N pixels in height and width (watershed).")
]
Polygons = Annotated[
    str | None, typer.Option(help="Write outlines to OUT.zarr/tables: geojson, geoparquet or qupath (pixels).")
]
Prefect = Annotated[bool, typer.Option("--prefect", help="As a Prefect flow run.")]
