"""The TOML of a training: what `--init` writes is what is meant, and what does not fit is refused in one line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from flows.training.config import Config, commented, read_config, sections
from tilekit.errors import InputError


def read(folder: Path, text: str) -> Config:
    path = folder / "config.toml"
    path.write_text(text)
    return read_config(path)


def test_the_commented_toml_reads_as_the_defaults_and_names_every_key(tmp_path: Path) -> None:
    config = read(tmp_path, commented())
    assert config.model_dump() == Config().model_dump()
    for name, kind in sections().items():
        section = commented().split(f"\n[{name}]\n")[1].split("\n[")[0]
        assert re.findall(r"^(?:# )?(\w+) = ", section, re.MULTILINE) == list(kind.model_fields)


def test_every_key_that_is_unset_shows_a_value_that_it_takes() -> None:
    told = Config(**tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", commented(), flags=re.MULTILINE)))
    for name in sections():
        assert None not in getattr(told, name).model_dump().values()


def test_every_key_is_described() -> None:
    for name, kind in sections().items():
        for key, field in kind.model_fields.items():
            assert field.description, f"{name}.{key}"


def test_paths_are_those_of_the_tomls_folder(tmp_path: Path) -> None:
    config = read(tmp_path, "[data]\nimages = 'a/*.tif'\n")
    assert config.path(config.data.images) == tmp_path / "a" / "*.tif"
    assert config.path("/b") == Path("/b")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[data]\nkind = 'x'", r'\[data\] kind = "x": must be one of ids, classes'),
        ("[data]\nkid = 'ids'", r"\[data\] has no key kid; did you mean kind\?"),
        ("[dta]", r"has no section \[dta\]; did you mean data\?"),
        ("file = 'x'", r"has no section \[file\]; there are data, split"),
        ("data = 3", r"data = 3 stands alone; write a section \[data\]"),
        ("a\n[data]", r"is no TOML \(.*line 1.*\); correct it"),
        ("[patches]\nside = 0", r"\[patches\] side = 0: must be a whole number at least 1 and at most 16384"),
        ("[patches]\nside = true", r"side = true: must be a whole number"),
        ("[augment]\nrotate = nan", r"rotate = nan: must be a number at least 0 and at most 180"),
        ("[normalization]\npercentiles = [5]", r"\[5\]: must be a list, each of its 2 parts a number at least 0"),
        ("[normalization]\npercentiles = [5, 3]", "the first must be below the second"),
        ("[split]\nvalidation = 1", r"must be a number at least 0 and below 1 or a list, each of its parts a text"),
        ("[split]\nvalidation = 0.5\ntest = 0.5", r"\[split\] validation and test are 1 of all together"),
        ("[split]\ngroup = 'a'", r'group = "a": has 0 \(...\), must have one'),
        ("[split]\ngroup = '('", r"is no regular expression \(.*position 0\); correct it"),
        ("[data]\nmap = '1=x'", r'\[data\] map = "1=x": .*write it like 0=0,255=1,-1=void'),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InputError, match=f"config.toml: .*{told}") as refused:
        read(tmp_path, text)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; write one with tilekit train --init"):
        read_config(tmp_path / "absent.toml")
