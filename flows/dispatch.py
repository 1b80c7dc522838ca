"""How a command's work is done: plainly, with bars on a terminal, or as the Prefect flow of the same name."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from flows.terminal import progress_bars
from tilekit.errors import RunError


def given(values: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The options of a command that are parameters of this kind."""
    return {name: values[name] for name in kind.model_fields if name in values}


def dispatch(flow: str, plain: str, *arguments: Any, prefect: bool, **options: Any) -> Any:
    """The result of a flow where Prefect is asked for, else of a plain function; each named as "module:function".

    Both take the arguments; the plain function takes `progress` after them, and options.
    """
    if is_flow(prefect):
        return run_flow(flow, *arguments)
    with progress_bars() as progress:
        return _imported(plain)(*arguments, progress, **options)


def run_flow(flow: str, *arguments: Any) -> Any:
    """The result of a flow, "module:function", as Prefect takes seconds to import; RunError where its server goes."""
    import httpx

    for handler in logging.getLogger().handlers:  # errors with their tracebacks are its server's; main says one line
        handler.addFilter(lambda record: record.levelno < logging.ERROR)
    try:
        return _imported(flow)(*arguments)
    except httpx.TransportError as error:
        reason = str(error) or type(error).__name__
        raise RunError(f"Prefect's server is gone ({reason}); the same command continues it") from error


def is_flow(prefect: bool) -> bool:
    """--prefect, or a server of Prefect is set."""
    return prefect or bool(os.environ.get("PREFECT_API_URL"))


def _imported(place: str) -> Callable[..., Any]:
    module, name = place.split(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
