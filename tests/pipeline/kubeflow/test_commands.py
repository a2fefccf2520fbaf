"""`ich kubeflow ...` as a user meets it: what is printed, exit codes, and what is refused before anything is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.config import Config
from tests.command import ich
from tests.pipeline.kubeflow.conftest import compile_to
from tests.pipeline.kubeflow.fake_api import FakeApi, Fault

PLACES = ["--data", "s3://scans/2026", "--output", "s3://models/ich"]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A small pipeline in place of the real one; what it was compiled for."""
    calls: list[tuple[Any, ...]] = []

    def compile_pipeline(config: Config, data: str, output: str, out: Path) -> None:
        calls.append((config.name, data, output))
        compile_to(out, f"{data} {output} {config.fingerprint()}")

    module = ModuleType("pipeline.kubeflow.compile")
    module.compile_pipeline = compile_pipeline  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


@pytest.fixture
def run(host: str) -> Callable[..., Result]:
    """Runs a command against the cluster."""

    def invoke(command: str, *arguments: str) -> Result:
        own = ["-c", "demo", "--set", f"kubeflow.host={host}"]
        return CliRunner().invoke(main, ["kubeflow", command, *own, *arguments], catch_exceptions=False)

    return invoke


def test_a_run_is_started(api: FakeApi, run: Callable[..., Result], compiled: list[tuple[Any, ...]], host: str) -> None:
    done = run("submit", *PLACES)
    assert done.exit_code == 0, done.output
    assert compiled == [("demo", "s3://scans/2026", "s3://models/ich")]
    [started], [version] = api.runs.values(), api.versions.values()
    first, second = done.stdout.splitlines()
    assert first == f"started: {started.display_name} (run {started.run_id}, pipeline version {version.display_name})"
    assert second == f"  {host}/#/runs/details/{started.run_id}"


def test_a_schedule_from_its_making_to_its_end(
    api: FakeApi, run: Callable[..., Result], compiled: list[tuple[Any, ...]]
) -> None:
    monday = ["--cron", "0 3 * * 1", *PLACES]
    made = run("schedule", *monday)
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("created: demo, at 0 3 * * 1 (UTC), next 20") and " 03:00 (recurring" in made.stdout
    assert run("schedule", *monday).stdout.startswith("unchanged: demo")
    assert run("schedule", "--set", "training.epochs=3", *monday).stdout.startswith("replaced: demo")
    assert run("schedule", "--no-catchup", "--set", "training.epochs=3", *monday).stdout.startswith("replaced: demo")
    [one] = api.recurring_runs.values()
    assert one.no_catchup is True and one.trigger.cron_schedule.cron == "0 0 3 * * 1"
    assert run("schedule", "--name", "nightly", "--cron", "@daily", *PLACES).stdout.startswith("created: nightly")
    assert len(api.recurring_runs) == 2
    assert run("unschedule").stdout == "taken away: demo\n"
    assert [one.display_name for one in api.recurring_runs.values()] == ["nightly"]
    assert run("unschedule").stdout == "none: demo\n"
    assert run("unschedule", "--name", "nightly").stdout == "taken away: nightly\n"
    assert not api.recurring_runs


def test_what_is_there_is_listed(
    api: FakeApi, run: Callable[..., Result], compiled: list[tuple[Any, ...]], host: str
) -> None:
    assert run("list").stdout.splitlines() == [f"experiment demo at {host}", "no schedules", "no runs"]
    run("schedule", "--cron", "0 3 * * 1", *PLACES)
    [schedule] = api.recurring_runs
    for state in ("SUCCEEDED", "FAILED"):
        api.go_off(schedule, state)
    shown = run("list", "--runs", "1").stdout
    assert "enabled" in shown and "0 0 3 * * 1" in shown and "03:00" in shown and "2026-01-05 12:00" in shown
    assert "failed" in shown and "succeeded" not in shown
    found = json.loads(run("list", "--json").stdout)
    assert [one["state"] for one in found["runs"]] == ["failed", "succeeded"]
    assert found["schedules"][0]["id"] == schedule and found["schedules"][0]["next_due"].endswith("T03:00:00+00:00")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["submit"], "no data folder; give --data, or data.root in the config"),
        (["submit", "--data", "s3://a"], "no output folder; give --output"),
        (["submit", "--data", "cohort", "--output", "s3://b"], "--data cohort: found a relative path, wanted a URI"),
        (["submit", "--data", "/data", "--output", "./out"], "--output ./out: found a relative path"),
        (["schedule", "--cron", "0 0 3 * * 1", *PLACES], "found 6 fields, wanted five"),
        (["schedule", "--cron", "@daily", "--name", "a b", *PLACES], "--name 'a b': wanted up to 63 letters"),
        (["unschedule", "--set", "kubeflow.hots=x"], "kubeflow.hots: unknown key; did you mean host?"),
    ],
)
def test_wrong_usage_asks_nobody(
    api: FakeApi, run: Callable[..., Result], compiled: list[tuple[Any, ...]], arguments: list[str], text: str
) -> None:
    done = run(*arguments)
    assert done.exit_code == 2 and text in done.stderr, done.output
    assert not api.asked and not compiled


def test_a_cluster_that_does_not_answer_is_noticed_before_the_pipeline_is_compiled(
    api: FakeApi, run: Callable[..., Result], compiled: list[tuple[Any, ...]]
) -> None:
    api.faults.append(Fault("GET", "healthz", 99))
    done = run("submit", *PLACES)
    assert done.exit_code == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "cannot greet Kubeflow Pipelines: 503" in done.stderr
    assert not compiled


def test_folders_come_from_the_config(
    api: FakeApi, run: Callable[..., Result], compiled: list[tuple[Any, ...]]
) -> None:
    done = run("submit", "--set", "data.root=gs://scans", "--set", "output.root=/mnt/models")
    assert done.exit_code == 0, done.output
    assert compiled == [("demo", "gs://scans", "/mnt/models")]


def test_the_installed_command_is_quiet_and_reads_no_settings_of_kfp(
    api: FakeApi, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own: `kfp.Client` would take namespace and cookie from the home folder, and print."""
    context = tmp_path / ".config" / "kfp" / "context.json"
    context.parent.mkdir(parents=True)
    context.write_text('{"namespace": "theirs", "client_authentication_cookie": "c00kie"}')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "s3cret")
    config = {"name": "mine", "data": {"image": "i/{case}.nii", "mask": "m/{case}.nii"}, "kubeflow": {"host": host}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    done = ich("kubeflow", "list", "-c", tmp_path / "mine.yaml", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["experiment"] == "mine"
    assert {one.headers["authorization"] for one in api.asked} == {"Bearer s3cret"}
    sent = str([(one.path, one.query, one.headers) for one in api.asked])
    assert "theirs" not in sent and "c00kie" not in sent
    assert "s3cret" not in done.stdout


def test_nothing_heavy_is_imported() -> None:
    code = """
import sys
from click.testing import CliRunner
from pipeline.cli import main
for arguments in (["--help"], ["kubeflow", "--help"], ["kubeflow", "submit", "--help"]):
    assert CliRunner().invoke(main, arguments).exit_code == 0
watched = ("kfp", "kfp_server_api", "urllib3", "tenacity", "tensorflow", "tfx", "rich", "pydantic")
print([name for name in watched if name in sys.modules])
import pipeline.kubeflow.client
print([name for name in ("kfp", "kubernetes", "tensorflow", "tfx") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n[]\n", done.stdout + done.stderr
