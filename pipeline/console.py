"""What the user sees: our own lines go to the terminal, everything third parties print goes to a log file."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

_terminal: TextIO | None = None


def stream() -> TextIO:
    """The user's terminal (or whatever standard output was), also while output is being captured."""
    return _terminal if _terminal is not None else sys.stdout


def say(line: str = "") -> None:
    """Prints one line to the user."""
    print(line, file=stream(), flush=True)


@contextlib.contextmanager
def captured(log: Path, *, verbose: bool = False) -> Iterator[None]:
    """Sends file descriptors 1 and 2 to `log` for a while: Python, C++ and child processes alike.

    Args:
        log: File to append to; its folder is made.
        verbose: To the terminal as well.
    """
    global _terminal
    if _terminal is not None or (verbose and log == Path(os.devnull)):
        yield
        return
    if verbose:
        with _doubled(log):
            yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    saved = os.dup(1), os.dup(2)
    _terminal = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8", errors="replace")
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    try:
        yield
    finally:
        for descriptor, file in ((1, sys.stdout), (2, sys.stderr)):
            _flush(descriptor, file)
        _terminal.close()
        _terminal = None
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)


@contextlib.contextmanager
def _doubled(log: Path) -> Iterator[None]:
    """Sends file descriptors 1 and 2 where they go anyway, and to `log`.

    By `tee`, a process of its own: a thread would wait for the lock that a library may hold while it prints.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.open("ab").close()  # an error here is ours, one of tee's would be lost
    saved = os.dup(1), os.dup(2)
    tees = []
    for descriptor, copy, file in zip((1, 2), saved, (sys.stdout, sys.stderr), strict=True):
        file.flush()
        tee = subprocess.Popen(["tee", "-i", "-a", str(log)], stdin=subprocess.PIPE, stdout=copy)
        assert tee.stdin is not None
        os.dup2(tee.stdin.fileno(), descriptor)
        tee.stdin.close()
        tees.append(tee)
    try:
        yield
    finally:
        for descriptor, copy, file, tee in zip((1, 2), saved, (sys.stdout, sys.stderr), tees, strict=True):
            _flush(descriptor, file)
            os.dup2(copy, descriptor)
            os.close(copy)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a child that still runs may print later
                tee.wait(5)


def _flush(descriptor: int, file: TextIO) -> None:
    """Writes what waits; where the log's disk is full it is dropped, for else it would come out on the terminal."""
    try:
        file.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
        file.flush()
