"""What follows from findings."""

from __future__ import annotations

import json

import pytest

from components.data_validator.findings import Finding, holding, refuse_stops, to_json
from components.imaging.errors import DataError


def finding(severity: str, kind: str = "drift", feature: str = "size_bin", split: str = "train") -> Finding:
    return Finding(split, feature, kind, severity, f"rule {feature}", f"long {feature}", 0.5, 0.25)


def test_json_holds_every_field_the_gravest_first() -> None:
    found = json.loads(to_json([finding("note"), finding("hold"), finding("stop", "anomalies")]))
    assert [item["severity"] for item in found] == ["stop", "hold", "note"]
    assert found[1] == {
        "split": "train", "feature": "size_bin", "kind": "drift", "severity": "hold", "rule": "rule size_bin",
        "description": "long size_bin", "value": 0.5, "bound": 0.25,
    }  # fmt: skip
    assert json.loads(to_json([])) == []


def test_holding() -> None:
    assert holding(to_json([finding("note")])) == []
    assert [item["severity"] for item in holding(to_json([finding("note"), finding("hold")]))] == ["hold"]


def test_only_stops_stop_and_are_listed_by_split_and_feature() -> None:
    refuse_stops([finding("hold"), finding("note")])
    with pytest.raises(DataError) as caught:
        refuse_stops(
            [finding("stop", "anomalies"), finding("hold", feature="x"), finding("stop", "quarantined", "y", "")]
        )
    message = str(caught.value)
    assert "breaks 2 rule(s)" in message and "nothing was trained" in message
    assert "  train: size_bin: long size_bin" in message and "  all: y: long y" in message
    assert "long x" not in message
    assert "validation.anomalies, validation.quarantined to hold or note" in message
    assert caught.value.exit_code == 1


def test_a_limit_of_the_data_section_is_no_severity_to_lower() -> None:
    limit = Finding("", "(scans)", "quarantined", "stop", "data.max_quarantined", "30 of 60 scans")
    with pytest.raises(DataError, match=r"if the data is right, raise data\.max_quarantined$"):
        refuse_stops([limit])
    with pytest.raises(DataError, match=r"raise data\.max_quarantined, or widen .* validation\.anomalies to hold"):
        refuse_stops([limit, finding("stop", "anomalies")])
