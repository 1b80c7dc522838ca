"""Certificates from deploy/tls.sh, and what a driver refuses before it asks for a scheduler."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tilekit.errors import InputError
from tilekit.run import open_runner

SCRIPT = Path(__file__).parents[2] / "deploy/tls.sh"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls") / "tls"
    subprocess.run([SCRIPT, made], check=True, timeout=60)
    return made


def files(folder: Path) -> dict[str, str]:
    return {"ca": f"{folder}/ca.pem", "cert": f"{folder}/client.pem", "key": f"{folder}/client.key"}


def test_certificates_are_of_one_authority_and_keys_are_private(folder: Path) -> None:
    leaves = [folder / f"{role}.pem" for role in ("scheduler", "worker", "client")]
    command = ["openssl", "verify", "-x509_strict", "-CAfile", folder / "ca.pem", *leaves]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_another_role_leaves_what_exists(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    subprocess.run([SCRIPT, folder, "client", "viewer"], check=True, timeout=60)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() - before.keys() == {"viewer.pem", "viewer.key"}
    assert before.items() <= after.items()


@pytest.mark.parametrize("role", ["../x", "ca", ""])
def test_a_role_is_no_path(tmp_path: Path, role: str) -> None:
    done = subprocess.run([SCRIPT, tmp_path / "tls", role], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "is no name of a role" in done.stderr


def test_files_without_an_encrypted_address_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="is not encrypted, and TLS files are given; write it like tls://"):
        open_runner(scheduler="tcp://127.0.0.1:1", tls=files(folder)).__enter__()


def test_an_encrypted_address_without_files_is_refused() -> None:
    with pytest.raises(InputError, match="takes a certificate; give --tls-ca, --tls-cert and --tls-key"):
        open_runner(scheduler="tls://127.0.0.1:1").__enter__()


def test_configuration_that_demands_encryption_is_heeded() -> None:
    import dask

    with (
        dask.config.set({"distributed.comm.require-encryption": True}),
        pytest.raises(InputError, match="demands encryption"),
    ):
        open_runner(scheduler="tcp://127.0.0.1:1").__enter__()
