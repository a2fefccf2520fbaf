"""What an output folder holds: runs and how they ended, what is in service, and what takes the room."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.imaging.errors import UsageError
from pipeline.lock import holder
from serving.manifests.models_config import FILE_NAME as CONFIG_FILE
from serving.manifests.models_config import labels_of, read_labels
from serving.versions import CARD_FILES, models, versions

STATES = {0: "pushed", 1: "failed", 2: "failed", 3: "refused", 130: "interrupted"}
"""By exit code."""
RUNNING, KILLED, HELD, UNSERVABLE, UNREADABLE = "running", "killed", "held", "not servable", "unreadable"
_FOLDERS = ("artifacts", "training", "serving", "reports", "logs")


def output_status(output: Path) -> dict[str, Any]:
    """Everything that `ich status` shows, as JSON has it; TensorFlow is not needed for it.

    Args:
        output: The output folder of runs.

    Returns:
        `runs`, newest first, `serving` by model, newest first, and `disk` in bytes by folder.

    Raises:
        UsageError: It is no folder that a run wrote to.
    """
    if not (output / "runs").is_dir() and not models(output):
        raise UsageError(f"{output}: found no run there; give the --output of `ich run`")
    running = holder(output)
    summaries = sorted((output / "runs").glob("*.json"), reverse=True)
    return {
        "output": str(output),
        "runs": [_run(path, running) for path in summaries],
        "serving": {folder.name: list(_served(folder)) for folder in models(output)},
        "disk": _disk(output),
    }


def _run(path: Path, running: str | None) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_bytes())
        stages = summary["stages"]
        verdict = summary["verdict"] or {}
        last = stages[-1]["name"] if stages else ""
        state = _state(summary, running)
        return {
            "run": summary["run"],
            "config": summary["config"]["name"],
            "state": state,
            "stage": last,
            "stages": [{"name": stage["name"], "state": _stage_state(stage, state)} for stage in stages],
            "seconds": round(sum(stage.get("seconds", 0.0) for stage in stages), 1),
            "dice": (verdict.get("overall") or {}).get("patient_dice"),
            "broken_rules": [_rule(failure) for failure in verdict.get("failures", ())],
            "version": Path(summary["model"]).name if summary["model"] and state == STATES[0] else None,
            "error": summary["error"],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"run": path.stem, "state": UNREADABLE}


def _state(summary: dict[str, Any], running: str | None) -> str:
    code = summary["exit_code"]
    if code is None:
        return RUNNING if summary["run"] == running else KILLED
    if code == 3:  # the data's findings and servability count only where the gate did not refuse
        if (summary["verdict"] or {}).get("failures"):
            return STATES[3]
        return UNSERVABLE if (summary["servability"] or {}).get("failures") else HELD
    return STATES.get(code, f"exit code {code}")


def _stage_state(stage: dict[str, Any], run_state: str) -> str:
    """A stage without an end is under way, or was when the run was killed."""
    if "state" not in stage:
        return run_state
    return "reused" if stage.get("cached") else str(stage["state"])


def _rule(failure: dict[str, Any]) -> str:
    return f"{failure['rule']}.{failure['slice']}" if failure["slice"] else str(failure["rule"])


def labels_in_service(folder: Path) -> dict[str, int]:
    """Versions by label: what `models.config` beside them says, else what a push would write there.

    Args:
        folder: A folder of versions, of which there is one at least.
    """
    try:
        return read_labels((folder / CONFIG_FILE).read_text())
    except (OSError, UnicodeDecodeError):
        return labels_of([int(path.name) for path in versions(folder)])


def _served(folder: Path) -> Iterator[dict[str, Any]]:
    labels = labels_in_service(folder)
    for path in reversed(versions(folder)):
        try:
            card = json.loads((path / CARD_FILES[1]).read_bytes())
            dice = card["measures"]["dice"]["mean"]
            pushed, restored = card["pushed"], (card.get("restored") or {}).get("version")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # pushed by another program
            dice = pushed = restored = None
        named = [label for label, number in labels.items() if number == int(path.name)]
        yield {
            "version": path.name, "labels": named, "pushed": pushed, "copy_of": restored, "dice": dice,
            "bytes": size(path),
        }  # fmt: skip


def _disk(output: Path) -> dict[str, int]:
    sizes = {name: size(output / name) for name in _FOLDERS}
    total = size(output)
    return {**sizes, "other": total - sum(sizes.values()), "total": total}


def size(folder: Path) -> int:
    """Bytes on the disk of a file or of all in a folder.

    A file with several names counts once, one that vanishes meanwhile not at all, and a link is not followed.
    """
    seen: set[tuple[int, int]] = set()
    total = 0
    if folder.is_file() and not folder.is_symlink():
        return folder.stat().st_blocks * 512
    for here, _, files in os.walk(folder) if not folder.is_symlink() else ():
        for name in files:
            try:
                found = os.lstat(os.path.join(here, name))  # noqa: PTH118 - a Path for each takes three times as long
            except OSError:
                continue
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
    return total


def print_status(found: dict[str, Any], most_runs: int) -> None:
    """Shows it as tables.

    Args:
        found: From `output_status`.
        most_runs: Runs to show, of the newest.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)

    def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            made.add_column(column, justify="right" if column in right else "left", overflow="fold")
        return made

    runs = table("run (UTC)", "configuration", "state", "stage", "minutes", "Dice", "version", "why",
                 right=("minutes", "Dice"))  # fmt: skip
    for run in found["runs"][:most_runs]:
        if run["state"] == UNREADABLE:
            runs.add_row(_when(run["run"]), "", UNREADABLE)
            continue
        why = ", ".join(run["broken_rules"]) or (run["error"] or "").partition("\n")[0]
        stage = "" if run["state"] in ("pushed", "refused", HELD, UNSERVABLE) else run["stage"]
        runs.add_row(
            _when(run["run"]), run["config"], run["state"], stage, f"{run['seconds'] / 60:.1f}", _fixed(run["dice"]),
            run["version"] or "", why,
        )  # fmt: skip
    console.print(runs)
    if len(found["runs"]) > most_runs:
        console.print(f"and {len(found['runs']) - most_runs} earlier ones (--runs)\n")
    for name, listed in found["serving"].items():
        served = table(f"{name} in service", "labels", "pushed", "Dice", "copy of", "size", right=("Dice", "size"))
        for one in listed:
            served.add_row(
                one["version"], ", ".join(one["labels"]), one["pushed"] or "", _fixed(one["dice"]),
                one["copy_of"] or "", mib(one["bytes"]),
            )  # fmt: skip
        console.print(served)
    disk = found["disk"]
    parts = ", ".join(f"{name} {mib(size)}" for name, size in disk.items() if name != "total")
    console.print(f"{found['output']}: {mib(disk['total'])} ({parts})", soft_wrap=True)


def _when(run: str) -> str:
    try:
        return f"{datetime.datetime.strptime(run[:15], '%Y%m%dT%H%M%S'):%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return run


def _fixed(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
