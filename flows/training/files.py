"""Which files are images and which is the truth of each: folders, globs, single files, or a CSV."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path

from flows.images import NO_IMAGES, read_csv
from flows.training.config import Config
from tilekit.copies import find
from tilekit.errors import InputError
from tilekit.jobs.pairs import is_folder, maps_in
from tilekit.place import beside
from tilekit.sources import ZARR_DOCUMENTS

NO_TRUTHS = NO_IMAGES - {".geojson", ".gpkg"}
_WILDCARDS = r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])"


@dataclass(frozen=True, slots=True)
class FilePair:
    """An image and its truth, and what a CSV says of them."""

    image: Path
    truth: Path
    group: str | None = None
    part: str | None = None


def list_files(config: Config) -> list[FilePair]:
    """The pairs that a configuration names, in order; refuses images without truth, and truth without images."""
    images = config.path(config.data.images)
    if images.suffix.lower() == ".csv" and not glob.has_magic(str(images)):
        return _in_csv(images)
    truth = config.path(config.data.truth)
    found, known = _listed(images, NO_IMAGES), _listed(truth, NO_TRUTHS)
    if len(found) == len(known) == 1:
        return [FilePair(next(iter(found.values())), next(iter(known.values())))]
    _check_all(found, known, f"{truth}: has no truth of", images)
    _check_all(known, found, f"{images}: has no image of the truth", truth)
    return [FilePair(found[name], known[name]) for name in sorted(found)]


def _in_csv(path: Path) -> list[FilePair]:
    """Rows of a CSV; its paths are relative to its folder."""
    pairs = [
        FilePair(
            beside(path.parent, row["image"]), beside(path.parent, row["truth"]), row.get("group"), row.get("part")
        )
        for _, row in read_csv(path, ("image", "truth"), ("group", "part"))
    ]
    if not pairs:
        raise InputError(f"{path}: has no row below its header; list at least one image and its truth")
    return pairs


def _listed(place: Path, left_out: set[str]) -> dict[str, Path]:
    """Files by what tells them apart: their name without its ending, or what the wildcards of a glob stand for."""
    if is_folder(place):
        found = maps_in(place, left_out)
        if not found:
            raise InputError(f"{place}: a folder without images; name one that holds them, or a glob")
        return found
    if not glob.has_magic(str(place)) or place.exists():
        if not place.exists():
            raise InputError(f"{place}: no such file or folder; check the path")
        return {place.name: place}
    pattern, found = _with_groups(str(place)), {}
    for path in sorted(find(place)):
        match = pattern.fullmatch(str(path))
        if match and (path.is_file() or any((path / document).exists() for document in ZARR_DOCUMENTS)):
            key = " ".join(part for part in match.groups() if part)
            if key in found:
                raise InputError(
                    f"{found[key]} and {path}: the wildcards stand for {key!r} in both; write one glob each"
                )
            found[key] = path
    if not found:
        raise InputError(f"{place}: no file is called so; check the glob")
    return found


def _with_groups(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression that captures what its wildcards stand for."""
    parts = re.split(_WILDCARDS, pattern)
    return re.compile("".join(_captured(part) if i % 2 else re.escape(part) for i, part in enumerate(parts)), re.DOTALL)


def _captured(wildcard: str) -> str:
    simple = {"**/": "((?:.*/)?)", "**": "(.*)", "*": "([^/]*)", "?": "([^/])"}
    if wildcard in simple:
        return simple[wildcard]
    letters = wildcard[1:-1]
    if len(letters) == 1:  # one that glob.escape wrote
        return re.escape(letters)
    start = "([^" if letters.startswith("!") else "(["
    return start + "".join(c if c == "-" else re.escape(c) for c in letters.removeprefix("!")) + "])"


def _check_all(names: dict[str, Path], others: dict[str, Path], complaint: str, place: Path) -> None:
    if missing := sorted(names.keys() - others.keys()):
        raise InputError(
            f"{complaint} {names[missing[0]].name}, which is in {place}; {len(missing)} such of {len(names)}; add or "
            "remove files, or list the pairs in a CSV"
        )
