"""The command `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.options import Json, Overwrite, Prefect, Scheduler, TlsCa, TlsCert, TlsKey
from flows.runs import _given, _is_flow, _leave_errors_to_main
from flows.terminal import print_facts, progress_bars


def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG.toml", help="What to train, on what, and how.")],
    init: Annotated[bool, typer.Option("--init", help="Write a CONFIG with a comment for every key.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped training was.")] = False,
    init_from: Annotated[str | None, typer.Option(metavar="MODEL", help="A trained model to start from.")] = None,
    scheduler: Scheduler = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    overwrite: Overwrite = False,
    prefect: Prefect = False,
    json: Json = False,
) -> None:
    """Train a network on annotated images; writes the model, its card and its curves."""
    from flows.training.config import commented
    from flows.training.run import Options, train_file
    from tilekit.errors import InputError

    if init:
        path = Path(config)
        if path.exists() and not overwrite:
            raise InputError(f"{path}: is there already; choose another name, or --overwrite")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commented(), encoding="utf-8")
        typer.echo(f"{path}: set images and truth in [data], then: tilekit train {path}")
        return
    from flows.params import checked

    options = checked(Options, **_given(locals(), Options))
    if _is_flow(prefect):
        from flows.train import train as flow

        _leave_errors_to_main()
        print_facts(flow(config, options), json)
        return
    with progress_bars() as progress:
        result = train_file(config, options, progress)
    print_facts(result, json)
