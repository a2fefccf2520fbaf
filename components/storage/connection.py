"""Connections to buckets, and what their errors mean to whoever has to mend it."""

from __future__ import annotations

import datetime
import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs
from tfx.dsl.io.filesystem import NotFoundError

from components.imaging.errors import IchError, UsageError
from components.storage.uri import BUCKETS, is_bucket

MINIO = "http://minio-service.kubeflow:9000"
"""Where `minio://` is found if nothing says otherwise: as Kubeflow's own launcher has it."""

_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "minio": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "gs": ("STORAGE_EMULATOR_HOST",),
}
_CONNECT_SECONDS = 5.0
_RETRY_SECONDS = 20


class BucketError(IchError):
    """A bucket that is not there, or not for whoever asks: for the user to mend, and no reason to go on without it."""

    exit_code = 2


_ABSENT = {"NO_SUCH_KEY", "RESOURCE_NOT_FOUND", "NOT_FOUND"}
_DENIED = {
    "ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN_ID", "EXPIRED_TOKEN",
    "MISSING_AUTHENTICATION_TOKEN", "INVALID_SIGNATURE", "UNRECOGNIZED_CLIENT", "PERMISSION_DENIED", "UNAUTHENTICATED",
}  # fmt: skip
_UNREACHABLE = {"NETWORK_CONNECTION", "REQUEST_TIMEOUT", "SERVICE_UNAVAILABLE", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
_ELSEWHERE = {"PERMANENT_REDIRECT", "AUTHORIZATION_HEADER_MALFORMED"}
_CODE = re.compile(r"AWS Error (?P<aws>\w+)(?: \[code \d+\])?(?: during (?P<operation>\w+) operation)?"
                   r"|google::cloud::Status\((?P<google>\w+)")  # fmt: skip

_NO_FOLDER = re.compile("No such (file or )?directory|Cannot use file .* as a directory")
"""What Arrow itself says of Google's buckets, without a code."""


def locate(uri: str | bytes) -> tuple[fs.FileSystem, str]:
    """The connection for a URI, and the path that it knows the URI's content by: bucket and key.

    Raises:
        UsageError: It is no URI of a bucket, or a variable that says where buckets are cannot be used.
    """
    text = os.fsdecode(uri)
    if not is_bucket(text):
        raise UsageError(f"{text}: found another kind of place, wanted one that begins with {', '.join(BUCKETS)}")
    scheme, _, rest = text.partition("://")
    path = re.sub("/+", "/", rest).strip("/")
    if not path:
        raise UsageError(f"{text}: names no bucket, wanted {scheme}://BUCKET/FOLDER")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return connect(scheme, endpoint(scheme), region, os.getpid()), path


def endpoint(scheme: str) -> str | None:
    """The address at which buckets of a scheme are looked for; None for that of Amazon or Google.

    Raises:
        UsageError: The variable that names it holds no address.
    """
    for variable in _ENDPOINTS[scheme]:
        if found := os.environ.get(variable):
            url = found if "://" in found else f"http://{found}"
            parts = urlsplit(url)
            if parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/") and "@" not in url:
                return url.rstrip("/")
            shown = "an address with a user name" if "@" in url else found
            raise UsageError(f"{variable}: found {shown}, wanted http://HOST:PORT or https://HOST:PORT")
    return MINIO if scheme == "minio" else None


@functools.cache
def connect(scheme: str, address: str | None, region: str | None, process: int) -> fs.FileSystem:
    """Opens a connection, once a process: one that came over a fork is not used.

    Args:
        scheme: `s3`, `minio` or `gs`.
        address: As `endpoint` has it.
        region: For S3; default: what the SDK finds.
        process: Whose it is.
    """
    parts = urlsplit(address or "")
    server = {"scheme": parts.scheme, "endpoint_override": parts.netloc} if address else {}
    if scheme == "gs":
        patience = datetime.timedelta(seconds=_RETRY_SECONDS)  # else a quarter of an hour
        return fs.GcsFileSystem(anonymous=bool(address), retry_time_limit=patience, **server)
    if address:
        region = region or "us-east-1"  # else the SDK asks the machine's cloud for it
    return fs.S3FileSystem(region=region, connect_timeout=_CONNECT_SECONDS, **server)


@contextmanager
def explained(uri: str | bytes) -> Iterator[None]:
    """Turns what goes wrong with a bucket into what TFX's callers expect, or what a user can mend.

    Raises:
        NotFoundError: There is nothing of that name.
        BucketError: There is no such bucket, or no access.
        UsageError: The URI cannot be used.
        IchError: The bucket cannot be reached, or answers with another error.
    """
    try:
        yield
    except NotFoundError:
        raise
    except FileNotFoundError as error:
        raise absent(uri) from error
    except OSError as error:
        if error.errno is not None and not _CODE.search(str(error)):
            raise  # of this machine's disk
        raise _explanation(os.fsdecode(uri), str(error)) from error
    except pa.ArrowInvalid as error:
        raise UsageError(f"{os.fsdecode(uri)}: cannot be used as a URI ({error}); rename what it names") from error


def absent(uri: str | bytes) -> NotFoundError:
    """The error for a name that nothing has."""
    return NotFoundError(f"{os.fsdecode(uri)}: found no such object, nor a folder of that name")


def _explanation(uri: str, text: str) -> Exception:
    """The error for a text of the SDK, which itself is not repeated: it is long, and might hold more than it should."""
    match = _CODE.search(text)
    code = (match["aws"] or match["google"]) if match else ""
    during = f" during {match['operation']}" if match and match["operation"] else ""
    scheme = uri.partition("://")[0]
    variables = " or ".join(_ENDPOINTS[scheme])
    where = endpoint(scheme) or {"s3": "Amazon S3", "gs": "Google Cloud Storage"}[scheme]
    found = f"{uri}: found {code or 'an error without a code'}{during} at {where}"
    if code == "NO_SUCH_BUCKET" or (code in _ABSENT and "bucket does not exist" in text):
        return BucketError(f"{found}, wanted a bucket that is there; make it, mend the URI or {variables}")
    if code in _ABSENT or _NO_FOLDER.match(text):
        return absent(uri)
    if code in _DENIED:
        keys = {
            "gs": "GOOGLE_APPLICATION_CREDENTIALS to a key file, or give the machine a service account",
        }.get(scheme, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, if it has one)")
        return BucketError(
            f"{found}, wanted credentials that may read and write there; set {keys}; on Kubeflow by kubeflow.secrets"
        )
    if code in _ELSEWHERE:
        return BucketError(f"{found}, wanted the region of the bucket; set AWS_REGION to it")
    if code in _UNREACHABLE or "curlCode" in text:
        return IchError(f"{found}, wanted a server that answers; mend the network, or {variables}")
    return IchError(f"{found}, wanted an answer; try again, and look into the server's log if it stays")
