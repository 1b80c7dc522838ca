"""The TOML of a training: read and checked, or written with a comment for every key."""

from __future__ import annotations

import difflib
import json
import math
import textwrap
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from flows.params import Parameters
from flows.training.sections import (
    Augment,
    Data,
    Network,
    Normalization,
    Output,
    Patches,
    Section,
    Split,
    Training,
    Validation,
    Weights,
)
from tilekit.errors import InputError
from tilekit.place import beside

WIDTH = 100
"""Characters of a line of the commented TOML."""


class Config(Parameters):
    """Everything that a training is told."""

    data: Data = Data()
    split: Split = Split()
    normalization: Normalization = Normalization()
    weights: Weights = Weights()
    network: Network = Network()
    patches: Patches = Patches()
    augment: Augment = Augment()
    training: Training = Training()
    validation: Validation = Validation()
    output: Output = Output()
    file: Path = Field(default=Path("config.toml"), exclude=True)
    """The TOML itself; no key of it."""

    @property
    def folder(self) -> Path:
        """To which the paths in it are relative."""
        return self.file.parent

    def path(self, text: str) -> Path:
        """A path of the TOML."""
        return beside(self.folder, text)


def sections() -> dict[str, type[Section]]:
    """The sections by name, in order."""
    return {name: type(field.default) for name, field in Config.model_fields.items() if name != "file"}


def read_config(path: str | Path) -> Config:
    """The configuration of a file; InputError in one line names the file, the key, its value and what it may be."""
    path = Path(path).expanduser()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; write one with tilekit train --init") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no TOML ({_one_line(error)}); correct it") from None
    for name, section in values.items():
        if name not in sections():
            raise InputError(f"{path}: has no section [{name}]; {_known(name, list(sections()))}")
        if not isinstance(section, dict):
            raise InputError(f"{path}: {name} = {_show(section)} stands alone; write a section [{name}] with keys")
    try:
        return Config(file=path.absolute(), **values)
    except ValidationError as error:
        raise InputError(f"{path}: {_complaint(error, values)}") from None


def _complaint(error: ValidationError, values: dict[str, Any]) -> str:
    """What is wrong with the first key that does not fit, and what it may be."""
    first = error.errors()[0]
    section, *rest = (str(part) for part in first["loc"])
    own = _one_line(first["ctx"]["error"]).removeprefix("--map ") if first["type"] == "value_error" else None
    if not rest:
        return f"[{section}] {own}"
    key, keys = rest[0], sections()[section].model_json_schema()["properties"]
    if first["type"] == "extra_forbidden":
        return f"[{section}] has no key {key}; {_known(key, list(keys))}"
    return f"[{section}] {key} = {_show(values[section][key])}: {own or 'must be ' + _allowed(keys[key])}"


def _allowed(schema: dict[str, Any]) -> str:
    """What a JSON schema takes, in words."""
    if "anyOf" in schema:
        return " or ".join(_allowed(kind) for kind in schema["anyOf"] if kind.get("type") != "null")
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    words = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text"}
    if schema["type"] == "array":
        of = f"{schema['maxItems']} " if "prefixItems" in schema else ""
        part = schema["prefixItems"][0] if of else schema["items"]
        return f"a list, each of its {of}parts {_allowed(part)}"
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    bounds = [f"{word} {schema[name]:g}" for name, word in limits.items() if name in schema]
    return " ".join([words[schema["type"]], " and ".join(bounds)]).strip()


def _known(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def commented() -> str:
    """A TOML with every key, its default, and what it means; a key without a default is commented out."""
    lines = [
        "# A training of tilekit: tilekit train CONFIG.toml",
        "# Values are the defaults; keys after # are unset. Paths are relative to this file's folder.",
    ]
    for name, kind in sections().items():
        lines += ["", f"# {_one_line(kind.__doc__)}", f"[{name}]"]
        for key, field in kind.model_fields.items():
            lines += textwrap.wrap(_one_line(field.description), WIDTH, initial_indent="# ", subsequent_indent="# ")
            unset = field.default is None
            value = (field.examples or [None])[0] if unset else field.default
            lines.append(f"{'# ' if unset else ''}{key} = {_show(value)}")
    return "\n".join(lines) + "\n"


def _show(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_show, value))}]"
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else repr(value)
    if isinstance(value, str):
        return f"'{value}'" if "\\" in value else json.dumps(value, ensure_ascii=False)
    return str(value)
