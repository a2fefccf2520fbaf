"""A run that is killed in each stage, again and again in one folder, ends as one that nothing disturbed."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.status import output_status
from serving.versions import CONTRACT_FILE, versions
from tests.crash.conftest import BASELINE, Lab, Undisturbed

REGISTERED, WRITES, UNPUBLISHED, PUBLISHED = "registered", "writes", "unpublished", "published"  # as tests.crash.points
RUNNER, RECORDED = "runner", "recorded"

Kill = tuple[str, str, int]
"""Stage, point, and at how many times it is passed."""


def kills(passed: dict[str, int]) -> Iterator[Kill]:
    """Each stage at its start, in the middle and at its end, in the order in which they run.

    Args:
        passed: How often a whole run passed each point.
    """
    yield RUNNER, WRITES, 1  # there is no log yet
    yield RUNNER, WRITES, 8  # nor a record of the run, but half of one
    yield RUNNER, WRITES, 12  # before the first stage
    for stage in dict.fromkeys(name.partition("/")[0] for name in passed if not name.startswith(RUNNER)):
        yield stage, REGISTERED, 1
        written = passed[f"{stage}/{WRITES}"]
        yield stage, WRITES, (written + 1) // 2
        if stage == "Trainer":  # each time it goes on from a checkpoint, and at last it exports
            yield stage, WRITES, written // 4
            yield stage, WRITES, 2
        if stage == "Pusher":
            yield stage, WRITES, written - 2  # the model is in service, and nobody has told the labels
        yield stage, UNPUBLISHED, 1
        if stage in ("NiftiExampleGen", "Trainer", "Pusher"):
            yield stage, PUBLISHED, 1
    yield RUNNER, RECORDED, 1


def summary(output: Path) -> dict[str, Any]:
    """Of the newest run."""
    found: dict[str, Any] = json.loads(max((output / "runs").glob("*.json")).read_text())
    return found


def assert_left_whole(output: Path) -> None:
    """What a killed run leaves can be read: metadata, pages, records."""
    if (output / "metadata.sqlite").exists():
        with contextlib.closing(sqlite3.connect(output / "metadata.sqlite")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for path in output.glob("reports/*/*.html"):
        assert path.read_text().rstrip().endswith("</html>"), path
    for path in itertools.chain(output.glob("*.json"), output.glob("r*/**/*.json")):
        json.loads(path.read_text())


def _entry(stages: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in stages if entry["name"] == name)


def listing(output: Path) -> Any:
    """Of the examples that the finished run used, the newest."""
    return json.loads(max(output.glob("artifacts/NiftiExampleGen/examples/*/cases.json"), key=_number).read_text())


def _number(path: Path) -> int:
    return int(path.parent.name)


def test_a_run_that_is_killed_everywhere_ends_like_one_that_is_not(lab: Lab, undisturbed: Undisturbed) -> None:
    output = lab.folder / "killed"
    folder = lab.serve(output)
    done: set[str] = set()
    resumed = 0
    planned = list(kills(undisturbed.passed))
    assert len(planned) >= 40 and len({stage for stage, _, _ in planned}) == 14
    with lab.watched(folder):
        for stage, point, count in planned:
            began = time.monotonic()
            code, printed = lab.run(output, stage=stage, point=point, count=count)
            print(f"{stage}/{point}/{count}: {time.monotonic() - began:.1f} s", flush=True)
            assert code == -signal.SIGKILL, printed
            assert_left_whole(output)
            resumed += "resuming after epoch" in printed
            if stage != RUNNER:
                stages = summary(output)["stages"]
                assert output_status(output)["runs"][0]["state"] == "killed" and stages[-1]["name"] == stage
                again = [name for name in done if not _entry(stages, name).get("cached")]
                assert not again or len(versions(folder)) > 1, (stage, point, again)
                done |= {entry["name"] for entry in stages[1:-1]}
        code, printed = lab.run(output)
    assert code == 0, printed
    assert resumed >= 2
    assert lab.masks(output) == undisturbed.masks
    assert listing(output) == listing(undisturbed.output)
    assert summary(output)["verdict"]["by_case"] == summary(undisturbed.output)["verdict"]["by_case"]
    (baseline, pushed), (_, expected) = versions(folder), versions(undisturbed.output / "serving" / "ich")
    assert baseline.name == BASELINE
    assert contract(pushed) == contract(expected)
    assert {path.name for path in folder.iterdir()} == {baseline.name, pushed.name, "models.config"}
    # The first two were killed before, and the last after it left a word of itself.
    states = [run["state"] for run in output_status(output)["runs"]]
    assert states == ["pushed"] * 2 + ["killed"] * (len(planned) - 3)


def contract(model: Path) -> dict[str, Any]:
    """What a model says of itself, but for the minutes that its training took."""
    found: dict[str, Any] = json.loads((model / CONTRACT_FILE).read_text())
    del found["metrics"]["minutes"]
    return found


def test_a_stage_that_ran_is_not_run_again_by_a_forced_run(lab: Lab, undisturbed: Undisturbed) -> None:
    """Although what it put in service, and what it remembered of its data, is there now."""
    before = versions(undisturbed.output / "serving" / "ich")
    code, printed = lab.run(undisturbed.output, "--force")
    assert code == 0, printed
    assert [stage["name"] for stage in summary(undisturbed.output)["stages"] if not stage.get("cached")] == ["start"]
    assert versions(undisturbed.output / "serving" / "ich") == before
