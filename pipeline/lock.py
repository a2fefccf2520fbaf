"""One run at a time in an output folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from components.imaging.errors import UsageError

FILE_NAME = ".lock"

LOOK_SECONDS = 1.0
"""How long others may hold the lock who only look whether a run is under way."""


@contextlib.contextmanager
def locked(root: Path, run: str) -> Iterator[None]:
    """Keeps other runs out; the system lets go of the lock when the process ends, however it ends.

    Args:
        root: The output folder.
        run: Name of the run, for others to read.

    Raises:
        UsageError: A run is under way.
    """
    with (root / FILE_NAME).open("a+") as file:
        if not _taken(file):
            other = holder(root) or "another one"
            raise UsageError(
                f"{root}: a run ({other}) is under way there; wait for it, or choose another --output"
            ) from None
        file.truncate(0)
        file.write(run)
        file.flush()
        os.fsync(file.fileno())
        yield
        file.truncate(0)


def _taken(file: IO[str]) -> bool:
    """Takes the lock, if nobody has it who keeps it."""
    given_up = time.monotonic() + LOOK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > given_up:
                return False
            time.sleep(0.02)
        else:
            return True


def holder(root: Path) -> str | None:
    """The run that is under way in an output folder, if one is."""
    try:
        with (root / FILE_NAME).open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read() or None
    except OSError:  # no run ever was, or the folder may not be read
        return None
    return None
