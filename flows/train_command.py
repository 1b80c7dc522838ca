"""The command `train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.dispatch import dispatch, given
from flows.options import Json, Overwrite, Prefect, Scheduler, TlsCa, TlsCert, TlsKey
from flows.terminal import print_facts


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
    from flows.training.config import commented, read_config
    from tilekit.errors import InputError

    if init:
        path = Path(config)
        if path.exists() and not overwrite:
            raise InputError(f"{path}: is there already; choose another name, or --overwrite")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commented(), encoding="utf-8")
        typer.echo(f"{path}: set images and truth in [data], then: tilekit train {path}")
        return
    read_config(config)  # what is wrong with it is said before torch is imported
    from flows.params import checked
    from flows.training.run import Options

    options = checked(Options, **given(locals(), Options))
    on_row = None if sys.stderr.isatty() else _say
    run = "flows.training.run:train_file"
    print_facts(dispatch("flows.train:train", run, config, options, prefect=prefect, on_row=on_row), json)


def _say(rows: list[dict[str, Any]], overlays: list[Path]) -> None:
    """A line per validation, where there is no terminal to draw bars on."""
    row = rows[-1]
    typer.echo(f"step {row['step']}: loss {row['loss']:.4f}, score {row['score']:.4f}", err=True)
