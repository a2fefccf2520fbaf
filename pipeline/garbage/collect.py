"""`ich gc`: removes what a plan says, or only shows it."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.imaging.errors import UsageError
from pipeline.garbage.plan import Item, Plan, make_plan, refuse_others
from pipeline.garbage.records import mark_deleted
from pipeline.local_runner import Folders
from pipeline.lock import holder, locked
from pipeline.status import mib

HOLDER = "ich gc"
"""What the lock says while this is at work."""


@dataclass(frozen=True)
class Collected:
    """What a collection did, or would do.

    Attributes:
        plan: What was to be removed.
        dry_run: Nothing was touched.
        failed: Why something is still there, by its path.
    """

    plan: Plan
    dry_run: bool
    failed: dict[Path, str]

    @property
    def freed(self) -> int:
        """Bytes of what is gone, or would be."""
        return sum(item.bytes for item in self.plan.items if item.path not in self.failed)

    def to_json(self) -> dict[str, Any]:
        """Everything, every path too."""
        plan = self.plan
        return {
            "output": str(plan.output),
            "dry_run": self.dry_run,
            "kept": plan.kept,
            "blessed": plan.waiting,
            "removed": [
                {"path": str(item.path.relative_to(plan.output)), "kind": item.kind, "bytes": item.bytes}
                for item in plan.items
                if item.path not in self.failed
            ],
            "failed": {str(path): reason for path, reason in self.failed.items()},
            "freed": self.freed,
            "total": plan.total,
        }


def collect(output: Path, keep: int, *, dry_run: bool = False) -> Collected:
    """Removes what nothing needs.

    TFX's store is told first, so that whenever this is killed nothing is reused of which a part is gone; the next
    collection removes the rest.

    Args:
        output: The output folder of runs.
        keep: How many of the newest runs stay.
        dry_run: Only find out; nothing is written.

    Raises:
        UsageError: A run is under way, or it is no folder that a run wrote to.
        IchError: TFX's store cannot be read or written; nothing was removed.
    """
    refuse_others(output)
    if dry_run:
        if running := holder(output):
            raise UsageError(f"{output}: a run ({running}) is under way there; wait for it")
        return Collected(make_plan(output, keep), True, {})
    if not os.access(output, os.W_OK):
        raise UsageError(f"{output}: cannot write there; run this as the user whose runs they are, or with --dry-run")
    with locked(output, HOLDER):
        plan = make_plan(output, keep)
        mark_deleted(Folders(output).metadata, plan.dead)
        failed = {item.path: reason for item in plan.items if (reason := _remove(item.path))}
    return Collected(plan, False, failed)


def _remove(path: Path) -> str:
    """Removes a file, or as much of a folder as can be removed; returns why something is left, if it is."""
    reasons: list[str] = []

    def note(_: Callable[..., Any], place: str, problem: Any) -> None:
        error = problem[1]
        if not isinstance(error, FileNotFoundError):
            reasons.append(f"{place}: {error.strerror or error}")

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=note)
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            note(path.unlink, str(path), (OSError, error, None))
    return reasons[0] if reasons else ""


def print_collected(done: Collected) -> None:
    """Shows what stays, what goes and how much room that is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    for run, reason in done.plan.kept.items():
        console.print(f"kept: run {run}, {reason}")
    for place in done.plan.waiting:
        console.print(f"kept: model artifacts/{place}, blessed and not in service")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("would be removed" if done.dry_run else "removed")
    table.add_column("number", justify="right")
    table.add_column("size", justify="right")
    gone = [item for item in done.plan.items if item.path not in done.failed]
    numbers = Counter(_what(item) for item in gone)
    for what, number in numbers.items():
        table.add_row(what, str(number), mib(sum(item.bytes for item in gone if _what(item) == what)))
    if numbers:
        console.print(table)
    for reason in done.failed.values():
        console.print(f"cannot be removed: {reason}")
    verb = "would free" if done.dry_run else "freed"
    console.print(f"{verb} {mib(done.freed)} of {mib(done.plan.total)} in {done.plan.output}")


def _what(item: Item) -> str:
    return f"{item.kind} of {item.stage}" if item.stage else item.kind


def as_json(done: Collected) -> str:
    """One line."""
    return json.dumps(done.to_json())
