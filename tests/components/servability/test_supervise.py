"""The probe as a process: what it may import, and that the run outlives whatever the model does to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.servability import supervise
from components.servability.rules import CHECKS
from components.servability.supervise import examine
from components.servability.task import write_task
from pipeline.config import ServabilityConfig
from serving.contract import Contract
from tests.components.servability import broken

BOUNDS = ServabilityConfig().model_dump()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    broken.export(folder)
    return folder


def contract_of(model: Path) -> str:
    return (model / "assets.extra" / "contract.json").read_text()


def reasons(verdict: dict[str, Any]) -> dict[str, str]:
    assert verdict["blessed"] == (not verdict["failures"])
    return {rule["rule"]: rule["message"] for rule in verdict["failures"]}


def test_a_sound_model_is_blessed_with_its_figures(model: Path) -> None:
    verdict = examine(str(model), contract_of(model), BOUNDS)
    assert reasons(verdict) == {}
    passed = {rule["rule"] for rule in verdict["rules"] if rule["passed"]}
    assert passed == {"alive", *CHECKS, "max_load_seconds", "max_seconds_per_scan", "max_memory_mib"}
    # That of the new process, however much this one has had.
    assert 200 < verdict["measures"]["peak_mib"] < 1500


def test_the_process_is_held_to_memory_and_time(model: Path) -> None:
    tiny = {**BOUNDS, "max_memory_mib": 1.0, "max_seconds_per_scan": 1e-9, "max_load_seconds": 1e-9}
    found = reasons(examine(str(model), contract_of(model), tiny))
    assert set(found) == {"max_memory_mib", "max_seconds_per_scan", "max_load_seconds"}


def test_a_process_that_takes_too_long_is_stopped(model: Path) -> None:
    found = reasons(examine(str(model), contract_of(model), {**BOUNDS, "timeout_s": 0.2}))
    assert list(found) == ["alive"] and "was stopped after 0.2 s" in found["alive"]


def test_a_process_that_crashes_or_ends_early_blesses_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "PROBE", "tests.components.servability.broken")
    found = reasons(examine(str(model), contract_of(model), BOUNDS))
    assert list(found) == ["alive"] and "was killed by SIGABRT" in found["alive"]
    for module, ended in (("json.tool", "ended with exit code"), ("platform", "left no finished report")):
        monkeypatch.setattr(supervise, "PROBE", module)
        found = reasons(examine(str(model), contract_of(model), BOUNDS))
        assert list(found) == ["alive"] and ended in found["alive"]


def test_the_process_keeps_off_the_gpu_that_this_one_may_have_filled(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    seen = []

    def run(command: list[str], *, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        seen.append((command[:3], env["CUDA_VISIBLE_DEVICES"]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert list(reasons(examine(str(model), contract_of(model), BOUNDS))) == ["alive"]
    assert seen == [([sys.executable, "-m", "components.servability.probe"], "-1")]


@pytest.mark.parametrize("text", ["", "{", '{"format": 1}', '{"format": 3}'])
def test_a_model_without_a_readable_contract_is_not_even_loaded(text: str, tmp_path: Path) -> None:
    assert list(reasons(examine(str(tmp_path), text, BOUNDS))) == ["contract"]


def test_the_probe_imports_no_keras_and_no_code_of_ours_but_names(model: Path, tmp_path: Path) -> None:
    """As in TF Serving, where neither is there: a model that needed them would load here and nowhere else."""
    task = tmp_path / "task"
    task.mkdir()
    write_task(task, Contract.from_json(contract_of(model)), contract_of(model))
    ask = (
        "import json, sys; from components.servability.probe import main; main(*sys.argv[1:4]); "
        "print(json.dumps(sorted(name for name, module in sys.modules.items() if module)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask, str(model), str(task), str(tmp_path / "report.json")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = json.loads(done.stdout.splitlines()[-1])
    assert json.loads((tmp_path / "report.json").read_text())["problems"] == {}
    assert "tensorflow" in names and not [name for name in names if name.partition(".")[0] in ("keras", "tfx")]
    ours = {name for name in names if name.partition(".")[0] in ("components", "serving", "schema", "pipeline")}
    assert ours == {
        "components", "components.servability", "components.servability.probe", "serving", "serving.signatures",
        "schema", "schema.features",
    }  # fmt: skip
