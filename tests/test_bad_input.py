"""Bad input: status 2 and one line that names the file, before anything is written; 1 where it only shows later."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.faults.harness import TILEKIT, call, environment, make_image, make_model


@dataclass(frozen=True)
class Files:
    """Good files to spoil, in a folder of their own."""

    folder: Path
    image: Path
    model: Path
    out: Path


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    make_image(folder / "image.tif", 256)
    make_model(folder / "model.safetensors")
    return folder


@pytest.fixture
def files(good: Path, tmp_path: Path) -> Files:
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    return Files(tmp_path, tmp_path / "image.tif", tmp_path / "model.safetensors", tmp_path / "out.zarr")


def segment(files: Files, *options: str, **changed: Any) -> subprocess.CompletedProcess[str]:
    image, model, out = (str(changed.get(k, getattr(files, k))) for k in ("image", "model", "out"))
    return call("segment", image, model, out, "--workers", "0", *options)


def assert_refused(done: subprocess.CompletedProcess[str], *words: object, code: int = 2) -> None:
    """Status 2, nothing on standard output, one line that says all of these words."""
    assert done.returncode == code, (done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("tilekit: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert str(word) in lines[0]
    assert done.stdout == ""


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(path: Path) -> None:
    path.write_text("This is not an image.\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def two_channels(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((2, 64, 64), np.uint8), planarconfig="separate", photometric="minisblack")


def complex_pixels(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((64, 64), np.complex64))


def header_alone(path: Path) -> None:
    path.write_bytes(b"II*\0\x08\0\0\0")


def zero_sized(path: Path) -> None:
    np.save(path.with_suffix(".npy"), np.zeros((0, 64), np.uint8))
    path.with_suffix(".npy").rename(path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncated, "copy it again"),
        (text, "not an image"),
        (empty, "is empty"),
        (missing, "no such file"),
        (folder, "no Zarr store"),
        (two_channels, "2 channels, but the network takes 1"),
        (complex_pixels, "not supported"),
        (header_alone, "TIFF"),
        (zero_sized, "holds no image"),
    ],
)
@pytest.mark.parametrize("command", ["segment"])
def test_a_spoilt_image_is_refused(files: Files, command: str, spoil: Callable[[Path], None], words: str) -> None:
    spoil(files.image)
    assert_refused(segment(files), files.image.name, words)
    assert not files.out.exists()


@pytest.mark.parametrize("command", ["info", "ingest", "plan"])
def test_every_command_refuses_a_spoilt_image(files: Files, command: str) -> None:
    truncated(files.image)
    rest = {"info": [], "ingest": [str(files.out)], "plan": [str(files.model)]}[command]
    assert_refused(call(command, str(files.image), *rest), files.image)
    assert not files.out.exists()


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": [1.0] * 1000}))


def torch_pickled(path: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(3)}, path)


def huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{" + b" " * 1000)


def huge_sparse_header(path: Path) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 34) + b"{")
        file.truncate((1 << 34) + 100)


def other_weights(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3, np.float32)}, path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (pickled, "is a pickle"),
        (torch_pickled, "is a pickle"),
        (truncated, "is torn"),
        (empty, "is empty"),
        (missing, "no such file"),
        (folder, "is a directory"),
        (text, "no safetensors"),
        (huge_header, "its header claims 4611686018427387904 bytes"),
        (huge_sparse_header, "claims a header of 17179869184 bytes"),
        (other_weights, "no tilekit description"),
    ],
)
def test_a_spoilt_checkpoint_is_refused(files: Files, spoil: Callable[[Path], None], words: str) -> None:
    spoil(files.model)
    assert_refused(segment(files), files.model, words)
    assert not files.out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--block", "130"], ["130", "use 128 or 132"]),
        (["--block", "-4"], ["--block"]),
        (["--block", "many"], ["--block"]),
        (["--tile", "0"], ["--tile"]),
        (["--workers", "-1"], ["--workers"]),
        (["--box", "0:100,200:300"], ["image.tif", "0:100,200:300", "256 x 256"]),
        (["--box", "100:0,0:100"], ["--box 100:0,0:100", "y0:y1,x0:x1"]),
        (["--memory", "lots"], ["--memory lots", "4GB"]),
        (["--memory", "1MB"], ["--memory"]),
        (["--channels", "0,3"], ["image.tif", "channels (0, 3)", "the image has 1"]),
        (["--channels", "one"], ["image.tif", "channel 'one'", "have no names"]),
        (["--channels", "0,"], ["--channels 0,", "numbers or names"]),
        (["--nodata", "300"], ["image.tif", "--nodata 300", "uint8"]),
        (["--t", "1"], ["image.tif", "t 1"]),
        (["--z", "-1"], ["--z -1"]),
        (["--axes", "tyx"], ["image.tif", "'tyx'"]),
        (["--preview", "-1"], ["--preview -1"]),
        (["--level", "3"], ["image.tif", "level 3"]),
        (["--pixel-size", "-1"], ["--pixel-size -1"]),
        (["--precision", "int4"], ["--precision int4"]),
        (["--device", "abacus"], ["abacus"]),
        (["--probabilities", "complex"], ["--probabilities complex"]),
        (["--mask", "absent.tif"], ["absent.tif"]),
        (["--tls-ca", "ca.pem"], ["--tls-ca, --tls-cert and --tls-key together"]),
        (["--no-such-option"], ["--no-such-option", "tilekit segment --help"]),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_written(
    files: Files, options: list[str], words: list[str]
) -> None:
    assert_refused(segment(files, *options), *words)
    assert not files.out.exists()


def test_a_missing_argument_and_an_unknown_command_are_refused() -> None:
    assert_refused(call("segment", "image.tif"), "MODEL")
    assert_refused(call("segmant"), "segmant")


def test_a_mask_of_another_size_is_refused(files: Files) -> None:
    mask = files.folder / "mask.tif"
    tifffile.imwrite(mask, np.ones((100, 256), np.uint8))
    assert_refused(segment(files, "--mask", str(mask)), mask, "(100, 256)", "(256, 256)")
    assert not files.out.exists()


def test_a_level_far_from_the_networks_pixel_size_is_refused_with_the_one_that_fits(files: Files) -> None:
    make_model(files.model, pixel_size=(2.0, 2.0))
    pyramid = files.folder / "pyramid.tif"
    with tifffile.TiffWriter(pyramid) as tiff:
        common: dict[str, Any] = {"tile": (64, 64), "resolutionunit": "CENTIMETER", "photometric": "minisblack"}
        tiff.write(np.ones((256, 256), np.uint8), subifds=2, resolution=(2e4, 2e4), **common)
        for level in (1, 2):
            tiff.write(np.ones((256 >> level, 256 >> level), np.uint8), subfiletype=1, **common)
    refused = segment(files, "--level", "0", image=pyramid)
    assert_refused(refused, pyramid.name, "0.5 micrometres", "trained at 2", "use --level 2")
    assert not files.out.exists()


def test_an_image_without_pixel_size_or_far_too_coarse_for_the_network_is_refused(files: Files) -> None:
    make_model(files.model, pixel_size=(2.0, 2.0))
    assert_refused(segment(files), files.image.name, "no pixel size", "trained at 2", "--pixel-size")
    refused = segment(files, "--pixel-size", "9")
    assert_refused(refused, files.image.name, "9 micrometres", "trained at 2", "4 times finer", "--pixel-size")
    assert not files.out.exists()


def test_an_area_that_tells_nothing_of_the_image_is_refused(files: Files) -> None:
    area = files.folder / "area.geojson"
    for content, words in [
        ('{"type": "Point", "coordinates": [1, 2]}', "it holds a Point"),
        ('{"type": "FeatureCollection", "features": []}', "holds no polygon"),
        ('{"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}', "a ring of 2 points"),
        ('{"features": 3}', "'type' is missing"),
        ("{", "is no GeoJSON"),
    ]:
        area.write_text(content)
        assert_refused(segment(files, "--mask", str(area)), area, words)
    mask = files.folder / "mask.tif"
    tifffile.imwrite(mask, np.ones((512, 512), np.uint8))
    assert_refused(segment(files, "--mask", str(mask)), mask, "(512, 512)", "(256, 256)")
    assert not files.out.exists()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_output_that_is_something_else_is_refused_and_left_alone(files: Files, kind: str) -> None:
    precious = files.out / "thesis.txt" if kind == "folder" else files.out
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("years of work")
    for options in ([], ["--overwrite"]):
        assert_refused(segment(files, *options), files.out)
        assert precious.read_text() == "years of work"


def test_status_and_verify_refuse_what_no_run_has_written(files: Files) -> None:
    assert_refused(call("status", str(files.out)), files.out)
    assert_refused(call("verify", str(files.out), str(files.model)), files.out)


@pytest.mark.parametrize("place", ["/proc/tilekit/out.zarr", "/proc/version/out.zarr", "/sys/out.zarr"])
def test_a_place_that_cannot_be_written_is_refused(files: Files, place: str) -> None:
    if not Path(place).parts[1:2] or not Path("/", Path(place).parts[1]).is_dir():
        pytest.skip("no such file system here")
    assert_refused(segment(files, out=place), place)


@pytest.fixture
def without_privileges() -> list[str]:
    """What to put before a command so that rights hold for it, also where the tests run as root."""
    if os.getuid():
        return []
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if not shutil.which("setpriv") or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("root cannot give up its privileges here")
    return prefix


@pytest.mark.parametrize("forbidden", ["out", "image", "model"])
def test_a_directory_without_rights_is_refused(files: Files, without_privileges: list[str], forbidden: str) -> None:
    closed = files.folder / "closed"
    closed.mkdir()
    place = closed / getattr(files, forbidden).name
    if forbidden != "out":
        getattr(files, forbidden).rename(place)
    closed.chmod(0o000)
    image, model, out = (str(place if k == forbidden else getattr(files, k)) for k in ("image", "model", "out"))
    done = subprocess.run(
        [*without_privileges, *TILEKIT, "segment", image, model, out, "--workers", "0"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    closed.chmod(0o700)
    assert_refused(done, place)
    assert not files.out.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_an_output_that_cannot_fit_on_the_disk_is_refused(files: Files, small_disk: Path) -> None:
    tifffile.imwrite(files.image, np.zeros((1500, 1500), np.uint8), compression="zlib")
    assert_refused(segment(files, out=small_disk / "out.zarr"), small_disk / "out.zarr", "are free")
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_during_the_run_ends_it_with_1_and_room_continues_it(
    files: Files, small_disk: Path, workers: str
) -> None:
    out, ballast = small_disk / "out.zarr", small_disk / "ballast"
    noise = np.random.default_rng(0).integers(0, 255, (512, 512), dtype=np.uint8)
    tifffile.imwrite(files.image, noise)
    arguments = ["segment", str(files.image), str(files.model), str(out), "--block", "64", "--workers", workers]
    ballast.write_bytes(bytes(520_000))
    done = call(*arguments)
    assert_refused(done, out, "No space left on device", code=1)
    assert "stopped" in call("status", str(out)).stdout
    ballast.unlink()
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    assert "complete" in call("status", str(out)).stdout


def test_a_tile_that_is_damaged_inside_ends_the_run_with_1(files: Files) -> None:
    with tifffile.TiffFile(files.image) as tiff:
        offset, length = tiff.pages[0].dataoffsets[9], tiff.pages[0].databytecounts[9]
    data = bytearray(files.image.read_bytes())
    data[offset : offset + length] = bytes(length)
    files.image.write_bytes(data)
    assert_refused(segment(files, "--block", "64"), files.image, "tile 9 of 16", "failed: 9;", code=1)
    assert "stopped" in call("status", str(files.out)).stdout


@pytest.fixture
def deaf_address() -> str:
    """An address of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.slow  # connecting is given up after 15 seconds
def test_a_scheduler_that_does_not_answer_is_refused(files: Files, deaf_address: str) -> None:
    address = f"tcp://{deaf_address}"
    assert_refused(segment(files, "--scheduler", address), address, "no Dask scheduler answers")
    assert not files.out.exists()


def test_an_address_that_is_none_and_tls_files_that_are_missing_are_refused(files: Files, deaf_address: str) -> None:
    assert_refused(segment(files, "--scheduler", "nowhere://at.all"), "nowhere://at.all")
    absent = str(files.folder / "absent.pem")
    tls = ["--tls-ca", absent, "--tls-cert", absent, "--tls-key", absent]
    assert_refused(segment(files, "--scheduler", f"tls://{deaf_address}", *tls), absent, "No such file")
    text(Path(absent))
    assert_refused(segment(files, "--scheduler", f"tls://{deaf_address}", *tls), absent, "cannot be used for TLS")
    assert not files.out.exists()


def test_no_message_spans_lines_or_shows_python(files: Files) -> None:
    truncated(files.image)
    assert not re.search(r"\n.|Error\(|File \"", segment(files).stderr.strip())
