"""tilekit segments images too big to open: exact overlap-tile prediction from Zarr to Zarr.

Words, each with one meaning: a *chunk* is the smallest part of a Zarr array that can be read alone; a *shard* is one
storage object, the smallest part that two workers may not both write; a *block* is what one task writes, whole shards;
a *tile* is one network call, a *core* with its *halo*; the *stride* is the network's total down-sampling; a *level* is
a step of the pyramid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Box",
    "InputError",
    "RunError",
    "decide_again",
    "evaluate",
    "ingest",
    "label_objects",
    "open_image",
    "predict",
    "status",
    "verify",
    "weight_map",
]

if TYPE_CHECKING:
    from tilekit.api import decide_again, evaluate, ingest, label_objects, predict, weight_map
    from tilekit.box import Box
    from tilekit.errors import InputError, RunError
    from tilekit.jobs.status import status
    from tilekit.jobs.verify import verify
    from tilekit.sources import open_image

_HOMES = {
    "Box": "tilekit.box",
    "InputError": "tilekit.errors",
    "RunError": "tilekit.errors",
    "decide_again": "tilekit.api",
    "evaluate": "tilekit.api",
    "ingest": "tilekit.api",
    "label_objects": "tilekit.api",
    "predict": "tilekit.api",
    "weight_map": "tilekit.api",
    "open_image": "tilekit.sources",
    "status": "tilekit.jobs.status",
    "verify": "tilekit.jobs.verify",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import tilekit` stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tilekit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
