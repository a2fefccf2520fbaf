"""What a user sees of a training: one line an epoch, and a live bar on a terminal."""

from __future__ import annotations

import time
from typing import Protocol, TextIO

from pipeline.console import stream

REDRAW_SECONDS = 0.2


class Progress(Protocol):
    """Where a training reports to."""

    def say(self, line: str) -> None:
        """Shows a line for good."""

    def step(self, task: str, done: int, total: int, note: str = "") -> None:
        """Shows how far the current task is; often overwritten."""


class Silent:
    """Shows nothing."""

    def say(self, line: str) -> None:
        """Drops the line."""

    def step(self, task: str, done: int, total: int, note: str = "") -> None:
        """Drops it."""


class Titled:
    """Puts a title before all that is reported."""

    def __init__(self, inner: Progress, title: str) -> None:
        """Takes where to report and what to put before it."""
        self._inner = inner
        self._title = title

    def say(self, line: str) -> None:
        """Passes the line on."""
        self._inner.say(f"{self._title}  {line}")

    def step(self, task: str, done: int, total: int, note: str = "") -> None:
        """Passes the task on."""
        self._inner.step(f"{self._title}  {task}", done, total, note)


class Terminal:
    """Lines and a bar on the user's terminal; without a terminal, lines alone."""

    def __init__(self, out: TextIO | None = None) -> None:
        """Takes the stream to write to; by default the user's, also while output is being captured."""
        self._out = out or stream()
        self._live = self._out.isatty()
        self._drawn = 0.0

    def say(self, line: str) -> None:
        """Clears the bar and prints the line."""
        clear = "\r\x1b[K" if self._live else ""
        print(f"{clear}    {line}", file=self._out, flush=True)

    def step(self, task: str, done: int, total: int, note: str = "") -> None:
        """Redraws the bar, at most a few times a second."""
        now = time.monotonic()
        if not self._live or (now - self._drawn < REDRAW_SECONDS and done < total):
            return
        self._drawn = now
        filled = round(24 * done / max(total, 1))
        bar = "━" * filled + "╺" * (24 - filled)
        print(f"\r\x1b[K    {task} {bar} {done}/{total} {note}", end="", file=self._out, flush=True)
