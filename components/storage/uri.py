"""What tells a URI from a folder, and where this machine keeps what belongs to one. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

BUCKETS = ("s3://", "gs://", "minio://")
"""How a URI of a bucket begins."""

CACHE_VARIABLE = "ICH_CACHE"
"""Names the folder for copies of what lies in buckets."""


def is_remote(path: str | Path) -> bool:
    """Whether a place is a URI, and not a folder of this machine."""
    return "://" in str(path)


def is_bucket(path: str | Path) -> bool:
    """Whether a place lies in a bucket."""
    return str(path).startswith(BUCKETS)


def meant_as_uri(path: Path) -> str | None:
    """The bucket's URI that went through `pathlib`, which drops a slash of it; None for a folder."""
    scheme, colon, rest = str(path).partition(":/")
    return f"{scheme}://{rest}" if colon and f"{scheme}://" in BUCKETS else None


def cache_folder() -> Path:
    """The folder for copies of what lies in buckets: `ICH_CACHE`, else `ich` in the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ich"
