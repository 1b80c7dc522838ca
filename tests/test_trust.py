"""What docs/threats.md says of who may reach what, and of secrets: measured."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import zarr

from tests.faults.harness import TILEKIT, environment, make_image, make_model, start
from tests.looking.specimen import make_store, served
from tilekit.errors import InputError, one_line
from tilekit.place import as_path
from tilekit.sources import open_image

SECRET = "hunter2"


def listeners(process: psutil.Process) -> Iterator[tuple[str, int]]:
    """Addresses at which a process and all its children take connections."""
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            for connection in one.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN or connection.type == 2:  # a datagram socket has no state
                    yield connection.laddr.ip, connection.laddr.port


def watch(process: psutil.Process, seconds: float) -> set[tuple[str, int]]:
    """All that were seen while it ran."""
    seen: set[tuple[str, int]] = set()
    end = time.monotonic() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        with contextlib.suppress(psutil.NoSuchProcess):
            seen.update(listeners(process))
        time.sleep(0.05)
    return seen


@pytest.mark.slow
def test_a_cluster_of_this_machine_listens_on_loopback_alone(tmp_path: Path) -> None:
    make_image(tmp_path / "image.tif")
    make_model(tmp_path / "model.safetensors")
    out = tmp_path / "out.zarr"
    arguments = ["segment", str(tmp_path / "image.tif"), str(tmp_path / "model.safetensors"), str(out)]
    run = start([*arguments, "--workers", "2", "--block", "64", "--tile", "32", "--json"], out)
    seen = watch(psutil.Process(run.process.pid), 120)
    run.finish()
    assert len(seen) >= 5, "scheduler, its page, and of two workers nanny and worker"
    assert {ip for ip, _ in seen} == {"127.0.0.1"}, sorted(seen)


@pytest.mark.slow
def test_serve_listens_on_loopback_alone(tmp_path: Path) -> None:
    make_model(tmp_path / "model.safetensors")
    places = ["--inbox", str(tmp_path / "new"), "--out", str(tmp_path / "results")]
    command = [*TILEKIT, "serve", *places, "--model", str(tmp_path / "model.safetensors")]
    process = subprocess.Popen(
        command,
        env={**environment(), "PREFECT_HOME": str(tmp_path / "prefect")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        whole, seen = psutil.Process(process.pid), set[tuple[str, int]]()
        end = time.monotonic() + 90
        while not seen and time.monotonic() < end:
            seen |= watch(whole, 1)
        seen |= watch(whole, 5)
        assert seen, process.poll()
        assert {ip for ip, _ in seen} == {"127.0.0.1"}, sorted(seen)
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.communicate(timeout=60)
        for child in psutil.wait_procs(children, timeout=30)[1]:
            child.kill()


def test_the_viewer_listens_on_loopback_alone(tmp_path: Path) -> None:
    pytest.importorskip("neuroglancer", reason="no viewer here: pip install 'tilekit[view]'")
    with served(make_store(tmp_path / "out.zarr")) as (_, process):
        seen = set(listeners(psutil.Process(process.pid)))
    assert [ip for ip, _ in seen] == ["127.0.0.1"], seen


SIGNED = (
    f"s3://key:{SECRET}@bucket/a.zarr",
    f"https://user:{SECRET}@host/a.tif",
    f"https://host/a.tif?X-Amz-Signature={SECRET}",
    f"https://host/a.tif#{SECRET}",
    f"s3://bucket/a.zarr?X-Amz-Credential=k&X-Amz-Signature={SECRET}",
    f"az://container/a.zarr?sv=2025-01-01&sig={SECRET}",
    f"gs://bucket/a.zarr?X-Goog-Signature={SECRET}",
    f"ftp://user:{SECRET}@host/a.tif",
)


@pytest.mark.parametrize("url", SIGNED)
def test_a_url_with_a_secret_is_refused_without_it(url: str) -> None:
    with pytest.raises(InputError) as refused:
        as_path(url)
    assert SECRET not in str(refused.value)
    assert as_path("s3://bucket/what? sign=here.tif").name == "what? sign=here.tif"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["image", "model", "out", "mask", "csv"])
def test_no_file_and_no_message_tells_the_secret_of_a_url(where: str, tmp_path: Path) -> None:
    make_image(tmp_path / "image.tif", 64)
    given = {"image": str(tmp_path / "image.tif"), "model": "nuclei", "out": str(tmp_path / "out.zarr")}
    given |= {"mask": "auto", where: SIGNED[5]}
    if where == "csv":
        images = tmp_path.with_name(f"{tmp_path.name}.csv")  # which has it, as its author wrote it
        images.write_text(f"image,out\n{SIGNED[2]},a.zarr\n")
        given["image"] = str(images)
    line = ["segment", given["image"], given["model"], given["out"], "--mask", given["mask"], "--json"]
    known = {**environment(), "TILEKIT_LOG": str(tmp_path / "log.jsonl")}
    done = subprocess.run([*TILEKIT, *line], env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in data for data in (done.stdout.encode(), done.stderr.encode(), *written))


class Harmful:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("kind", ["coordinates", "pixels"])
def test_a_zarr_of_pickles_is_refused_unread(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NUMCODECS_ALLOW_UNSAFE_PICKLE_DECODE", "1")
    zarr.create_array("a.zarr/image", data=np.ones((8, 8), np.uint8), zarr_format=2, compressors=None)
    Path("a.zarr/image/.zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": ["y", "x"], "_CRS": "EPSG:32633"}))
    document = {"zarr_format": 2, "dtype": "|O", "compressor": {"id": "pickle"}, "filters": [{"id": "vlen-utf8"}]}
    document |= {"order": "C", "fill_value": ""}
    for folder, sides in {"a.zarr/y": [8], "a.zarr/x": [8], "b.zarr": [8, 8]}.items():
        Path(folder).mkdir()
        Path(folder, ".zarray").write_text(json.dumps(document | {"shape": sides, "chunks": sides}))
        Path(folder, ".".join("0" for _ in sides)).write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(InputError, match="never unpickled"):
        open_image("a.zarr/image" if kind == "coordinates" else "b.zarr")
    assert not Path("unpickled").exists()


def test_what_a_file_says_does_not_move_the_terminal() -> None:
    assert one_line("a\x1b]0;b\x07\n\u202ec") == "a\\x1b]0;b\\x07\\n\\u202ec"
    assert str(InputError("name\r\x1b[2K: fine")) == "name\\r\\x1b[2K: fine"
    assert len(str(InputError("x" * 10**6))) < 2100
