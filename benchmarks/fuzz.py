"""Coverage-guided fuzzing of `open_image` and `read` by atheris, for some minutes; prints what was executed and found.

    pip install atheris
    python benchmarks/fuzz.py [SECONDS] [FOLDER]     600 by default; crashing inputs are left in FOLDER

tilekit.sources and tifffile are instrumented. A child process runs until an input breaks it: by an error other than
InputError, a crash of a decoder, more than 10 s or more than 1 GiB. Then the next child goes on with what was learned.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SUFFIXES = {b"II": ".tif", b"MM": ".tif", b"\x89P": ".png", b"\xff\xd8": ".jpg", b"\x93N": ".npy", b"\x89H": ".h5"}
SUFFIXES |= {b"\0\0": ".jp2", b"BM": ".bmp", b"GI": ".gif", b"RI": ".webp", b"<V": ".vrt"}
WORK = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


def child(arguments: list[str]) -> None:
    """libFuzzer's loop over files; input that begins with a brace is the metadata of a Zarr array."""
    import atheris

    with atheris.instrument_imports(include=["tilekit.sources", "tifffile"]):
        import tifffile  # noqa: F401

        import tilekit.sources.array
        import tilekit.sources.hdf5
        import tilekit.sources.picture
        import tilekit.sources.raster
        import tilekit.sources.tiff
        import tilekit.sources.zarr_  # noqa: F401
    import logging
    import warnings

    from tests.fuzz.worker import open_and_read
    from tilekit.errors import InputError

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(dir=WORK, prefix="tilekit-fuzz-"))
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

    atheris.Setup([sys.argv[0], *arguments], one)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_corpus(folder: Path) -> None:
    """The seeds of the tests, and the metadata of a Zarr array."""
    from tests.fuzz.seeds import others, pictures, stores, tiffs

    folder.mkdir(parents=True, exist_ok=True)
    for name, data in {**tiffs(), **pictures(), **others()}.items():
        (folder / name).write_bytes(data)
    with tempfile.TemporaryDirectory() as place:
        made = stores(Path(place))
        for name in ("zarr3", "zarr3-shards"):
            shutil.copy(made[name] / "0" / "zarr.json", folder / name)


def fuzz(seconds: float, folder: Path) -> dict[str, Any]:
    """Children one after the other until the time is up."""
    corpus, found = folder / "corpus", folder / "found"
    write_corpus(corpus)
    found.mkdir(exist_ok=True)
    started, runs, executions, peak, errors = time.monotonic(), 0, 0, 0, set()
    while (left := seconds - (time.monotonic() - started)) > 1:
        options = [f"-max_total_time={int(left)}", "-timeout=10", "-rss_limit_mb=1024", "-max_len=40000"]
        options += [f"-artifact_prefix={found}/", "-print_final_stats=1", f"-seed={runs + 1}", "-len_control=0"]
        command = [sys.executable, __file__, "--child", *options, str(corpus)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=ROOT
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
    kinds = {k: len(list(found.glob(f"{k}-*"))) for k in ("crash", "timeout", "oom")}
    spent = round(time.monotonic() - started)
    return {"seconds": spent, "children": runs, "executions": executions, **kinds, "peak_mb": peak} | {
        "errors": sorted(text[:200] for text in errors)
    }


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--child"]:
        child(arguments[1:])
        return 0
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("atheris is not installed, nothing is fuzzed: pip install atheris")
        return 0
    seconds = float(arguments[0]) if arguments else 600.0
    folder = Path(arguments[1]) if len(arguments) > 1 else Path(tempfile.mkdtemp(prefix="tilekit-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    result = fuzz(seconds, folder)
    for name, value in result.items():
        print(f"{name:<12}{value}")
    print(f"inputs that break: {folder / 'found'}")
    return int(any(result[k] for k in ("crash", "timeout", "oom")))


if __name__ == "__main__":
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    sys.exit(main(sys.argv[1:]))
