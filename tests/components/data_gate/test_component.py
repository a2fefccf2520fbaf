"""The whole way from examples through TFDV's statistics and ExampleValidator to the gate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tfx.v1 as tfx
from tensorflow.core.example.example_pb2 import Example
from tfx.components.example_validator import executor as validator
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import import_utils

import tensorflow_data_validation as tfdv  # isort: skip - tfx goes first: it stands in for a module that is gone
from tensorflow_data_validation.statistics import stats_impl
from tfx_bsl.coders import example_coder

from components.data_gate.component import DataGate
from components.imaging.errors import DataError
from components.types import DataReport
from pipeline.pipeline import SCHEMA
from schema import features as f
from tests.cases import Sample, cuboid

SPLITS = ("train", "val", "test")
Edit = Callable[[Example], None]


def sound() -> list[Example]:
    """The slices of one case with blood and one without."""
    blood = [cuboid((1, 3), (30, 36), (30, 36))]
    records = [*Sample("a", blood, blood).examples(), *Sample("b").examples()]
    return [Example.FromString(record) for record in records]


def floats(name: str, value: float) -> Edit:
    """Sets a float feature."""

    def edit(example: Example) -> None:
        example.features.feature[name].float_list.value[:] = [value]

    return edit


def text(name: str, value: bytes) -> Edit:
    """Sets a bytes feature."""

    def edit(example: Example) -> None:
        example.features.feature[name].bytes_list.value[:] = [value]

    return edit


def without(name: str) -> Edit:
    """Drops a feature."""

    def edit(example: Example) -> None:
        del example.features.feature[name]

    return edit


def twice(name: str) -> Edit:
    """Gives a float feature two values."""

    def edit(example: Example) -> None:
        example.features.feature[name].float_list.value.append(1.0)

    return edit


def statistics(examples: list[Example]) -> bytes:
    """TFDV's statistics with the options of the pipeline."""
    decoder = example_coder.ExamplesToRecordBatchDecoder()
    batch = decoder.DecodeBatch([example.SerializeToString() for example in examples])
    options = tfdv.StatsOptions(feature_allowlist=list(f.STATISTICS_FEATURES), num_values_histogram_buckets=3)
    columns = [name for name in batch.schema.names if name in f.STATISTICS_FEATURES]
    found = stats_impl.generate_statistics_in_memory(batch.select(columns), options)
    return bytes(found.SerializeToString())


def gate(folder: Path, splits: Mapping[str, list[Example]]) -> tuple[list[dict[str, str]], DataError | None]:
    """Runs ExampleValidator and the gate; returns what `findings.json` says and what was raised."""

    def artifact(kind: Any, name: str) -> Any:
        made = kind()
        made.uri = str(folder / name)
        Path(made.uri).mkdir(parents=True)
        return made

    stats, schema = artifact(standard_artifacts.ExampleStatistics, "stats"), artifact(standard_artifacts.Schema, "s")
    anomalies, report = artifact(standard_artifacts.ExampleAnomalies, "anomalies"), artifact(DataReport, "report")
    stats.split_names = artifact_utils.encode_split_names(list(splits))
    for name, examples in splits.items():
        path = folder / "stats" / f"Split-{name}" / "FeatureStats.pb"
        path.parent.mkdir()
        path.write_bytes(statistics(examples))
    (folder / "s" / "schema.pbtxt").write_text(SCHEMA.read_text())
    validator.Executor().Do(
        {"statistics": [stats], "schema": [schema]}, {"anomalies": [anomalies]}, {"exclude_splits": "[]"}
    )
    raised = None
    try:
        DataGate.test_call(anomalies=anomalies, report=report, code_version="1")
    except DataError as error:
        raised = error
    return json.loads((folder / "report" / "findings.json").read_text()), raised


def test_sound_data_passes_without_a_finding(tmp_path: Path) -> None:
    assert gate(tmp_path, {name: sound() for name in SPLITS}) == ([], None)


@pytest.mark.parametrize(
    ("edit", "feature", "described"),
    [
        (floats(f.PIXEL_SPACING_MM, 45.0), f.PIXEL_SPACING_MM, "45"),
        (floats(f.SLICE_SPACING_MM, 0.0), f.SLICE_SPACING_MM, "0"),
        (floats(f.BRAIN_HU_MEAN, 1060.0), f.BRAIN_HU_MEAN, "1060"),
        (floats(f.HEAD_HU_P50, -2000.0), f.HEAD_HU_P50, "-2000"),
        (text(f.SIZE_BIN, b"huge"), f.SIZE_BIN, "huge"),
        (without(f.LESION_VOLUME_ML), f.LESION_VOLUME_ML, "fraction"),
        (twice(f.HEAD_AREA_CM2), f.HEAD_AREA_CM2, ""),
    ],
)
def test_one_bad_slice_stops_the_run_and_is_named(
    tmp_path: Path, edit: Edit, feature: str, described: str
) -> None:
    bad = sound()
    edit(bad[3])
    findings, raised = gate(tmp_path, {"train": sound(), "val": bad, "test": sound()})
    assert {(item["split"], item["feature"], item["severity"]) for item in findings} == {("val", feature, "error")}
    assert described in findings[0]["description"]
    assert raised is not None
    assert f"val: {feature}: " in str(raised)
    assert "schema.pbtxt" in str(raised)


def test_a_scalar_that_is_nowhere_stops_the_run(tmp_path: Path) -> None:
    bad = sound()
    for example in bad:
        without(f.BRAIN_HU_SD)(example)
    findings, raised = gate(tmp_path, {"train": bad, "val": sound(), "test": sound()})
    assert [(item["split"], item["feature"]) for item in findings] == [("train", f.BRAIN_HU_SD)]
    assert raised is not None


def test_findings_of_all_splits_are_reported_together(tmp_path: Path) -> None:
    one, other = sound(), sound()
    floats(f.PIXEL_SPACING_MM, 45.0)(one[0])
    text(f.SIZE_BIN, b"huge")(other[0])
    _, raised = gate(tmp_path, {"train": one, "val": sound(), "test": other})
    assert raised is not None
    assert "train: pixel_spacing_mm: " in str(raised)
    assert "test: size_bin: " in str(raised)


def test_the_component_can_be_part_of_a_pipeline() -> None:
    anomalies = tfx.types.standard_artifacts.ExampleAnomalies()
    node = DataGate(anomalies=tfx.dsl.Channel(type=type(anomalies)), code_version="1")
    assert node.outputs["report"].type is DataReport


def test_kubeflow_finds_the_artifact_type_by_its_name() -> None:
    assert import_utils.import_class_by_path(DataReport.TYPE_NAME) is DataReport
    for name in ("NoReport", "nothing"):
        with pytest.raises(ImportError):
            import_utils.import_class_by_path(f"components.{name}")
