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


def dispatch(name: str, plain: str, *arguments: Any, prefect: bool, **options: Any) -> Any:
    """The result of flow `name` where Prefect is asked for, else of the function `plain` ("module:function").

    Both take the arguments; the plain function takes `progress` after them, and options. Modules are imported here, as
    Prefect and the libraries of the jobs take seconds.
    """
    if is_flow(prefect):
        leave_errors_to_main()
        import httpx

        try:
            return _imported(f"flows.{name.split('_')[0]}:{name}")(*arguments)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise RunError(f"Prefect's server is gone ({reason}); the same command continues it") from error
    with progress_bars() as progress:
        return _imported(plain)(*arguments, progress, **options)


def is_flow(prefect: bool) -> bool:
    """--prefect, or a server of Prefect is set."""
    return prefect or bool(os.environ.get("PREFECT_API_URL"))


def _imported(place: str) -> Callable[..., Any]:
    module, name = place.split(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def leave_errors_to_main() -> None:
    """Keep Prefect's errors, with their tracebacks, off the terminal; its server has them."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.levelno < logging.ERROR)
