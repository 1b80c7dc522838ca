"""The command `serve`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.options import Device, Workers


def serve(
    inbox: Annotated[str | None, typer.Option(metavar="FOLDER", help="Watch this folder for images.")] = None,
    model: Annotated[str, typer.Option(metavar="MODEL", help="Segment them with this.")] = "nuclei",
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="Into stores here. Default: INBOX-out.")] = None,
    every: Annotated[float | None, typer.Option(min=1, help="Seconds from look to look. Default: 300.")] = None,
    settle: Annotated[
        float | None, typer.Option(min=0, help="Seconds for which an image must not have changed. Default: 30.")
    ] = None,
    at_once: Annotated[int | None, typer.Option(help="Images segmented at the same time, at most. Default: 1.")] = None,
    pixel_size: Annotated[str | None, typer.Option(help="Micrometres per pixel, where a file does not say.")] = None,
    workers: Workers = None,
    device: Device = "auto",
    limit: Annotated[int, typer.Option(min=1, help="Flow runs at the same time, at most.")] = 2,
) -> None:
    """Serve the scheduled deployments from this machine, with an inbox; on PREFECT_API_URL, or a server of its own."""
    from flows.params import InboxParameters, SegmentParameters, checked

    parameters: dict[str, Any] | None = None
    if inbox:
        given = {"settle_seconds": settle, "at_once": at_once}
        segment = checked(SegmentParameters, pixel_size=pixel_size, workers=workers, device=device)
        options = checked(InboxParameters, segment=segment, **{k: v for k, v in given.items() if v is not None})
    from flows.serve import check_inbox, serve_all

    if inbox:
        places = check_inbox(inbox, model, out or f"{inbox.rstrip('/')}-out")
        parameters = {**places, "parameters": options.model_dump(mode="json", exclude_unset=True)}
    serve_all(parameters, every, limit, lambda line: typer.echo(line, err=True))
