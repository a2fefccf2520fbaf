"""The gate's component on real artifacts, as TFX runs it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_artifacts

from components.evaluator.component import Evaluator
from components.nifti_example_gen.examples import Ingested, slice_examples
from components.nifti_example_gen.layout import Case
from pipeline.config import BeamConfig
from pipeline.pipeline import SCHEMA
from tests.cases import Sample, write_shard


@dataclass(frozen=True)
class Result:
    """What an evaluation left behind."""

    verdict: dict[str, Any]
    blessed: bool
    blessing: Any


def listed(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """What ingestion writes to `cases.json` of these as the test split, and of another scan for training."""
    return [
        asdict(slice_examples(
            Case(sample.case_id, sample.patient_id or sample.case_id, Path("image"), Path("mask")), split,
            Ingested(sample.scan(), sample.mask), 0,
        )[1])
        for split, members in (("test", samples), ("train", [Sample("t")])) for sample in members
    ]  # fmt: skip


def evaluate(
    folder: Path,
    cases: Sequence[dict[str, Any]],
    shards: Sequence[Sequence[bytes]],
    candidate: Path,
    baseline: Path,
    *,
    beam: BeamConfig | None = None,
    **gate: Any,
) -> Result:
    """Runs the component's executor with its own properties on real artifacts; `beam` says how Beam runs."""

    def artifact(kind: Any, path: Path) -> Any:
        made = kind()
        made.uri = str(path)
        path.mkdir(parents=True, exist_ok=True)
        return made

    examples = artifact(standard_artifacts.Examples, folder / "examples")
    examples.split_names = artifact_utils.encode_split_names(["train", "val", "test"])
    for number, records in enumerate(shards):
        write_shard(folder / "examples" / "Split-test" / f"examples-{number}.gz", records)
    # Another split with another truth must not be looked at.
    write_shard(folder / "examples" / "Split-train" / "examples-0.gz", Sample("t").examples("train"))
    (folder / "examples" / "cases.json").write_text(json.dumps({"cases": cases}))
    schema = artifact(standard_artifacts.Schema, folder / "schema")
    (folder / "schema" / "schema.pbtxt").write_text(SCHEMA.read_text())
    inputs = {
        "examples": [examples],
        "model": [artifact(standard_artifacts.Model, candidate)],
        "baseline_model": [artifact(standard_artifacts.Model, baseline)],
        "schema": [schema],
    }
    outputs = {
        "evaluation": [artifact(standard_artifacts.ModelEvaluation, folder / "evaluation")],
        "blessing": [artifact(standard_artifacts.ModelBlessing, folder / "blessing")],
    }
    component = Evaluator(
        **{name: types.channel_utils.as_channel(found) for name, found in inputs.items()},
        gate={"min_mean_dice": 0.3, "max_dice_drop": 0.02, "min_test_patients": 5, **gate},
        code_version="1",
    )
    context = base_beam_executor.BaseBeamExecutor.Context(
        beam_pipeline_args=(beam or BeamConfig()).pipeline_args(), tmp_dir=str(folder / "tmp")
    )
    component.executor_spec.executor_class(context).Do(inputs, outputs, dict(component.exec_properties))
    verdict = json.loads((folder / "evaluation" / "verdict.json").read_text())
    marks = {path.name for path in (folder / "blessing").iterdir()}
    assert marks in ({"BLESSED"}, {"NOT_BLESSED"})
    return Result(verdict, marks == {"BLESSED"}, outputs["blessing"][0])
