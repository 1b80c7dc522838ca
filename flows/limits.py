"""Scarce devices: task runs that compute on a GPU carry a tag, whose concurrency limit the server keeps."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from flows.work import count_gpus
from tilekit.jobs.segment import Job

STAGES = {"preview_stage", "predict_stage", "fit", "fit_on_devices", "evaluate"}
"""Those that run a network; the other stages of a run leave the device to others."""


def limit_of(function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[str]:
    """The tag of a stage that computes on a GPU: `gpu`, or what TILEKIT_GPU_LIMIT says of this machine's; none else.

    With a scheduler elsewhere, whose devices are unknown here, that is where the device is said to be cuda.
    """
    if function.__name__ not in STAGES or not arguments:
        return []
    asked = _device(arguments)
    is_gpu = asked.startswith("cuda") or (asked == "auto" and count_gpus() > 0)
    return [os.environ.get("TILEKIT_GPU_LIMIT") or "gpu"] if is_gpu else []


def _device(arguments: tuple[Any, ...]) -> str:
    """What a stage was asked to compute on."""
    for argument in arguments:
        if isinstance(argument, Job):
            device = getattr(argument.predictor, "device", "cpu")
            return "cpu" if device == "auto" and argument.options.is_remote else str(device)
        if hasattr(argument, "survey"):  # a training's
            return str(argument.config.training.device)
    return "cpu"
