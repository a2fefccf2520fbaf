"""What the user sees: our own lines go to the terminal, everything third parties print goes to a log file."""

from __future__ import annotations

import contextlib
import os
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
        verbose: Leave everything on the terminal instead.
    """
    global _terminal
    if verbose or _terminal is not None:
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


def _flush(descriptor: int, file: TextIO) -> None:
    """Writes what waits; where the log's disk is full it is dropped, for else it would come out on the terminal."""
    try:
        file.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
        file.flush()
