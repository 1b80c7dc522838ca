"""What is known of the images of an inbox, in one file beside the outputs.

OUT/inbox.json           a record per image
OUT/NAME.zarr            the output of the image NAME, its ending kept: a.tif and a.png become two
OUT/aside/NAME.json      why an image was put aside
OUT/.tilekit/lock        held while a tick works
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from flows.watched import Stamp
from tilekit.errors import InputError
from tilekit.jobs.output import now
from tilekit.ledger import write_atomic

FILE, ASIDE = "inbox.json", "aside"


class Ended(BaseModel):
    """How contents were dealt with."""

    model_config = ConfigDict(extra="forbid")

    digest: str
    """Of the contents."""
    model: str
    """Digest of the model."""
    recipe: str
    """Digest of the model and of all options that decide a pixel."""
    time: str
    tries: int
    reason: str | None = None
    """Why it was put aside."""


class Record(BaseModel):
    """An image, known by its name."""

    model_config = ConfigDict(extra="forbid")

    stamp: Stamp
    seen: float
    """When the stamp was first seen, in seconds since 1970."""
    digest: str | None = None
    """Of the contents under this stamp; None while they are still changing."""
    begun: tuple[str, str] | None = None
    """Digest and recipe of what its output holds or is about to hold."""
    done: Ended | None = None
    aside: Ended | None = None


class State(BaseModel):
    """All that is known."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    images: dict[str, Record] = {}

    @classmethod
    def read(cls, out: Path) -> State:
        """The state of an output folder, empty where there is none."""
        path = out / FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise InputError(f"{path}: is no state of an inbox ({what}); move it away to begin anew") from None

    def write(self, out: Path) -> None:
        """Replace the file by a whole one."""
        write_atomic(out / FILE, self.model_dump_json(indent=1, exclude_none=True))

    def covers(self, name: str, record: Record) -> str | None:
        """Another image of the same contents that is done and has not changed since."""
        for other, known in self.images.items():
            if other != name and known.done and known.done.digest == known.digest == record.digest:
                return other
        return None


def output_of(out: Path, name: str) -> Path:
    """Where the image of this name goes."""
    return out / f"{name}.zarr"


def write_reason(out: Path, name: str, image: str, ended: Ended) -> None:
    """Say beside the outputs why an image was put aside."""
    path = out / ASIDE / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"image": image, "reason": ended.reason, "tries": ended.tries, "time": now(), "digest": ended.digest}
    write_atomic(path, json.dumps(facts, indent=1) + "\n")


def remove_reason(out: Path, name: str) -> None:
    """The image is no longer aside."""
    (out / ASIDE / f"{name}.json").unlink(missing_ok=True)
