"""The stage on real artifacts: what it shows of the scans is what the gate measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tfx.types import artifact_utils, standard_artifacts

from components.imaging.errors import IchError
from components.run_report.component import RunReporter
from components.run_report.predicted import outline_scans
from components.types import DataReport, RunReport
from tests.cases import Sample, cuboid
from tests.components.evaluator.runs import evaluate, listed
from tests.components.run_report.test_strips import pixels
from tests.models import Arithmetic, contract, export

BLOOD = [cuboid((1, 4), (26, 38), (26, 38))]
SAMPLES = [
    Sample("exact", BLOOD, BLOOD),
    Sample("half", [cuboid((1, 4), (20, 38), (26, 34))], [cuboid((1, 3), (20, 38), (26, 42))], patient_id="p"),
    Sample("beside", [cuboid((2, 4), (24, 36), (24, 32)), cuboid((0, 1), (40, 44), (40, 44))],
           [cuboid((2, 4), (30, 36), (28, 36))]),
    Sample("healthy", [cuboid((3, 4), (28, 32), (28, 32))]),
]  # fmt: skip
TUNED: dict[str, Any] = {
    "threshold": 0.3, "min_component_ml": 0.5, "core_threshold": 0.8, "fill_holes": True, "hu_range": [40.0, 90.0],
    "head_only": True,
}  # fmt: skip


def artifact(kind: Any, folder: Path) -> Any:
    """An artifact at a folder."""
    made = kind()
    made.uri = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if kind is standard_artifacts.Examples:
        made.split_names = artifact_utils.encode_split_names(["train", "val", "test"])
    return made


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        (Arithmetic(), {}),
        (Arithmetic(specks_every=6), TUNED),
        (Arithmetic(level=45.0, across=True), {}),  # needs whole scans
        (Arithmetic(undefined=True), {}),
    ],
    ids=["plain", "tuned", "whole-scans", "not-a-number"],
)
def test_the_dice_that_a_strip_shows_is_the_gates(tmp_path: Path, network: Arithmetic, changes: dict[str, Any]) -> None:
    export(tmp_path / "model" / "Format-Serving", network, **changes)
    (tmp_path / "none").mkdir()
    note = {"version": None, "used": False, "reason": "no model is in service yet"}
    (tmp_path / "none" / "baseline.json").write_text(json.dumps(note))
    records = [record for sample in SAMPLES for record in sample.examples()]
    shards = [records[::2], records[1::2]]  # no shard holds a whole scan
    result = evaluate(tmp_path / "gate", listed(SAMPLES), shards, tmp_path / "model", tmp_path / "none")
    (tmp_path / "findings").mkdir()
    (tmp_path / "findings" / "findings.json").write_text("[]")
    RunReporter.EXECUTOR_SPEC.executor_class._FUNCTION(
        evaluation=artifact(standard_artifacts.ModelEvaluation, tmp_path / "gate" / "evaluation"),
        examples=artifact(standard_artifacts.Examples, tmp_path / "gate" / "examples"),
        model=artifact(standard_artifacts.Model, tmp_path / "model"),
        model_run=artifact(standard_artifacts.ModelRun, tmp_path / "model_run"),
        findings=artifact(DataReport, tmp_path / "findings"),
        report=artifact(RunReport, tmp_path / "report"),
        name="tiny", config="{}", program="c0de", code_version="1",
    )  # fmt: skip
    content = json.loads((tmp_path / "report" / "run_report.json").read_text())
    strips = {strip["case_id"]: strip for strip in content["strips"]}
    assert len(strips) >= 3 and [role for strip in strips.values() for role in strip["roles"]][:2] == ["best", "median"]
    for case, strip in strips.items():
        measured = result.verdict["by_case"][case]
        assert strip["dice"] == measured["patient_dice"] == strip["measures"]["dice"], case
        # 5 mm between slices of 3 x 3 mm: what is drawn has the volumes that were measured.
        voxel_ml = 5 * 3 * 3 / 1000
        drawn = {
            name: sum(pixels(item[name], (64, 64)).sum() for item in strip["slices"]) * voxel_ml
            for name in ("false_positive", "missed")
        }
        assert drawn["false_positive"] - drawn["missed"] == pytest.approx(
            measured["predicted_volume_ml"] - measured["true_volume_ml"], abs=1e-6
        )
    page = (tmp_path / "report" / "run_report.html").read_text()
    assert "(the gate measured" not in page and page.count('class="viewer"') == len(strips)


def test_a_scan_whose_slices_are_not_all_there_is_named(tmp_path: Path) -> None:
    from tests.cases import write_shard

    export(tmp_path / "model", Arithmetic())
    write_shard(tmp_path / "examples" / "Split-test" / "examples-0.gz", SAMPLES[0].examples()[:-1])
    examples = artifact(standard_artifacts.Examples, tmp_path / "examples")
    with pytest.raises(IchError, match="case exact: the examples of the test split do not hold all of its slices"):
        list(outline_scans(str(tmp_path / "model"), contract(), examples, ["exact"]))
    assert list(outline_scans("nowhere", contract(), examples, [])) == []  # no model is loaded for nothing
