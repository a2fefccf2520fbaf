"""What the last run that came to an end was made of, so that the next one can tell that there is nothing new to do."""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from components.imaging.nifti import write_bytes
from pipeline.code_version import all_parts, code_version
from pipeline.config import NO_RESULT, Config

FILE_NAME, BEGAN_FILE = "last_run.json", "began.json"


@dataclass(frozen=True)
class LastRun:
    """A run that pushed a model, or was refused or held.

    Attributes:
        key: Hash of everything that decides what a run does.
        run: Its name.
        exit_code: What it ended with.
        version: The version in service after it, if any.
        held: Whether findings against the data held the push.
        unservable: Whether the model could not be served as it must.
        data: Hash of the data's files alone; empty in the record of an older program.
        serving: All versions after it, as in `Began`.
    """

    key: str
    run: str
    exit_code: int
    version: str | None
    held: bool
    unservable: bool = False
    data: str = ""
    serving: str = ""

    def text(self, *, wholly: bool = True) -> str:
        """One line for the user.

        Args:
            wholly: Configuration and code are the same, too.
        """
        when = datetime.datetime.strptime(self.run[:15], "%Y%m%dT%H%M%S")
        if self.exit_code == 0:
            became = f"pushed version {self.version}"
        else:
            became = "was held by findings against the data" if self.held else "was refused by the gate"
            if self.unservable:
                became = "was refused as not servable"
        same = "files, configuration and code are" if wholly else "files are, though not configuration or code,"
        return (
            f"no new data: {same} those of the run of {when:%Y-%m-%d %H:%M} UTC, which "
            f"{became}; nothing to do (--force runs anyway)"
        )


def current_key(config: Config, files: str) -> str:
    """Hash of files, configuration (the gate's too) and code; no file is read.

    Args:
        config: The configuration; where and how it runs does not count.
        files: The data's `fingerprint`.
    """
    sections = sorted(name for name in type(config).model_fields if name not in NO_RESULT)
    parts = [files, config.subset(*sections), code_version(*all_parts())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def read_last_run(root: Path) -> LastRun | None:
    """The last run below an output folder; None where there was none or its record is of no use."""
    try:
        return LastRun(**json.loads((root / FILE_NAME).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def write_last_run(root: Path, last: LastRun) -> None:
    """Remembers a run."""
    write_bytes(root / FILE_NAME, json.dumps(asdict(last), indent=1).encode())


@dataclass(frozen=True)
class Began:
    """What a run found that it changes itself.

    The same run again must find what it found, or it would take its own traces for news: compare its data with
    itself, and its model.

    Attributes:
        key: Of the run, from `current_key`.
        serving: Versions in service, oldest first, with commas.
        statistics: What data was known, as `components.data_validator.store.state` has it.
    """

    key: str
    serving: str
    statistics: str


def begin(root: Path, now: Began) -> Began:
    """What a run goes by; it is remembered for the same run again.

    Args:
        root: The output folder.
        now: What there is now.

    Returns:
        What was there before where it is the same run again, which was killed or is forced, and nobody else has put
        anything in service or taken it away since; else `now`.
    """
    try:
        before = Began(**json.loads((root / BEGAN_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        before = None
    if before is not None and before.key == now.key and _known(before) <= _known(now):
        last = read_last_run(root)
        if now.serving == (last.serving if last is not None and last.key == now.key else before.serving):
            return before
    write_bytes(root / BEGAN_FILE, json.dumps(asdict(now), indent=1).encode())
    return now


def _known(began: Began) -> set[str]:
    return set(filter(None, began.statistics.split(",")))
