"""The options of the command line, each said once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Image = Annotated[str, typer.Argument(metavar="IMAGE", help="TIFF, OME-Zarr, Zarr or .npy.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint of tilekit, .safetensors.")]
Out = Annotated[str, typer.Argument(metavar="OUT.zarr", help="Output.")]
Json = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]
Workers = Annotated[
    int | None, typer.Option(help="Worker processes; 0: in this process. Default: by cores and memory.")
]
Scheduler = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler to use instead.")]
TlsCa = Annotated[str | None, typer.Option(help="Certificate authority of a tls:// scheduler.")]
TlsCert = Annotated[str | None, typer.Option(help="Certificate to show to it.")]
TlsKey = Annotated[str | None, typer.Option(help="Key of that certificate.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over where the output exists.")]
Level = Annotated[int, typer.Option(help="Level of the image's pyramid.")]
PixelSize = Annotated[str | None, typer.Option(help="Micrometres per pixel, where the file does not say: 0.5 or y,x.")]
Nodata = Annotated[float | None, typer.Option(help="Value that means: nothing measured here.")]
Channels = Annotated[str | None, typer.Option(help="Image channels in the network's order: 0,2.")]
Tile = Annotated[int | None, typer.Option(help="Side of a tile's core, rounded down to the stride.")]
Block = Annotated[int | None, typer.Option(help="Side of what one task writes, a multiple of the stride.")]
Memory = Annotated[str | None, typer.Option(help="For all workers together: 4GB. Default: 4/5 of what is free.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[Any, typer.Option(help="float32 (exact) or bfloat16 (faster).")]
BoxText = Annotated[str | None, typer.Option("--box", metavar="Y0:Y1,X0:X1", help="Predict this part alone.")]
Mask = Annotated[str | None, typer.Option(help="Image of the same size, nonzero where to predict.")]
Probabilities = Annotated[str | None, typer.Option(help="Store probabilities too: uint8 or float16.")]
