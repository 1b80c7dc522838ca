"""One server for all tests here, and a bucket for each."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.cloud.servers import environment, make_bucket, moto_server
from tilekit.place import RemotePath, as_url


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that speaks S3."""
    with moto_server(tmp_path_factory.mktemp("moto")) as port:
        yield port


@pytest.fixture
def bucket(moto: int, monkeypatch: pytest.MonkeyPatch) -> RemotePath:
    """An empty bucket; this process, and those that it starts, have the credentials in their environment."""
    for name, value in environment(moto).items():
        monkeypatch.setenv(name, value)
    name = f"tilekit-{uuid4().hex}"
    make_bucket(moto, name)
    return as_url(f"s3://{name}")
