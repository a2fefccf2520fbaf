"""What the machine is the reason of, in whatever words it comes, and whose fault something else is."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from pipeline.obstacles import obstacle

FULL = OSError(errno.ENOSPC, "No space left on device", "a/b")


def wrapped(error: Exception) -> Exception:
    """As Beam does it."""
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("while running 'Write'") from inner
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (FULL, "no space left on the device ("),
        (wrapped(FULL), "no space left on the device ("),
        (shutil.Error([("a", "b", str(FULL))]), "no space left on the device ("),
        (RuntimeError("INTERNAL: database or disk is full"), "no space left on the device ("),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), "part of it has become read-only ([Errno 30] Read-only"),
        (
            RuntimeError("Cannot create nodeConcurrent writes aborted after"),
            "metadata.sqlite: another program keeps it",
        ),
    ],
)
def test_it_says_what_to_do(error: Exception, wanted: str, tmp_path: Path) -> None:
    found = obstacle(error, tmp_path)
    assert found is not None and found.exit_code == 1
    assert str(found).startswith(str(tmp_path)) and wanted in str(found)
    assert "then run the same command again" in str(found) and "\n" not in str(found)


def test_all_else_is_none(tmp_path: Path) -> None:
    for error in (ValueError("x"), wrapped(KeyError("y")), PermissionError(errno.EACCES, "Permission denied", "a")):
        assert obstacle(error, tmp_path) is None
