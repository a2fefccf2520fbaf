"""What stops a run though nothing is wrong with it: a full disk, a read-only folder, a locked database."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from pathlib import Path

from components.imaging.errors import IchError
from pipeline.console import say

PATIENCE_SECONDS = 60.0
"""How long another program, a backup say, may keep the metadata store locked before a run gives up."""

_FULL = ("No space left on device", "Disk quota exceeded", "database or disk is full")
_NEARLY_FULL = 4 << 20
"""With less room than this, a transaction that SQLite lost was lost for want of it: its words do not say so."""
_LOST = "cannot commit - no transaction is active"
_READ_ONLY = ("Read-only file system", "attempt to write a readonly database")
_LOCKED = ("Concurrent writes aborted", "database is locked")

_AGAIN = "then run the same command again, which goes on where this run stopped"


def obstacle(error: BaseException, root: Path) -> IchError | None:
    """What to tell of an error whose reason is the machine; None of any other.

    Python, TensorFlow, Beam and SQLite each have a type of their own for it, but the system's words in common.

    Args:
        error: What was raised; what it was raised from counts too.
        root: The output folder.
    """
    told, seen = "", 0
    current: BaseException | None = error
    while current is not None and seen < 20:
        told, seen = f"{told}\n{current}", seen + 1
        current = current.__cause__ or current.__context__
    free = None
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(root).free
    lost = _LOST in told and free is not None and free < _NEARLY_FULL
    if lost or any(words in told for words in _FULL):
        room = "" if free is None else f" ({free / 2**20:.1f} MiB free)"
        return IchError(f"{root}: no space left on the device{room}; make room, {_AGAIN}")
    if any(words in told for words in _READ_ONLY):
        return IchError(f"{root}: part of it has become read-only ({_line(told, _READ_ONLY)}); mend that, {_AGAIN}")
    if any(words in told for words in _LOCKED):
        return _locked(root / "metadata.sqlite")
    return None


def _line(told: str, words: tuple[str, ...]) -> str:
    """The line that says so."""
    return next(line.strip() for line in told.splitlines() if any(word in line for word in words))[:300]


def wait_for_metadata(database: Path) -> None:
    """Waits until no other program keeps the metadata store locked, and says so; TFX would wait minutes in silence.

    Not while this process has it open: closing a file gives up every lock that a process has on it.

    Raises:
        IchError: It is locked for too long.
    """
    if not database.exists():
        return
    given_up, told = time.monotonic() + PATIENCE_SECONDS, False
    while _is_locked(database):
        if time.monotonic() > given_up:
            raise _locked(database)
        if not told:
            say(f"  {database.name} is locked by another program; waiting up to {PATIENCE_SECONDS:g} s")
            told = True
        time.sleep(0.2)


def _is_locked(database: Path) -> bool:
    with contextlib.closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            return "locked" in str(error)  # all else is said better where the store is used
        except sqlite3.DatabaseError:
            return False
    return False


def _locked(database: Path) -> IchError:
    return IchError(f"{database}: another program keeps it locked; end that program, {_AGAIN}")
