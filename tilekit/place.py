"""DOOR obstore: places by URL, used as paths are.

`as_path(text)` is a `pathlib.Path` for what lies on a disk, and a `RemotePath` for s3://BUCKET/KEY, gs://BUCKET/KEY,
az://CONTAINER/KEY and https://HOST/PATH (read only). Credentials, endpoint and certificates come from the environment
alone, and are in no text that leaves this module. Every request is repeated, with growing pauses, while its server is
away or says 5xx. What is written appears whole or not at all.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from tilekit.errors import InputError

SCHEMES = ("s3", "gs", "az", "https", "http")
REQUEST_SECONDS = 120
"""For one request with its body, after which it is tried again."""
RETRY_SECONDS = 60
"""How long a request is tried again; obstore's advice is to stay below 5 minutes, the life of a signature."""
RETRIES, LONGEST_PAUSE_SECONDS = 1000, 5
PART_BYTES = 16 << 20
"""What is longer than two of these goes up in parts, so that each fits the time of a request on a slow line."""
READ_AHEAD = 1 << 18
FETCHED_BYTES = 1 << 30
"""Up to this length an image that cannot be read in parts is copied to a local disk."""
ZARR_DOCUMENTS = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",
    "AWS_SKIP_SIGNATURE",
)
"""Any of these says how requests to S3 are signed. Without one obstore would ask the cloud's network for minutes."""
CERTIFICATES = ("AWS_CA_BUNDLE", "SSL_CERT_FILE")
SETTINGS = ("AWS_", "GOOGLE_", "AZURE_", "SSL_CERT_FILE")


def as_path(where: str | os.PathLike[str]) -> Path:
    """Where a text says, `~` expanded: a path on a disk, or a RemotePath. InputError for a URL that cannot be one.

    >>> as_path("s3://images/plate 1/a.zarr") / "labels"
    RemotePath('s3://images/plate 1/a.zarr/labels')
    >>> as_path("a.zarr")
    PosixPath('a.zarr')
    """
    if isinstance(where, RemotePath):
        return where
    text = os.fspath(where)
    return as_url(text) if is_url(text) else Path(text).expanduser()


def as_url(text: str) -> RemotePath:
    """The place that a URL names; InputError where it cannot be one."""
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
        raise InputError(f"{scheme}://...: is no URL that can be used; give one of s3, gs, az, https, or a local path")
    url = urlsplit(text)
    if "@" in url.netloc or (scheme.startswith("http") and (url.query or url.fragment)):
        raise InputError(
            f"{scheme}://{url.hostname or ''}/...: a URL with a user, a query or a signature would be kept in the "
            "output; leave that away, and give credentials in the environment"
        )
    if not url.netloc or ".." in rest.split("/"):
        raise InputError(f"{text}: names no {'host' if scheme.startswith('http') else 'bucket'} and path; correct it")
    return RemotePath(f"{scheme}:", *rest.split("/"))


def is_url(where: Any) -> bool:
    """True for a RemotePath, and for the text of one."""
    return isinstance(where, RemotePath) or (isinstance(where, str) and "://" in where)


class RemotePath(PosixPath):
    """A path whose first part is a scheme and whose second is a bucket; pure operations are those of PosixPath.

    Folders are what listings make of the slashes in keys: they exist where something lies below them.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self.parts[0]}//{'/'.join(self.parts[1:])}" if self.parts else ""

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return as_path, (str(self),)

    def __fspath__(self) -> str:
        raise InputError(f"{self}: this is done with local files alone; copy it to a local path")

    def relative_to(self, other: Path, *more: Any) -> Path:  # type: ignore[override]
        return Path(*self.parts).relative_to(Path(*other.parts))

    def is_absolute(self) -> bool:
        return True

    def absolute(self) -> RemotePath:
        return self

    def expanduser(self) -> RemotePath:
        return self

    def resolve(self, strict: bool = False) -> RemotePath:
        return self

    @property
    def is_listed(self) -> bool:
        """True where keys can be listed and written; False over https."""
        return not self.parts[0].startswith("http")

    @property
    def key(self) -> str:
        return "/".join(self.parts[2:]) if self.is_listed else unquote("/".join(self.parts[2:]))

    @property
    def bucket(self) -> Any:
        """The store of obstore that holds the key."""
        settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith(SETTINGS)))
        return _connect(self.parts[0].rstrip(":"), self.parts[1], settings)

    def head(self) -> dict[str, Any]:
        """Length, time of last change and e_tag of an object; FileNotFoundError where there is none."""
        obstore = _obstore(self)
        with told(self):
            return dict(obstore.head(self.bucket, self.key))

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        facts = self.head()
        seconds = facts["last_modified"].timestamp()
        times = (int(seconds),) * 3 + (seconds,) * 3 + (int(seconds * 1e9),) * 3
        return os.stat_result((stat.S_IFREG | 0o600, 0, 0, 1, 0, 0, facts["size"], *times))

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        if not self.key:
            return False
        try:
            self.head()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """True where something lies below; over https, where a document of Zarr does."""
        if not self.is_listed:
            return any((self / name).is_file() for name in ZARR_DOCUMENTS)
        return next(self._pages(chunk_size=1), None) is not None

    def _pages(self, chunk_size: int = 1000) -> Iterator[Sequence[Any]]:
        """What lies below, at any depth, page by page."""
        if not self.is_listed:
            raise InputError(f"{self}: what lies below a web address cannot be listed; name a file or a Zarr store")
        obstore = _obstore(self)
        with told(self):
            yield from (page for page in obstore.list(self.bucket, self.key or None, chunk_size=chunk_size) if page)

    def _of_key(self, key: str) -> RemotePath:
        return RemotePath(self.parts[0], self.parts[1], key)

    def iterdir(self) -> Iterator[RemotePath]:  # type: ignore[override]
        if not self.is_listed:
            next(self._pages())
        obstore = _obstore(self)
        with told(self):
            found = obstore.list_with_delimiter(self.bucket, self.key or None)
        yield from map(self._of_key, (*found["common_prefixes"], *(entry["path"] for entry in found["objects"])))

    def glob(self, pattern: str, **options: Any) -> Iterator[RemotePath]:  # type: ignore[override]
        first, _, rest = pattern.partition("/")
        if first == "**":
            yield from self.rglob(rest)
            return
        for child in self.iterdir():
            if fnmatchcase(child.name, first):
                yield from child.glob(rest) if rest else (child,)

    def rglob(self, pattern: str, **options: Any) -> Iterator[RemotePath]:  # type: ignore[override]
        """Objects alone, no folders; the pattern is one of names."""
        for page in self._pages():
            found = (self._of_key(entry["path"]) for entry in page)
            yield from (path for path in found if fnmatchcase(path.name, pattern))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: folders are made by what lies in them."""

    def read_bytes(self) -> bytes:
        obstore = _obstore(self)
        with told(self):
            return bytes(obstore.get(self.bucket, self.key).bytes())

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def read_ranges(self, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Parts of an object, fetched side by side; neighbors in one request."""
        obstore = _obstore(self)
        with told(self):
            return [bytes(part) for part in obstore.get_ranges(self.bucket, self.key, starts=starts, lengths=lengths)]

    def open(self, mode: str = "r", *args: Any, **options: Any) -> Any:
        """A file to be read, with a read-ahead; to write one there is `staged`."""
        if set(mode) - set("rbt"):
            raise InputError(f"{self}: this is written to local files alone; give a local path")
        raw = io.BufferedReader(RemoteFile(self), READ_AHEAD)
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding=options.get("encoding") or "utf-8")

    def put_if(self, content: bytes, tag: str | None) -> str:
        """Put bytes where the object is still that of a tag, or (None) there is none; the new tag, or FileExistsError."""
        self._check_writable()
        obstore = _obstore(self)
        mode = "create" if tag is None else {"e_tag": tag}
        try:
            with told(self):
                return str(obstore.put(self.bucket, self.key, content, mode=mode)["e_tag"])
        except FileExistsError:
            if tag is None or tag == tag.strip('"') or self.head()["e_tag"] != tag:
                raise
            return self.put_if(content, tag.strip('"'))  # Ceph to 16 compares tags without their quotes

    def put(self, content: Any) -> None:
        """Put bytes, or a local file, here."""
        self._check_writable()
        obstore = _obstore(self)
        length = content.stat().st_size if isinstance(content, Path) else len(content)
        parts = {"use_multipart": length > 2 * PART_BYTES, "chunk_size": PART_BYTES, "max_concurrency": 4}
        with told(self):
            obstore.put(self.bucket, self.key, content, **parts)

    def _check_writable(self) -> None:
        if not self.is_listed:
            raise InputError(f"{self}: is read over the web, not written; give a local path or s3://, gs://, az://")

    def write_bytes(self, data: Any) -> int:
        self.put(data)
        return len(data)

    def write_text(
        self, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> int:
        return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        self.put(b"")

    def unlink(self, missing_ok: bool = False) -> None:
        obstore = _obstore(self)
        try:
            with told(self):
                obstore.delete(self.bucket, self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Remove what lies below."""
        obstore = _obstore(self)
        for page in self._pages():
            with told(self):
                obstore.delete(self.bucket, [entry["path"] for entry in page])


class RemoteFile(io.RawIOBase):
    """An object read from anywhere in it, by range requests."""

    def __init__(self, path: RemotePath) -> None:
        self.path, self.name = path, str(path)
        self._size: int = path.head()["size"]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        n = min(len(buffer), max(self._size - self._at, 0))
        if n:
            buffer[:n] = self.path.read_ranges([self._at], [n])[0]
            self._at += n
        return n


def as_file(path: Path) -> Any:
    """What a library reads that takes paths or open files: a local path as it is, an object opened."""
    return path.open("rb") if isinstance(path, RemotePath) else path


def _obstore(path: RemotePath) -> Any:
    """The library; refuses a URL where it is missing."""
    try:
        import obstore
    except ImportError:
        raise InputError(f"{path}: URLs need pip install 'tilekit[cloud]'; or copy it to a local path") from None
    return obstore


@lru_cache(maxsize=64)
def _connect(scheme: str, name: str, settings: tuple[tuple[str, str], ...]) -> Any:
    """The store of a bucket, as the environment tells it; AWS_*, GOOGLE_* and AZURE_* are read by obstore itself."""
    from obstore import exceptions, store

    known = dict(settings)
    insecure = any(known.get(f"{p}_ALLOW_HTTP", "").lower() in ("1", "true") for p in ("AWS", "GOOGLE", "AZURE"))
    client: dict[str, Any] = {"timeout": timedelta(seconds=REQUEST_SECONDS), "allow_http": insecure or scheme == "http"}
    if bundle := next((known[name] for name in CERTIFICATES if known.get(name)), None):
        client["root_certificate"] = _read_bundle(bundle)
    options: dict[str, Any] = {
        "client_options": client,
        "retry_config": {
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            "backoff": {"max_backoff": timedelta(seconds=LONGEST_PAUSE_SECONDS)},
        },
    }
    if scheme == "s3" and not any(known.get(name) for name in CREDENTIALS):
        raise InputError(
            f"s3://{name}: the environment has no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for a "
            "public bucket AWS_SKIP_SIGNATURE=true (docs/cloud.md)"
        )
    try:
        match scheme:
            case "s3":
                return store.S3Store(name, **options)
            case "gs":
                return store.GCSStore(name, **options)
            case "az":
                return store.AzureStore(name, **options)
        return store.HTTPStore(f"{scheme}://{name}", **options)
    except (exceptions.BaseError, ValueError, OSError) as error:
        raise InputError(f"{scheme}://{name}: cannot be used ({_first_line(error)}); see docs/cloud.md") from None


def _read_bundle(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the certificate bundle cannot be read ({error.strerror}); correct it") from None


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Failures of obstore as those of files: not found, not permitted, exists, else OSError with EIO."""
    if not isinstance(path, RemotePath):
        yield
        return
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise _no_bucket(path) from None
        raise FileNotFoundError(errno.ENOENT, "there is no such object", str(path)) from None
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise FileExistsError(errno.EEXIST, "the object is another one", str(path)) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        raise PermissionError(
            errno.EACCES, "the server refuses these credentials; correct those in the environment", str(path)
        ) from None
    except exceptions.BaseError as error:
        if "NoSuchBucket" in str(error):
            raise _no_bucket(path) from None
        raise OSError(errno.EIO, _first_line(error), str(path)) from None


def _no_bucket(path: RemotePath) -> InputError:
    return InputError(f"{path}: there is no bucket {path.parts[1]}; create it, or correct the URL")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300] or type(error).__name__


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, where it is there."""
    if isinstance(path, RemotePath):
        path.remove_tree()
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A local file to write, which becomes `path` at the end, whole or not at all; none where it was not made."""
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="tilekit-") as folder:
            local = Path(folder, path.name)
            yield local
            if local.exists():
                path.put(local)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        yield partial
        if partial.exists():
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


_fetching = threading.Lock()


@lru_cache(maxsize=1)
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tilekit-")


def fetched(path: Path, limit: int | None = None) -> Path:
    """A local file of the same content: the path itself, or a copy of an object, made once a process."""
    if not isinstance(path, RemotePath):
        return path
    facts = path.head()
    if limit is not None and facts["size"] > limit:
        raise InputError(
            f"{path}: has {facts['size'] / 1e9:.3g} GB and cannot be read in parts, at most {limit / 1e9:.3g} GB are "
            "copied; copy it to a local path, or convert it to TIFF or Zarr"
        )
    version = f"{hash((str(path), facts['e_tag'], facts['last_modified'])) % sys.maxsize:x}"
    with _fetching:
        copy = Path(_scratch().name, version, path.name)
        if not copy.exists():
            _download(path, copy)
    return copy


def _download(path: RemotePath, copy: Path) -> None:
    obstore = _obstore(path)
    copy.parent.mkdir(parents=True, exist_ok=True)
    partial = copy.with_name("partial")
    with told(path), partial.open("wb") as file:
        for chunk in obstore.get(path.bucket, path.key).stream(min_chunk_size=PART_BYTES):
            file.write(chunk)
    partial.replace(copy)
