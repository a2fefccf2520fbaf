"""Anomalies by hand: what becomes a finding, and what stops a run."""

from __future__ import annotations

import json

import pytest
from tensorflow_metadata.proto.v0 import anomalies_pb2

from components.data_gate.findings import Finding, refuse_errors, split_findings, to_json
from components.imaging.errors import DataError
from schema import features as f

ERROR, WARNING = anomalies_pb2.AnomalyInfo.ERROR, anomalies_pb2.AnomalyInfo.WARNING
MISSING = anomalies_pb2.AnomalyInfo.SCHEMA_MISSING_COLUMN
VALUE = anomalies_pb2.AnomalyInfo.ENUM_TYPE_UNEXPECTED_STRING_VALUES


def anomalies(**by_feature: tuple[int, list[int]]) -> bytes:
    """Serialised anomalies: severity and types of the reasons by feature."""
    made = anomalies_pb2.Anomalies()
    for name, (severity, types) in by_feature.items():
        info = made.anomaly_info[name]
        info.severity = severity
        info.short_description = f"short {name}"
        info.description = f"long {name}"
        for kind in types:
            info.reason.add(type=kind)
    return made.SerializeToString()


def test_no_anomalies_no_findings() -> None:
    assert split_findings("train", anomalies()) == []
    refuse_errors([])


def test_a_finding_says_split_feature_severity_and_rule() -> None:
    found = split_findings("val", anomalies(size_bin=(ERROR, [VALUE]), lesion_pixels=(WARNING, [VALUE])))
    assert found == [
        Finding("val", "lesion_pixels", "warning", "short lesion_pixels", "long lesion_pixels"),
        Finding("val", "size_bin", "error", "short size_bin", "long size_bin"),
    ]


@pytest.mark.parametrize("name", [f.IMAGE, f.MASK, f.NATIVE_MASK, f.CASE_ID, f.PATIENT_ID, f.AFFINE, f.SPACING_MM])
def test_what_has_no_statistics_is_not_missed(name: str) -> None:
    assert split_findings("train", anomalies(**{name: (ERROR, [MISSING])})) == []


@pytest.mark.parametrize("name", f.STATISTICS_FEATURES)
def test_a_missing_scalar_is_an_error(name: str) -> None:
    (found,) = split_findings("train", anomalies(**{name: (ERROR, [MISSING])}))
    assert (found.feature, found.severity) == (name, "error")


def test_pixels_with_another_anomaly_are_found() -> None:
    assert len(split_findings("train", anomalies(image=(ERROR, [MISSING, VALUE])))) == 1
    assert len(split_findings("train", anomalies(image=(ERROR, [VALUE])))) == 1


def test_an_anomaly_that_gives_no_reason_is_not_swallowed() -> None:
    assert len(split_findings("train", anomalies(image=(ERROR, [])))) == 1


def test_a_feature_that_the_schema_does_not_know_is_found() -> None:
    kind = anomalies_pb2.AnomalyInfo.SCHEMA_NEW_COLUMN
    (found,) = split_findings("train", anomalies(novelty=(ERROR, [kind])))
    assert found.feature == "novelty"


def test_anomalies_of_the_whole_data_set() -> None:
    made = anomalies_pb2.Anomalies()
    made.dataset_anomaly_info.severity = ERROR
    made.dataset_anomaly_info.description = "too few examples"
    (found,) = split_findings("test", made.SerializeToString())
    assert (found.feature, found.severity, found.description) == ("(whole data set)", "error", "too few examples")


def test_a_split_without_examples_is_an_error() -> None:
    (found,) = split_findings("test", anomalies_pb2.Anomalies(data_missing=True).SerializeToString())
    assert found.severity == "error"
    with pytest.raises(DataError, match=r"test: .* the split holds no examples"):
        refuse_errors([found])


def test_errors_stop_and_are_listed_by_split_and_feature() -> None:
    findings = [
        *split_findings("train", anomalies(size_bin=(ERROR, [VALUE]))),
        *split_findings("val", anomalies(brain_hu_mean=(ERROR, [VALUE]), lesion_pixels=(WARNING, [VALUE]))),
    ]
    with pytest.raises(DataError) as caught:
        refuse_errors(findings)
    message = str(caught.value)
    assert "2 place(s)" in message
    assert "  train: size_bin: long size_bin" in message
    assert "  val: brain_hu_mean: long brain_hu_mean" in message
    assert "lesion_pixels" not in message
    assert caught.value.exit_code == 1


def test_warnings_do_not_stop() -> None:
    findings = split_findings("train", anomalies(size_bin=(WARNING, [VALUE])))
    assert len(findings) == 1
    refuse_errors(findings)


def test_json_holds_every_field() -> None:
    findings = split_findings("train", anomalies(size_bin=(ERROR, [VALUE])))
    assert json.loads(to_json(findings)) == [
        {
            "split": "train",
            "feature": "size_bin",
            "severity": "error",
            "rule": "short size_bin",
            "description": "long size_bin",
        }
    ]
    assert json.loads(to_json([])) == []
