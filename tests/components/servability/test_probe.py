"""What the probe finds in sound and in broken models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.servability.probe import Report, examine
from components.servability.rules import CHECKS
from components.servability.task import golden_scan, write_task
from serving import signatures as s
from serving.warmup import WARMUP_FILE, write_warmup
from tests import models
from tests.components.servability import broken
from tests.models import Arithmetic, contract


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task for the tiny grid without context."""
    folder = tmp_path_factory.mktemp("task")
    write_task(folder, contract(), contract().to_json())
    return folder


def found(model: Path, task: Path) -> dict[str, Any]:
    """What the probe's report holds in the end."""
    report = Report(None)
    examine(str(model), task, report)
    return report.content


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        (Arithmetic(), {}),
        (Arithmetic(looks_at=1, brain=True), {"context_slices": 1}),
        (Arithmetic(across=True), {"grid_size": 48, "grid_spacing_mm": 4.0}),
        (Arithmetic(constant=0.0), {}),
        (Arithmetic(constant=1.0), {}),
    ],
)
def test_a_sound_model_passes_every_check(tmp_path: Path, network: Arithmetic, changes: dict[str, Any]) -> None:
    made = models.export(tmp_path / "model", network, **changes)
    (tmp_path / "task").mkdir()
    write_task(tmp_path / "task", made, made.to_json())
    content = found(tmp_path / "model", tmp_path / "task")
    assert content["problems"] == {}
    assert content["passed"] == list(CHECKS)
    measures = content["measures"]
    assert measures["slices"] == 28 and measures["peak_mib"] > 50
    assert measures["load_seconds"] > 0 and measures["seconds_per_scan"] > 0


def test_what_is_measured_is_a_scan_with_blood_as_the_model_would_see_it(task: Path) -> None:
    scan = golden_scan(contract())
    with np.load(task / "scan.npz") as file:
        np.testing.assert_array_equal(file[s.HU][:, 0], scan.hu)
        assert len(file[s.EXAMPLES]) == len(scan.hu) == 28
    probable = Arithmetic().numpy(scan.examples(0))
    assert 0.001 < (probable > 0.5).mean() < 0.2  # some of it looks like blood, most does not


@pytest.mark.parametrize(
    ("changed", "rule", "message"),
    [
        ({"leave_out": "describe"}, "signatures", "no signature describe"),
        ({"leave_out": "predict_slices"}, "signatures", "no signature predict_slices"),
        ({"kind": tf.float32}, "signatures", "predict_slices: hu is float32 [None, 1, 32, 32], wanted int16"),
        ({"name": "image"}, "signatures", "predict_slices has the inputs ['image'], wanted ['hu']"),
        ({"fixed": 8}, "signatures", "hu is int16 [8, 1, 32, 32], wanted int16 [None, 1, 32, 32]"),
        ({"slices": lambda hu: tf.cast(broken.sound(hu), tf.float64)}, "signatures", "probability is float64"),
        ({"slices": lambda hu: broken.sound(hu)[..., tf.newaxis]}, "signatures", "[None, 32, 32, 1]"),
        ({"text": contract(threshold=0.9).to_json()}, "describe", "not that of assets.extra/contract.json"),
        ({"text": "{"}, "describe", "JSONDecodeError"),
        ({"slices": broken.undefined_for_three}, "batches", "a request of 3 slices: 3072 of 3072 probabilities are no"),
        ({"slices": broken.by_company}, "batches", "a request of 1 slices and one of 8 differ by"),
        ({"examples": lambda hu: 0.99 * broken.sound(hu)}, "agreement", "serving_default and predict_slices differ by"),
        ({"slices": broken.noisy}, "repeats", "the same request asked twice differ by"),
        ({"slices": broken.refuses_nothing}, "empty", "nothing to do"),
        ({"slices": lambda hu: 1.5 * broken.sound(hu)}, "probabilities", "wanted 0 to 1"),
        ({"slices": lambda hu: broken.sound(hu) - 0.001}, "probabilities", "probabilities from -0.001"),
        ({"slices": lambda hu: tf.concat([broken.sound(hu)] * 2, 0)}, "probabilities", "8 slices got an answer of"),
    ],
)  # fmt: skip
def test_a_broken_model_is_found_out(
    tmp_path: Path, task: Path, changed: dict[str, Any], rule: str, message: str
) -> None:
    broken.export(tmp_path, **changed)
    content = found(tmp_path, task)
    assert message in content["problems"].get(rule, ""), content
    assert rule not in content["passed"]


def test_broken_variables_are_found_out(tmp_path: Path, task: Path) -> None:
    broken.export(tmp_path)
    (data,) = (tmp_path / "variables").glob("variables.data*")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    content = found(tmp_path, task)
    assert list(content["problems"]) == ["load"] and content["passed"] == []


@pytest.mark.parametrize("cut", [0, 1])
def test_a_broken_graph_is_found_out(tmp_path: Path, task: Path, cut: int) -> None:
    broken.export(tmp_path)
    path = tmp_path / "saved_model.pb"
    path.write_bytes(path.read_bytes()[: cut * path.stat().st_size // 3])
    assert list(found(tmp_path, task)["problems"]) == ["load"]
    shutil.rmtree(tmp_path)
    assert list(found(tmp_path, task)["problems"]) == ["load"]


def test_the_warm_up_must_be_there_for_every_signature_and_this_model(tmp_path: Path, task: Path) -> None:
    made = broken.export(tmp_path)
    path = tmp_path / WARMUP_FILE
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]

    def problem() -> str:
        content = found(tmp_path, task)
        assert set(content["problems"]) == {"warmup"}
        return str(content["problems"]["warmup"])

    path.unlink()
    assert problem() == f"there is no {WARMUP_FILE}"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(records[0])
    assert problem() == "1 requests, none for describe, serving_default; wanted at most 1000 and each signature"
    write_warmup(str(path), models.contract(model_name="other"))
    assert problem() == "request 0 is for other, signature predict_slices"
    write_warmup(str(path), made)
    path.write_bytes(path.read_bytes()[:-5])
    assert "DataLossError" in problem()


def test_the_report_is_on_disk_before_each_step(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json")
    with report.check("load", "loading the model"):
        assert json.loads((tmp_path / "report.json").read_text())["doing"] == "loading the model"
    with report.check("describe", "asking"):
        assert json.loads((tmp_path / "report.json").read_text())["passed"] == ["load"]
        raise ValueError("no\ngood")
    assert report.content["problems"] == {"describe": "ValueError no good"}
