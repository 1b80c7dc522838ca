"""DOOR obstore: buckets as the environment tells of them, and what their servers answer.

Credentials, endpoint and certificates come from the environment alone, and are in no text that leaves this module.
Every request is repeated, after growing pauses, while its server is away or says 5xx.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from tilekit.errors import InputError

REQUEST_SECONDS = 120
"""For one request with its body, after which it is tried again."""
RETRY_SECONDS = 60
"""How long a request is tried again; obstore's advice is to stay below 5 minutes, the life of a signature."""
RETRIES, LONGEST_PAUSE_SECONDS = 1000, 5
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
P = ParamSpec("P")
R = TypeVar("R")
Place = TypeVar("Place", bound=Path)
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


def import_obstore(path: object) -> Any:
    """The library; refuses a URL where it is missing."""
    try:
        import obstore
    except ImportError:
        raise InputError(f"{path}: URLs need pip install 'tilekit[cloud]'; or copy it to a local path") from None
    return obstore


def connect(scheme: str, name: str, prefix: str | None = None) -> Any:
    """The store of a bucket (container, host), or of what lies below a prefix; kept while the environment stays."""
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith(SETTINGS)))
    return _connect(scheme, name, prefix, settings)


@lru_cache(maxsize=64)
def _connect(scheme: str, name: str, prefix: str | None, settings: tuple[tuple[str, str], ...]) -> Any:
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
                return store.S3Store(name, prefix=prefix, **options)
            case "gs":
                return store.GCSStore(name, prefix=prefix, **options)
            case "az":
                if account := known.get(
                    "AZURE_STORAGE_ACCOUNT_NAME"
                ):  # which obstore finds, but panics when it is shown
                    options["account_name"] = account
                return store.AzureStore(name, prefix=prefix, **options)
        return store.HTTPStore(f"{scheme}://{name}/{prefix or ''}", **options)
    except (exceptions.BaseError, ValueError, OSError) as error:
        raise InputError(f"{scheme}://{name}: cannot be used ({_first_line(error)}); see docs/cloud.md") from None


def _read_bundle(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the certificate bundle cannot be read ({error.strerror}); correct it") from None


def patient(function: Callable[Concatenate[Place, P], R]) -> Callable[Concatenate[Place, P], R]:
    """The same function of a path, asked again where a request failed that obstore itself asks only once.

    Those are deletions and the last word of an upload in parts, which here may be said twice.
    """

    @wraps(function)
    def ask(path: Place, /, *arguments: P.args, **options: P.kwargs) -> R:
        if "://" not in str(path):
            return function(path, *arguments, **options)
        started = time.monotonic()
        for pause in PAUSES:
            try:
                with told(path):
                    return function(path, *arguments, **options)
            except OSError as error:
                if error.errno != errno.EIO or time.monotonic() - started > RETRY_SECONDS:
                    raise
            time.sleep(pause)
        with told(path):
            return function(path, *arguments, **options)

    return ask


@contextmanager
def told(path: object) -> Iterator[None]:
    """Failures of obstore as those of files: not found, not permitted, exists, else OSError with EIO."""
    if "://" not in str(path):
        yield
        return
    exceptions = import_obstore(path).exceptions

    try:
        yield
    except FileNotFoundError as error:
        if any(said in str(error) for said in NO_BUCKET):
            raise _no_bucket(path) from None
        raise FileNotFoundError(errno.ENOENT, "there is no such object", str(path)) from None
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise FileExistsError(errno.EEXIST, "the object is another one", str(path)) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        raise _not_permitted(path) from None
    except exceptions.BaseError as error:
        if any(said in str(error) for said in NO_BUCKET):
            raise _no_bucket(path) from None
        if " 403 Forbidden" in str(error) or " 401 Unauthorized" in str(error):  # of a listing
            raise _not_permitted(path) from None
        raise OSError(errno.EIO, _first_line(error), str(path)) from None


def _not_permitted(path: object) -> PermissionError:
    said = "the server refuses these credentials; correct those in the environment"
    return PermissionError(errno.EACCES, said, str(path))


def _no_bucket(path: object) -> InputError:
    return InputError(f"{path}: there is no such bucket; create it, or correct the URL")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300] or type(error).__name__
