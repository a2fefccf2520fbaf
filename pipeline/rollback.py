"""Puts an earlier version back in service, as a new one: whoever goes by the highest number follows by himself."""

from __future__ import annotations

import datetime
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.imaging.errors import UsageError
from components.pusher.card import to_markdown
from components.pusher.place import copy_whole, next_version, same_export, write_labels
from pipeline.last_run import read_last_run, write_last_run
from serving.manifests.models_config import CANARY, STABLE
from serving.versions import CARD_FILES, versions


@dataclass(frozen=True)
class Restored:
    """A version that is back in service.

    Attributes:
        source: The version that was taken.
        replaced: The version that was in service before.
        target: Its new place.
    """

    source: Path
    replaced: Path
    target: Path


def roll_back(folder: Path, output: Path, to: int | None = None) -> Restored:
    """Copies an earlier version behind all others, in one atomic step, and gives both labels to it.

    Every version in the folder was blessed when it was pushed. The one that is replaced stays there.

    Args:
        folder: The folder of versions.
        output: The output folder of the runs. A run without new data does not push the replaced model again.
        to: The version; by default the newest that came before the model in service.

    Raises:
        UsageError: There is no such version, or it is the one in service, or nothing can be written.
    """
    found = versions(folder)
    if not found:
        raise UsageError(f"{folder}: found no version, wanted two at least; nothing to go back to")
    current = found[-1]
    source = _named(found, to) if to is not None else _before(found)
    if same_export(str(source), str(current)):
        raise UsageError(f"{source}: is the model in service already; give another version with --to")
    target = Path(next_version(str(folder)))
    try:
        copy_whole(str(source), str(target), _card(source, target.name))
        write_labels(str(folder), {STABLE: int(target.name), CANARY: int(target.name)})
        if last := read_last_run(output):
            write_last_run(output, replace(last, version=target.name))
    except OSError as error:
        # What copytree collects has its words in a list of source, target and reason.
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
        raise UsageError(f"{folder}: cannot write there ({reason}); {current.name} stays in service") from None
    return Restored(source, current, target)


def _named(found: list[Path], to: int) -> Path:
    for path in found:
        if int(path.name) == to:
            return path
    raise UsageError(f"--to {to}: no such version; found {', '.join(path.name for path in found)}")


def _before(found: list[Path]) -> Path:
    """The version before the first copy of the one in service: going back twice goes back further."""
    first = next(index for index, path in enumerate(found) if same_export(str(path), str(found[-1])))
    if first == 0:
        raise UsageError(
            f"{found[-1]}: is the oldest model there is, nothing to go back to; "
            f"--to names any of {', '.join(path.name for path in found)}"
        )
    return found[first - 1]


def _card(source: Path, version: str) -> dict[str, str]:
    """The card of the copy; none where the version has none that this program knows."""
    try:
        card: dict[str, Any] = json.loads((source / CARD_FILES[1]).read_bytes())
        when = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
        card |= {"version": version, "restored": {"version": source.name, "when": when}}
        return dict(zip(CARD_FILES, (to_markdown(card), json.dumps(card, indent=1)), strict=True))
    except (OSError, ValueError, TypeError, KeyError):
        return {}
