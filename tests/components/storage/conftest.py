"""Buckets of each kind."""

from __future__ import annotations

import pytest

from tests.buckets import Bucket, GoogleBucket, google_bucket


@pytest.fixture
def gs_bucket(google: str, monkeypatch: pytest.MonkeyPatch) -> GoogleBucket:
    """An empty bucket on it, which the code under test finds by the environment."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google)
    return google_bucket(google)


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Bucket | GoogleBucket:
    """One of each in turn."""
    found: Bucket | GoogleBucket = request.getfixturevalue(f"{request.param}_bucket")
    return found
