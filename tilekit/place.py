"""Places by URL, used as paths are.

`as_path(text)` is a `pathlib.Path` for what lies on a disk, and a `RemotePath` for s3://BUCKET/KEY, gs://BUCKET/KEY,
az://CONTAINER/KEY and https://HOST/PATH (read only). What is written appears whole or not at all. How servers are asked
says `tilekit.bucket`.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from tilekit.bucket import connect, import_obstore, patient
from tilekit.errors import InputError

SCHEMES = ("s3", "gs", "az", "https", "http")
PART_BYTES = 16 << 20
"""What is longer than two of these goes up in parts, so that each fits the time of a request on a slow line."""
READ_AHEAD = 1 << 18
SIGNED = re.compile(r"[?&](sig|signature|x-(amz|goog)-[-\w]+|awsaccesskeyid|(access_?)?token)=", re.IGNORECASE)
"""In a key, which may well hold a question mark: the query of a URL that was signed for somebody."""
NAME_BYTES = 255
"""Of a file or folder, on the disks of Linux."""
PAGE = 1000
"""Objects of a listing that a server tells at once."""
ZARR_DOCUMENTS = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


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
    return as_url(text) if is_url(text) else _as_local(text)


def _as_local(text: str) -> Path:
    """A path that a disk may have; InputError for a name that none takes."""
    try:
        longest = max(len(os.fsencode(part)) for part in text.split("/"))
        path = Path(text).expanduser()
    except (ValueError, RuntimeError):  # no text of UTF-8; a home that nobody has
        longest, path = NAME_BYTES + 1, Path()
    if longest > NAME_BYTES or "\0" in text:
        raise InputError(f"{text:.80}: is no name that a disk takes; correct it")
    return path


def as_url(text: str) -> RemotePath:
    """The place that a URL names; InputError where it cannot be one."""
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
        raise InputError(f"{scheme}://...: is no URL that can be used; give one of s3, gs, az, https, or a local path")
    try:
        url = urlsplit(text)
    except ValueError:
        raise InputError(f"{scheme}://...: is no URL; correct it") from None
    is_web = scheme.startswith("http")
    if "@" in url.netloc or (is_web and (url.query or url.fragment)) or (not is_web and SIGNED.search(rest)):
        raise InputError(
            f"{scheme}://{url.hostname or ''}/...: a URL with a user, a query or a signature would be kept in the "
            "output; leave that away, and give credentials in the environment"
        )
    if not url.netloc or ".." in rest.split("/"):
        raise InputError(f"{text}: names no {'host' if scheme.startswith('http') else 'bucket'} and path; correct it")
    return RemotePath(f"{scheme}:", *rest.split("/"))


def beside(folder: Path, text: str) -> Path:
    """What a text in a file of this folder names: a URL as it is, a path from the folder on."""
    return as_url(text) if is_url(text) else folder / _as_local(text)


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
        return connect(self.parts[0].rstrip(":"), self.parts[1])

    @property
    def below(self) -> Any:
        """The store of obstore that holds what lies below, and knows of nothing else."""
        return connect(self.parts[0].rstrip(":"), self.parts[1], "/".join(self.parts[2:]))

    @patient
    def _ask(self, /, verb: str, *arguments: Any, keys: Sequence[str] | None = None, **options: Any) -> Any:
        """What a function of obstore answers about the key, or these keys of the bucket."""
        ask = getattr(import_obstore(self), verb)
        return ask(self.bucket, self.key if keys is None else keys, *arguments, **options)

    def head(self) -> dict[str, Any]:
        """Length, time of last change and e_tag of an object; FileNotFoundError where there is none."""
        return dict(self._ask("head"))

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
        return len(self._page(1)) > 0

    def _pages(self) -> Iterator[Sequence[Any]]:
        """What lies below, at any depth, page by page."""
        page = self._page(PAGE)
        while page:
            yield page
            page = self._page(PAGE, page[-1]["path"]) if len(page) == PAGE else []

    @patient
    def _page(self, n: int, after: str | None = None, /) -> Sequence[Any]:
        """The first n objects that lie below, after one of them."""
        self._check_listed()
        found = import_obstore(self).list(self.bucket, self.key or None, offset=after, chunk_size=n)
        return next(iter(found), [])

    def _check_listed(self) -> None:
        if not self.is_listed:
            raise InputError(f"{self}: what lies below a web address cannot be listed; name a file or a Zarr store")

    def _of_key(self, key: str) -> RemotePath:
        return RemotePath(self.parts[0], self.parts[1], key)

    def iterdir(self) -> Iterator[RemotePath]:  # type: ignore[override]
        self._check_listed()
        found = self._ask("list_with_delimiter")
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

    @patient
    def read_bytes(self, /) -> bytes:
        return bytes(import_obstore(self).get(self.bucket, self.key).bytes())

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def read_ranges(self, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Parts of an object, fetched side by side; neighbors in one request."""
        return [bytes(part) for part in self._ask("get_ranges", starts=starts, lengths=lengths)]

    def open(self, mode: str = "r", *args: Any, **options: Any) -> Any:
        """A file to be read, with a read-ahead; to write one there is `staged`."""
        if set(mode) - set("rbt"):
            raise InputError(f"{self}: this is written to local files alone; give a local path")
        raw = io.BufferedReader(RemoteFile(self), READ_AHEAD)
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding=options.get("encoding") or "utf-8")

    def put_if(self, content: bytes, tag: str | None) -> str:
        """Put bytes where the object has this tag, or (None) there is none; the new tag. Else FileExistsError."""
        self.check_writable()
        try:
            return str(self._ask("put", content, mode="create" if tag is None else {"e_tag": tag})["e_tag"])
        except FileExistsError:
            if tag is None or tag == tag.strip('"') or self.head()["e_tag"] != tag:
                raise
            return self.put_if(content, tag.strip('"'))  # Ceph to 16 compares tags without their quotes

    def put(self, content: Any) -> None:
        """Put bytes, or a local file, here."""
        self.check_writable()
        length = content.stat().st_size if isinstance(content, Path) else len(content)
        is_long = length > 2 * PART_BYTES
        self._ask("put", content, use_multipart=is_long, chunk_size=PART_BYTES, max_concurrency=4)

    def check_writable(self) -> None:
        """Refuse what is read alone."""
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
        try:
            self._ask("delete")
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Remove what lies below."""
        for page in self._pages():
            self._ask("delete", keys=[entry["path"] for entry in page])


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
