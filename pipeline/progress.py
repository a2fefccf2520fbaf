"""A progress bar with remaining time on a terminal; now and then a plain line in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from pipeline.console import stream

LINE_EVERY_S = 30.0
"""Between the lines in a log."""


@contextlib.contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function that takes what is done and what there is in all.

    Lines in a log go to standard error, so that what a machine reads stays whole.

    Args:
        unit: What is counted.
    """
    if not stream().isatty():
        yield _lines(unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=stream())
    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(unit, total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield advance


def _lines(unit: str) -> Callable[[int, int], None]:
    began = last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_EVERY_S and done < total:
            last = now
            left = f", about {(now - began) / done * (total - done) / 60:.0f} min left" if done else ""
            print(f"{unit}: {done} of {total}{left}", file=sys.stderr, flush=True)

    return advance
