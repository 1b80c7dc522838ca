"""Images and models by https://, from a server whose certificate is signed by an authority of one's own."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tifffile

from models import load
from tests.faults.harness import make_model
from tilekit import ingest, open_image
from tilekit.errors import InputError

x509 = pytest.importorskip("cryptography.x509")


class Files(SimpleHTTPRequestHandler):
    """The files of a folder, whole or one range of them, by HTTP 1.1."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        asked = self.headers.get("Range", "")
        if not asked or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = (len(data) - int(last), len(data)) if not first else (int(first), int(last or len(data) - 1) + 1)
        part = data[start:stop]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is logged."""


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(*pem))
    return certificate, secret


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Address and folder of a server over TLS, whose authority this process is told of."""
    certificate, key = make_certificate(tmp_path)
    folder = tmp_path / "web"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    try:
        yield f"https://127.0.0.1:{server.server_port}", folder
    finally:
        server.shutdown()
        server.server_close()


def test_images_and_models_are_read_by_https(web: tuple[str, Path]) -> None:
    address, folder = web
    pixels = np.random.default_rng(0).integers(0, 255, (300, 200), dtype=np.uint8)
    tifffile.imwrite(folder / "a b.tif", pixels, tile=(64, 64), compression="zlib")
    np.save(folder / "c.npy", pixels)
    ingest(pixels, folder / "d.zarr")
    make_model(folder / "m.safetensors")
    for name in ("a%20b.tif", "c.npy", "d.zarr"):
        source = open_image(f"{address}/{name}")
        np.testing.assert_array_equal(source.read([(100, 290), (30, 190)]), pixels[100:290, 30:190], err_msg=name)
    assert load(f"{address}/m.safetensors", "cpu").digest == load(folder / "m.safetensors", "cpu").digest
    with pytest.raises(InputError, match=r"none\.tif: no such file or folder; check the path"):
        open_image(f"{address}/none.tif")
    with pytest.raises(InputError, match="is read over the web, not written"):
        ingest(pixels, f"{address}/out.zarr")


def test_a_certificate_that_nobody_vouches_for_is_refused(
    web: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = web
    np.save(folder / "c.npy", np.zeros((10, 10), np.uint8))
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setattr("tilekit.bucket.RETRY_SECONDS", 1)
    with pytest.raises(OSError, match="error sending request"):
        open_image(f"{address}/c.npy")
