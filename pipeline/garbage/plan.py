"""What an output folder holds, and what of it may go. Nothing is changed here."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.imaging.errors import UsageError
from pipeline.garbage.reach import (
    Models,
    Records,
    Remembered,
    Run,
    kept_runs,
    needed_artifacts,
    needed_statistics,
    needed_trainings,
)
from pipeline.garbage.records import executions_of_runs, read_records
from pipeline.last_run import read_last_run
from pipeline.local_runner import Folders
from pipeline.lock import FILE_NAME as LOCK
from pipeline.status import labels_in_service, size
from serving.contract import Contract
from serving.versions import models, read_contract, versions

ARTIFACTS, WORKING, TRAINING, STATISTICS = "artifacts", "working files of TFX", "checkpoints", "statistics"
REPORTS, LOGS, SUMMARIES, COPIES = "reports", "logs", "run summaries", "unfinished copies of models"

_RUN = re.compile(r"\d{8}T\d{6}")
_LISTING, _RECORD = "cases.json", "record.json"
_STALE_SECONDS = 3600
"""A copy in `serving/` that has not changed for so long is nobody's: `ich rollback` makes one within seconds."""


@dataclass(frozen=True)
class Item:
    """Something that nothing needs.

    Attributes:
        path: A file or a folder.
        kind: What it is, one of the constants of this module.
        stage: Of an artifact: what made it.
        bytes: Room on the disk.
    """

    path: Path
    kind: str
    stage: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Plan:
    """What a collection does.

    Attributes:
        output: The output folder.
        kept: Why each run stays, by name, the newest first.
        waiting: Folders of models that the gate blessed and that are not in service; they stay.
        dead: Ids of artifacts that TFX's store must know as gone before anything is removed.
        items: What is removed, in this order.
        total: Room that the output folder takes as it is.
    """

    output: Path
    kept: dict[str, str]
    waiting: list[str]
    dead: frozenset[int]
    items: list[Item] = field(default_factory=list)
    total: int = 0


def make_plan(output: Path, keep: int) -> Plan:
    """Finds out what may go.

    Args:
        output: An output folder in which no run is under way.
        keep: How many of the newest runs stay.

    Raises:
        UsageError: It is no folder that a run wrote to, or one without TFX's metadata store.
        IchError: The store cannot be read.
    """
    folders = Folders(output)
    refuse_others(output)
    there = dict(_artifact_folders(folders.artifacts))
    if there and not folders.metadata.is_file():
        raise UsageError(
            f"{folders.metadata}: is missing, and only it tells what the {len(there)} folders below "
            f"{folders.artifacts} were made from; put it back, or remove {output} as a whole"
        )
    records = read_records(folders.metadata) if folders.metadata.is_file() else Records()
    runs = _runs(folders, records)
    contracts = {path: _contract(path) for folder in models(output) for path in versions(folder)}
    blessed = records.blessed()
    served = _models(folders, records, blessed, contracts)
    last = read_last_run(output)
    kept = kept_runs(runs, keep, last.run if last else None, served.versions)
    needed, places = needed_artifacts(records, [run for run in runs if run.name in kept], served)
    waiting = sorted(set(blessed) - served.served)
    fingerprints = {contract.data_fingerprint for contract in contracts.values() if contract}
    fingerprints |= {_fingerprint(folders.artifacts / place) for place in places}
    items = [
        *(Item(path, ARTIFACTS, place.partition("/")[0]) for place, path in there.items() if place not in places),
        *(Item(path, WORKING) for path in sorted(folders.artifacts.glob("*/.system/*/*"))),
        *_trainings(folders.work, runs, kept),
        *_statistics(folders.statistics, fingerprints),
        *(Item(path, COPIES) for path in _unfinished_copies(output)),
        *(Item(path, REPORTS) for path in _of_other_runs(folders.reports, "", kept)),
        *(Item(path, LOGS) for path in _of_other_runs(folders.logs, ".log", kept)),
        # The last thing of a run to go: what is cut short is found again.
        *(Item(path, SUMMARIES) for path in _of_other_runs(folders.runs, ".json", kept)),
    ]
    return Plan(
        output,
        kept,
        [records.artifacts[model].place for model in waiting],
        frozenset(one.id for one in records.artifacts.values() if one.live and one.place and one.id not in needed),
        [Item(item.path, item.kind, item.stage, size(item.path)) for item in items],
        size(output) - size(output / LOCK),  # whose holder fills it
    )


def refuse_others(output: Path) -> None:
    """Raises a UsageError for a folder that no run wrote to."""
    if not any(Folders(output).runs.glob("*.json")):
        raise UsageError(f"{output}: found no run there; give the --output of `ich run`")


def _artifact_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """What TFX keeps of executions: `<stage>/<output>/<execution>`; anything else is not its."""
    for path in sorted(root.glob("*/*/*")):
        stage, key, execution = path.parts[-3:]
        if execution.isdecimal() and not stage.startswith(".") and not key.startswith("."):
            yield f"{stage}/{key}/{execution}", path


def _runs(folders: Folders, records: Records) -> list[Run]:
    """All runs, the oldest first, with what is known of each from its summary or else from TFX's store."""
    paths = sorted(folders.runs.glob("*.json"))
    found = [_run(path) for path in paths]
    if all(complete for _, complete in found):
        return [run for run, _ in found]
    compiled = executions_of_runs(folders.metadata) if folders.metadata.is_file() else {}
    runs = []
    for index, (run, complete) in enumerate(found):
        if not complete:  # an older program's summary, one of a killed run, or none that can be read
            until = found[index + 1][0].began if index + 1 < len(found) else float("inf")
            # The first after it began: later ones may be those of runs that have been removed.
            first = min((when for when in compiled if run.began <= when < until), default=None)
            of_run = compiled[first] if first is not None else frozenset()
            executions = [records.executions[one] for one in of_run if one in records.executions]
            used = frozenset().union(*(execution.inputs | execution.outputs for execution in executions))
            run = Run(run.name, used, run.places, run.pushed, run.trained)
        runs.append(run)
    return runs


def _run(path: Path) -> tuple[Run, bool]:
    """What a summary tells, and whether that is all that the run made or reused."""
    try:
        summary = json.loads(path.read_bytes())
        stages = [stage for stage in summary["stages"] if stage["name"] != "start"]
        done = [stage for stage in stages if stage.get("state") == "done"]
        made = [folder for stage in done for folder in stage.get("outputs", {}).values()]
        places = frozenset("/".join(Path(folder).parts[-3:]) for folder in made)
        pushed = None
        if summary["exit_code"] == 0 and summary["model"]:
            pushed = "/".join(Path(summary["model"]).parts[-2:])
        trained = all(stage in done for stage in stages if stage["name"] in ("Trainer", "Tuner"))
        complete = summary["exit_code"] is not None and all("outputs" in stage for stage in done)
        return Run(path.stem, places=places, pushed=pushed, trained=trained), complete
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Run(path.stem, trained=False), False


def _models(
    folders: Folders, records: Records, blessed: Iterable[int], contracts: dict[Path, Contract | None]
) -> Models:
    """Which models are in service, and which blessed ones they are copies of: a contract is like no other's."""
    labels = {folder / str(number) for folder in models(folders.root) for number in labels_in_service(folder).values()}
    labels |= {versions(folder)[-1] for folder in models(folders.root)}  # who knows no labels goes by the number
    labelled = [contract for path in labels if (contract := contracts.get(path))]
    made = {one: _contract(folders.artifacts / records.artifacts[one].place / "Format-Serving") for one in blessed}
    return Models(
        frozenset(
            "/".join(path.parts[-2:])
            for path, contract in contracts.items()
            if path in labels or (contract and contract in labelled)
        ),
        frozenset(one for one, contract in made.items() if contract and contract in labelled),
        frozenset(one for one, contract in made.items() if contract and contract in contracts.values()),
    )


def _contract(model: Path) -> Contract | None:
    try:
        return read_contract(model)
    except (UsageError, OSError):
        return None


def _fingerprint(examples: Path) -> str:
    """Of the data in examples; empty for artifacts of another kind."""
    try:
        return str(json.loads((examples / _LISTING).read_bytes())["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _trainings(root: Path, runs: list[Run], kept: dict[str, str]) -> Iterator[Item]:
    written = {path.name: _last_written(path) for path in sorted(root.glob("*")) if path.is_dir()}
    needed = needed_trainings(written, runs, kept)
    return (Item(root / name, TRAINING) for name in written if name not in needed)


def _last_written(folder: Path) -> float:
    """Of its files: the time of a folder is also that of a removal that was cut short."""
    return max((path.lstat().st_mtime for path in folder.rglob("*") if not path.is_dir()), default=0.0)


def _statistics(root: Path, fingerprints: set[str]) -> Iterator[Item]:
    found: dict[Path, Remembered | None] = {path: _remembered(path) for path in sorted(root.glob("*"))}
    needed = needed_statistics([entry for entry in found.values() if entry], fingerprints)
    return (Item(path, STATISTICS) for path in found if path.name not in needed)


def _remembered(folder: Path) -> Remembered | None:
    """What `components.data_validator.store` wrote, without TensorFlow; None of one that is not whole."""
    try:
        record: dict[str, Any] = json.loads((folder / _RECORD).read_bytes())
        return Remembered(folder.name, int(record["span"]), str(record["time"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _unfinished_copies(output: Path) -> Iterator[Path]:
    for path in sorted((output / "serving").glob("*/.*.part")):
        newest = max((one.lstat().st_ctime for one in [path, *path.rglob("*")]), default=0.0)  # copies keep mtimes
        if newest < time.time() - _STALE_SECONDS:
            yield path


def _of_other_runs(root: Path, suffix: str, kept: dict[str, str]) -> Iterator[Path]:
    """What is named like a run that does not stay."""
    for path in sorted(root.glob(f"*{suffix}")):
        name = path.name.removesuffix(suffix)
        if _RUN.match(name) and name not in kept:
            yield path
