"""What `ich status` tells of an output folder, whole or in pieces."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.imaging.errors import UsageError
from pipeline.lock import locked
from pipeline.rollback import roll_back
from pipeline.status import output_status
from tests.command import ich
from tests.components.pusher.test_card import card
from tests.components.run_report.runs import cohort
from tests.models import unloadable

STAGES = [{"name": "start", "state": "done", "seconds": 9.0}, {"name": "Trainer", "state": "done", "seconds": 111.0}]
FAILURE = {"rule": "slices", "slice": "small", "value": 0.1, "bound": 0.3}


def summary(output: Path, run: str, **changes: Any) -> None:
    """Writes what a run leaves of itself; by default one that pushed version 7."""
    made = {
        "run": run, "config": {"name": "mine"}, "data": "d", "stages": STAGES, "exit_code": 0, "error": None,
        "verdict": {"overall": {"patient_dice": 0.8}, "failures": []}, "findings": [], "servability": {"failures": []},
        "model": str(output / "serving" / "ich" / "7"),
    }  # fmt: skip
    (output / "runs").mkdir(exist_ok=True)
    (output / "runs" / f"{run}.json").write_text(json.dumps({**made, **changes}))


ENDS: dict[str, tuple[dict[str, Any], str]] = {
    "20260101T000001": ({}, "pushed"),
    "20260101T000002": ({"exit_code": 3, "verdict": {"failures": [FAILURE]}}, "refused"),
    "20260101T000003": ({"exit_code": 3, "findings": [{"severity": "hold"}]}, "held"),
    "20260101T000004": ({"exit_code": 3, "servability": {"failures": [{"rule": "load"}]}}, "not servable"),
    "20260101T000005": ({"exit_code": 2, "error": "no such folder", "verdict": None}, "failed"),
    "20260101T000006": ({"exit_code": 1, "error": "stage Trainer failed", "verdict": None}, "failed"),
    "20260101T000007": ({"exit_code": 130, "error": "Interrupt", "verdict": None, "model": None}, "interrupted"),
    "20260101T000008": (
        {"exit_code": None, "verdict": None, "stages": [*STAGES, {"name": "Evaluator"}], "servability": None}, "killed",
    ),
}  # fmt: skip


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output folder with one run of each end, and two versions in service."""
    for run, (changes, _) in ENDS.items():
        summary(tmp_path, run, **changes)
    (tmp_path / "runs" / "20260101T000009.json").write_text("{")
    for number in (6, 7):
        unloadable(tmp_path / "serving" / "ich" / str(number), data_fingerprint=str(number))
    return tmp_path


def test_each_end_of_a_run(output: Path) -> None:
    found = {run["run"]: run for run in output_status(output)["runs"]}
    assert list(found) == sorted(found, reverse=True)
    assert {run: entry["state"] for run, entry in found.items()} == {
        **{run: state for run, (_, state) in ENDS.items()}, "20260101T000009": "unreadable",
    }  # fmt: skip
    assert found["20260101T000002"]["broken_rules"] == ["slices.small"]
    assert (found["20260101T000001"]["version"], found["20260101T000003"]["version"]) == ("7", None)
    assert found["20260101T000001"]["dice"] == 0.8 and found["20260101T000001"]["seconds"] == 120
    assert found["20260101T000008"]["stages"][-1] == {"name": "Evaluator", "state": "killed"}


def test_a_run_that_holds_the_lock_is_running(output: Path) -> None:
    with locked(output, "20260101T000008"):
        (run,) = [one for one in output_status(output)["runs"] if one["run"] == "20260101T000008"]
    assert run["state"] == "running" and run["stages"][-1]["state"] == "running"


def test_what_is_in_service(output: Path) -> None:
    found, measures = cohort(4)
    path = output / "serving" / "ich" / "6" / "assets.extra" / "model_card.json"
    made = card(found, measures)
    path.write_text(json.dumps(made))
    listed = output_status(output)["serving"]["ich"]
    assert [(one["version"], one["labels"]) for one in listed] == [("7", ["canary"]), ("6", ["stable"])]
    assert listed[1]["dice"] == made["measures"]["dice"]["mean"] and listed[1]["pushed"] == made["pushed"]
    assert listed[0]["dice"] is None
    target = roll_back(output / "serving" / "ich", output).target.name
    newest = output_status(output)["serving"]["ich"][0]
    assert (newest["version"], newest["labels"], newest["copy_of"]) == (target, ["stable", "canary"], "6")


def test_the_room_that_it_takes(output: Path) -> None:
    (output / "artifacts").mkdir()
    (output / "artifacts" / "a").write_bytes(b"x" * 100_000)
    (output / "artifacts" / "b").hardlink_to(output / "artifacts" / "a")
    (output / "logs").symlink_to("/")
    disk = output_status(output)["disk"]
    used = int(
        subprocess.run(["du", "-s", "-B1", output / "artifacts"], capture_output=True, check=True).stdout.split()[0]
    )
    # du counts the folder itself, too.
    assert 100_000 <= disk["artifacts"] <= used
    assert disk["total"] == sum(size for name, size in disk.items() if name != "total")


def test_a_folder_without_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"found no run there; give the --output of `ich run`"):
        output_status(tmp_path)


def test_the_command(output: Path) -> None:
    done = ich("status", "--output", output, "--runs", "5")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:4] for line in lines if "interrupted" in line] == [
        ["2026-01-01", "00:00:07", "mine", "interrupted"]
    ]
    assert any("killed" in line and "Evaluator" in line for line in lines)
    assert "and 4 earlier ones" in done.stdout and "stable" in done.stdout
    as_json = ich("status", "--output", output, "--json")
    assert json.loads(as_json.stdout) == json.loads(json.dumps(output_status(output)))


def test_tensorflow_stays_out(output: Path) -> None:
    ask = "import sys; from pathlib import Path; from pipeline.status import output_status, print_status;" \
          "print_status(output_status(Path(sys.argv[1])), 5); print('tensorflow' in sys.modules)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", ask, output], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
