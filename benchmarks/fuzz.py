"""Coverage-guided fuzzing by atheris of all that reads bytes from outside; prints what was executed and found.

    pip install atheris
    python benchmarks/fuzz.py TARGET [--seconds 600] [--out FOLDER]     crashing inputs are left in FOLDER/TARGET/found
    python benchmarks/fuzz.py all [--jobs 2]                            every target in turn, or two at a time

Targets: images (`open_image` and `read`), and the groups of tests/fuzz/doors.py. tilekit is instrumented, and of the
libraries those that are Python. A child process runs until an input breaks it: by an error other than InputError in
one line, a crash of a decoder, more than 10 s or more memory than the target may have. Then the next child goes on with
what was learned.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
LIBRARIES = {
    "images": ["tilekit", "tifffile"],
    "zarr": ["tilekit", "zarr"],
    "ngff": ["tilekit", "flows"],
    "networks": ["tilekit", "models", "yaml", "zipfile"],
    "texts": ["tilekit", "flows", "tomllib", "csv"],
    "options": ["tilekit", "flows", "starlette", "h11"],
    "outputs": ["tilekit", "flows"],
}
"""What is instrumented, by target."""
MEGABYTES = dict.fromkeys(LIBRARIES, 1024) | {"networks": 2048, "outputs": 2048}
COMPILED = ("boundaries", "compiled", "compiled_scores", "compiled_weights", "components", "overlaps", "stats")
"""Modules that are not instrumented: numba compiles no function that is."""
SUFFIXES = {b"II": ".tif", b"MM": ".tif", b"\x89P": ".png", b"\xff\xd8": ".jpg", b"\x93N": ".npy", b"\x89H": ".h5"}
SUFFIXES |= {b"\0\0": ".jp2", b"BM": ".bmp", b"GI": ".gif", b"RI": ".webp", b"<V": ".vrt"}


def child(target: str, arguments: list[str]) -> None:
    """libFuzzer's loop."""
    import atheris

    for name in COMPILED:
        importlib.import_module(f"tilekit.{name}")
    with atheris.instrument_imports(include=LIBRARIES[target]):
        one = images() if target == "images" else group(target)
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())  # what tifffile logs is still read, but not shown
    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def group(name: str) -> Callable[[bytes], None]:
    """A group of doors; all is imported and all seeds are read before the loop begins."""
    from tests.fuzz.doors import knock, seeds
    from tilekit.errors import InputError

    def one(data: bytes) -> None:
        with contextlib.suppress(InputError):
            knock(name, data)

    for seed in seeds(name).values():
        one(seed)
    return one


def images() -> Callable[[bytes], None]:
    """Files; input that begins with a brace is the metadata of a Zarr array."""
    import tifffile  # noqa: F401

    import tilekit.sources.array
    import tilekit.sources.hdf5
    import tilekit.sources.picture
    import tilekit.sources.raster
    import tilekit.sources.tiff
    import tilekit.sources.zarr_  # noqa: F401
    from tests.fuzz.doors import room
    from tests.fuzz.worker import open_and_read
    from tilekit.errors import InputError

    folder = room()
    store = folder / "store.zarr"
    (store / "c" / "0").mkdir(parents=True)
    (store / "c" / "0" / "0").write_bytes(bytes(range(256)))

    def one(data: bytes) -> None:
        if data[:1] == b"{":
            path, file = store, store / "zarr.json"
        else:
            path = file = folder / f"image{SUFFIXES.get(data[:2], '.dat')}"
        file.write_bytes(data)
        try:
            open_and_read(str(path))
        except InputError as error:
            if "\n" in str(error) or "MemoryError" in str(error) or "nable to allocate" in str(error):
                raise AssertionError(f"refused badly: {error!r}") from None

    return one


def write_corpus(target: str, folder: Path) -> None:
    """The seeds of the tests."""
    from tests.fuzz import doors
    from tests.fuzz.seeds import others, pictures, stores, tiffs

    folder.mkdir(parents=True, exist_ok=True)
    found = {**tiffs(), **pictures(), **others()} if target == "images" else doors.seeds(target)
    for name, data in found.items():
        (folder / name).write_bytes(data)
    if target == "images":
        with tempfile.TemporaryDirectory() as place:
            made = stores(Path(place))
            for name in ("zarr3", "zarr3-shards"):
                shutil.copy(made[name] / "0" / "zarr.json", folder / name)


def fuzz(target: str, seconds: float, folder: Path) -> dict[str, Any]:
    """Children one after the other until the time is up."""
    corpus, found = folder / "corpus", folder / "found"
    write_corpus(target, corpus)
    found.mkdir(exist_ok=True)
    started, runs, executions, peak, errors = time.monotonic(), 0, 0, 0, set()
    rooms = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    while (left := seconds - (time.monotonic() - started)) > 1:
        options = [f"-max_total_time={int(left)}", "-timeout=10", f"-rss_limit_mb={MEGABYTES[target]}"]
        options += ["-max_len=40000", f"-artifact_prefix={found}/", "-print_final_stats=1", f"-seed={runs + 1}"]
        options += ["-len_control=0"]
        command = [sys.executable, __file__, "--child", target, *options, str(corpus)]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=ROOT,
            env={**os.environ, "TMPDIR": rooms.name},  # a child that breaks leaves its folder
        )
        runs += 1
        counts = re.findall(r"stat::number_of_executed_units:\s*(\d+)", done.stdout) or re.findall(
            r"^#(\d+)", done.stdout, re.MULTILINE
        )
        executions += int(counts[-1]) if counts else 0
        resident = [int(n) for n in re.findall(r"rss: (\d+)Mb", done.stdout)]
        resident += [int(n) for n in re.findall(r"stat::peak_rss_mb:\s*(\d+)", done.stdout)]
        peak = max([peak, *resident])
        errors |= set(re.findall(r"^(?:Exception|[A-Za-z.]*Error)\b.*|ERROR: libFuzzer: .*", done.stdout, re.MULTILINE))
        (found / f"log-{runs}.txt").write_text(done.stdout[-20000:])
    rooms.cleanup()
    kinds = {k: len(list(found.glob(f"{k}-*"))) for k in ("crash", "timeout", "oom")}
    spent = round(time.monotonic() - started)
    return {"seconds": spent, "children": runs, "executions": executions, **kinds, "peak_mb": peak} | {
        "errors": sorted(text[:200] for text in errors)
    }


def fuzz_and_tell(target: str, seconds: float, folder: Path) -> bool:
    """Whether something was found."""
    result = fuzz(target, seconds, folder)
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    print(f"{target}: {', '.join(f'{name} {value}' for name, value in result.items() if name != 'errors')}")
    for error in result["errors"]:
        print(f"    {error}")
    print(f"    inputs that break: {folder / 'found'}", flush=True)
    return any(result[k] for k in ("crash", "timeout", "oom"))


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--child"]:
        child(arguments[1], arguments[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", default="all", choices=["all", *LIBRARIES])
    parser.add_argument("--seconds", type=float, default=600.0, help="for each target")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("--out", type=Path, help="folder of what is learned and found")
    asked = parser.parse_args(arguments)
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("atheris is not installed, nothing is fuzzed: pip install atheris")
        return 0
    folder = (asked.out or Path(tempfile.mkdtemp(prefix="tilekit-fuzz-"))).absolute()
    targets = list(LIBRARIES) if asked.target == "all" else [asked.target]
    places = [folder / target for target in targets]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(asked.jobs) as pool:
        found = list(pool.map(fuzz_and_tell, targets, [asked.seconds] * len(targets), places))
    return int(any(found))


if __name__ == "__main__":
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
