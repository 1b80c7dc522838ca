"""`evaluate` as a plain function: what the command line calls, and what the Prefect flow calls."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from flows.params import ClusterParameters
from flows.score_pictures import draw_scores
from tilekit.engine import Progress, no_progress
from tilekit.errors import InputError
from tilekit.evaluation import Rules, parse_map, parse_void
from tilekit.jobs.evaluate import opened
from tilekit.jobs.pairs import kind_of, list_pairs
from tilekit.jobs.scoring import evaluate_pairs
from tilekit.place import as_path
from tilekit.run import available_cores, open_runner
from tilekit.score_files import as_json, write_scores

Publish = Callable[[dict[str, Any], list[Path]], None]


class EvaluateParameters(ClusterParameters):
    """Options of `evaluate`."""

    labels: Literal["classes", "ids", "boundaries"] | None = None
    """What the maps hold; unset: by the path of the prediction, ids in labels/objects, else classes."""
    map: str | None = None
    """What the truth's values mean, such as 0=0,255=1,-1=void."""
    void: str | None = None
    """Value of the truth that counts nowhere, or none; unset: 255 for classes."""
    block: Annotated[int | None, Field(ge=1)] = None
    """Side of what is counted at once, in pixels."""
    out: str | None = None
    """Folder for scores.json, scores.csv, pictures and the layer of disagreement."""
    overwrite: bool = False
    """Start over where the output exists."""


DEFAULTS = EvaluateParameters()


def evaluate_files(
    maps: list[str],
    parameters: EvaluateParameters = DEFAULTS,
    progress: Progress = no_progress,
    publish: Publish | None = None,
) -> dict[str, Any]:
    """Score PREDICTION [OTHER] TRUTH, images or folders of them; the keys of --json.

    `publish` is called with the result and its pictures, which are drawn for it or where there is an output.
    """
    p = parameters
    if len(maps) not in (2, 3):
        raise InputError(f"{len(maps)} maps given; give PREDICTION TRUTH, or PREDICTION OTHER TRUTH")
    if p.scheduler and not p.out:
        raise InputError("--scheduler needs --out, a folder that its workers see too")
    rules = Rules.of(p.labels or kind_of(maps[0]), parse_map(p.map), parse_void(p.void))
    pairs = list_pairs(maps[:-1], maps[-1], rules.kind)
    workers = p.workers if p.workers is not None else 0 if _is_small(pairs) else available_cores()
    place = as_path(p.out) if p.out else None
    several = workers if workers > 1 or p.workers else 0
    with open_runner(several, p.scheduler, p.tls) as runner, opened(place, overwrite=p.overwrite) as folder:
        result = evaluate_pairs(
            pairs, rules, runner, out=folder, block=p.block, is_drawn=bool(place or publish), progress=progress
        )
        if place is not None:
            write_scores(place, {**result, "output": str(place)})
    if place is not None or publish:
        with tempfile.TemporaryDirectory() as temporary:
            pictures = draw_scores(place or Path(temporary), result, pairs, rules)
            if publish:
                publish(result, pictures)
    return dict(as_json({**result, "output": None if place is None else str(place)}))


def _is_small(pairs: list[Any]) -> bool:
    """True where worker processes would take longer to start than to count."""
    return bool(sum(prod(pair.shape) for pair in pairs) < 1 << 30)
