"""Places by URL: used as paths, refused in one line, asked again while a server fails, silent about credentials."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cloud.servers import FaultyProxy
from tests.faults.harness import environment as process_environment
from tilekit.bucket import CREDENTIALS
from tilekit.copies import fetched, find, remove_tree, staged
from tilekit.errors import InputError
from tilekit.place import PART_BYTES, RemotePath, as_path, as_url


def test_a_place_goes_the_ways_of_a_path(bucket: RemotePath) -> None:
    place = bucket / "plate 1" / "a.zarr"
    assert str(place / "labels" / "0") == f"{bucket}/plate 1/a.zarr/labels/0"
    assert (place.name, place.suffix, place.parent.name) == ("a.zarr", ".zarr", "plate 1")
    assert place.with_name("b.tif") == as_path(f"{bucket}/plate 1/b.tif")
    assert (place / "labels/0").relative_to(place) == Path("labels/0")
    again = pickle.loads(pickle.dumps(place))
    assert again == place
    assert type(again / "x") is RemotePath
    assert place.absolute() is place.resolve() is place.expanduser() is place
    with pytest.raises(InputError, match="this is done with local files alone"):
        os.stat(place)


def test_what_is_written_is_found_listed_and_removed(bucket: RemotePath) -> None:
    folder = bucket / "a folder"
    assert not folder.exists()
    for name in ("1.txt", "2.txt", "deep/3.txt"):
        (folder / name).write_text(name)
    assert folder.is_dir()
    assert not folder.is_file()
    assert (folder / "1.txt").is_file()
    assert (folder / "1.txt").stat().st_size == 5
    assert sorted(path.name for path in folder.iterdir()) == ["1.txt", "2.txt", "deep"]
    assert sorted(path.name for path in folder.glob("*.txt")) == ["1.txt", "2.txt"]
    assert [str(path) for path in folder.glob("*/3.txt")] == [f"{folder}/deep/3.txt"]
    assert sorted(path.name for path in find(as_path(f"{bucket}/*/*.txt"))) == ["1.txt", "2.txt"]
    assert sorted(path.name for path in folder.rglob("*.txt")) == ["1.txt", "2.txt", "3.txt"]
    with (folder / "deep/3.txt").open() as lines:
        assert list(lines) == ["deep/3.txt"]
    (folder / "1.txt").unlink()
    with pytest.raises(FileNotFoundError, match="there is no such object"):
        (folder / "1.txt").read_bytes()
    remove_tree(folder)
    assert not folder.exists()


def test_a_file_that_is_staged_appears_at_the_end_and_not_where_its_writing_failed(bucket: RemotePath) -> None:
    place = bucket / "table.bin"
    with pytest.raises(FileNotFoundError), staged(place) as local:
        local.with_name("half").rename(local / "no such folder")
    assert not place.exists()
    with staged(place) as local:
        local.write_bytes(b"whole")
        assert not place.exists()
    assert place.read_bytes() == b"whole"


def test_a_large_object_goes_up_in_parts_and_comes_back_in_ranges(bucket: RemotePath) -> None:
    data = np.random.default_rng(0).bytes(3 * PART_BYTES)
    (bucket / "large").write_bytes(data)
    assert (bucket / "large").stat().st_size == len(data)
    parts = (bucket / "large").read_ranges([0, 40_000_000], [10, 1000])
    assert parts == [data[:10], data[40_000_000:40_001_000]]
    with (bucket / "large").open("rb") as file:
        file.seek(-100, os.SEEK_END)
        assert file.read() == data[-100:]


def test_a_copy_is_made_once_and_again_when_the_object_changes(bucket: RemotePath) -> None:
    (bucket / "model").write_bytes(b"first")
    copy = fetched(bucket / "model")
    assert (copy.read_bytes(), fetched(bucket / "model")) == (b"first", copy)
    (bucket / "model").write_bytes(b"second")
    assert fetched(bucket / "model").read_bytes() == b"second"
    with pytest.raises(InputError, match=r"cannot be read in parts, at most .* copied; copy it to a local path"):
        fetched(bucket / "model", limit=5)


def test_an_object_is_replaced_only_as_it_was_known(bucket: RemotePath) -> None:
    place = bucket / "lock"
    first = place.put_if(b"1", None)
    with pytest.raises(FileExistsError):
        place.put_if(b"2", None)
    second = place.put_if(b"2", first)
    with pytest.raises(FileExistsError):
        place.put_if(b"3", first)
    assert place.put_if(b"3", second) not in (first, second)
    assert place.read_bytes() == b"3"


def test_requests_are_repeated_through_503s_and_torn_connections(
    bucket: RemotePath, moto: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.random.default_rng(0).bytes(300_000)
    with FaultyProxy(moto, refused=0.2, torn=0.2) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        for i in range(12):
            place = bucket / f"{i}.bin"
            place.write_bytes(data)
            assert place.read_bytes() == data
            assert place.read_ranges([100], [200_000]) == [data[100:200_100]]
        assert len(list(bucket.iterdir())) == 12
        print(proxy.counts)
    assert proxy.counts["refused"] > 3
    assert proxy.counts["torn"] > 3


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/a.tif", "ftp://...: is no URL that can be used; give one of s3, gs, az, https, or a local path"),
        ("s3://", "s3://: names no bucket and path; correct it"),
        ("s3://bucket/../other/a.tif", "names no bucket and path; correct it"),
        ("https://me:hunter2@host/a.tif", "a URL with a user, a query or a signature would be kept in the output"),
        ("https://host/a.tif?X-Amz-Signature=hunter2", "give credentials in the environment"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_telling_its_secret(url: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        as_url(url)
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_what_is_missing_is_said_in_one_line(bucket: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="there is no such bucket; create it, or correct the URL"):
        list(as_url("s3://no-such-bucket/x").iterdir())
    with pytest.raises(InputError, match=r"is read over the web, not written"):
        as_url("https://host/a").write_bytes(b"")
    with pytest.raises(InputError, match=r"what lies below a web address cannot be listed"):
        list(as_url("https://host/a").iterdir())
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere.pem")
    with pytest.raises(InputError, match=r"/nowhere\.pem: the certificate bundle cannot be read"):
        (bucket / "x").exists()
    monkeypatch.delenv("AWS_CA_BUNDLE")
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="the environment has no credentials; set AWS_ACCESS_KEY_ID"):
        (bucket / "x").exists()
    with pytest.raises(InputError, match=r"az://images: cannot be used .*; see docs/cloud.md"):
        as_url("az://images/x").exists()


def test_without_the_extra_a_url_is_refused_and_local_paths_never_ask_for_it(tmp_path: Path) -> None:
    """In a process that cannot import obstore."""
    program = (
        "import sys; sys.modules['obstore'] = None\n"
        "from tilekit.place import as_path\n"
        "assert not as_path('a.tif').exists()\n"
        "as_path('s3://bucket/a.tif').exists()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=process_environment()
    )
    assert "s3://bucket/a.tif: URLs need pip install 'tilekit[cloud]'; or copy it to a local path" in done.stderr
