"""What the tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from tests.buckets import Bucket, Server, google_server, s3_server

# Before TensorFlow is imported anywhere: tests read their own output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_unconfigure() -> None:
    """Keeps the interpreter's last collection from graphs that an in-process Transform leaves: it crashes on them."""
    gc.freeze()


@pytest.fixture(scope="session")
def s3() -> Iterator[Server]:
    """A server with the API of S3."""
    with s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def google() -> Iterator[str]:
    """The address of an emulator of Google Cloud Storage."""
    with google_server() as url:
        yield url


@pytest.fixture
def s3_bucket(s3: Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket on it, which the code under test finds by the environment."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3.bucket()


@pytest.fixture
def bucket(s3_bucket: Bucket) -> Bucket:
    """The one of whoever does not care what kind it is."""
    return s3_bucket
