"""The content: figures by hand, what decides the verdict, where remedies come from."""

from __future__ import annotations

import json
from typing import Any

import pytest

from components.data_report.content import at_a_glance, collect
from tests.components.data_report.listings import finding, listing, quarantined, record


def content(data: dict[str, Any], findings: Any = (), **more: Any) -> dict[str, Any]:
    """The content of a report, which is strict JSON."""
    made = collect(data, findings, name="demo", **more)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    return made


def test_a_cohort_at_a_glance_by_hand() -> None:
    cases = [
        record("a1", lesion_ml=10.0, patient_id="a"),
        record("a2", lesion_ml=30.0, patient_id="a", lesion_slices=7),
        record("b", lesion_ml=0.0, slices=30),
    ]
    found = at_a_glance(cases)
    assert {key: found[key] for key in found if key != "blood_ml"} == {
        "patients": 2, "scans": 3, "scans_with_blood": 2, "slices": 70, "slices_with_blood": 12, "blood_ml_total": 40.0,
    }  # fmt: skip
    assert found["blood_ml"]["median"] == 20.0 and found["blood_ml"]["n"] == 2


def test_splits_and_the_data_before_stand_side_by_side() -> None:
    before = listing(record("z", lesion_ml=4.0), span=3)
    found = content(listing(record("a"), record("v", "val"), record("b"), span=4), previous=before)
    counts = {name: found["cohort"][name]["scans"] for name in ("train", "val", "test", "all", "previous")}
    assert counts == {"train": 2, "val": 1, "test": 0, "all": 3, "previous": 1}
    assert (found["span"], found["previous_span"]) == (4, 3)
    volumes = next(item for item in found["distributions"] if item["key"] == "lesion_ml")
    assert volumes["groups"]["previous"]["counts"] == [0, 0, 1, 0, 0, 0, 0, 0]


def test_no_lesion_at_all() -> None:
    found = content(listing(record("a", lesion_ml=0.0), record("b", "val", 0.0)))
    assert found["cohort"]["all"]["blood_ml"] is None
    assert found["cohort"]["all"]["blood_ml_total"] == 0
    volumes = next(item for item in found["distributions"] if item["key"] == "lesion_ml")
    assert volumes["groups"]["train"]["counts"] == [1, 0, 0, 0, 0, 0, 0, 0]


def test_no_scan_at_all() -> None:
    found = content(listing(quarantined=[quarantined("a")]), [finding("stop", split="", feature="(scans)")])
    assert found["cohort"]["all"]["scans"] == 0
    assert found["distributions"] == []
    assert found["verdict"]["status"] == "stopped"


@pytest.mark.parametrize(
    ("severities", "quarantine", "status", "headline"),
    [
        ([], 0, "clean", "All 2 scans are in use, and nothing was found against them."),
        ([], 1, "notes", "2 of 3 scans are in use: 1 quarantined."),
        (["note", "warning"], 0, "notes", "All 2 scans are in use: 2 notes."),
        (["note", "hold"], 1, "held", "A model trained on this data is not released, for 1 reason. 2 of 3"),
        (["hold", "stop", "error", "note"], 0, "stopped", "Nothing was trained, for 2 reasons. All 2 scans"),
    ],
)
def test_the_gravest_finding_decides(severities: list[str], quarantine: int, status: str, headline: str) -> None:
    bad = [quarantined(f"q{number}") for number in range(quarantine)]
    findings = [finding(severity, description=f"found {severity}") for severity in severities]
    found = content(listing(record("a"), record("b"), quarantined=bad), findings)["verdict"]
    assert found["status"] == status
    assert found["headline"].startswith(headline)
    if status == "held":
        assert found["reasons"] == ["train: brain_hu_mean: found hold"]


def test_findings_come_with_the_gravest_first_and_keep_their_figures() -> None:
    found = content(listing(record("a")), [finding("note"), finding("hold", feature="z"), finding("error", value=None)])
    assert [item["severity"] for item in found["findings"]] == ["stop", "hold", "note"]
    assert (found["findings"][1]["value"], found["findings"][1]["bound"]) == (0.6123, 0.2)
    assert found["findings"][0]["value"] is None


def test_an_unknown_severity_is_refused() -> None:
    with pytest.raises(ValueError, match="'fatal'"):
        content(listing(record("a")), [finding("fatal")])


def test_a_remedy_comes_from_the_registry_else_from_the_reason() -> None:
    bad = [
        quarantined("a", "known", "f.nii: ends early; copy it anew"),
        quarantined("b", "other", "f.nii: ends early; at byte 5; copy it anew"),
        quarantined("c", "other", "f.nii: ends early"),
    ]
    pictures = {"a": "data:image/webp;base64,AAAA"}
    explanations = {"known": ("It ends early.", "Copy it.")}
    found = content(listing(quarantined=bad), thumbnails=pictures, explanations=explanations)["quarantine"]
    assert [(item["explanation"], item["reason"], item["remedy"], item["thumbnail"]) for item in found] == [
        ("It ends early.", "f.nii: ends early; copy it anew", "Copy it.", pictures["a"]),
        ("", "f.nii: ends early; at byte 5", "copy it anew", None),
        ("", "f.nii: ends early", "", None),
    ]


def test_warnings_and_repairs_are_gathered_by_code_with_warnings_first() -> None:
    found = content(
        listing(
            record("a"),
            record("b"),
            findings=[
                {"case_id": "b", "code": "sheared", "severity": "fixed", "message": "tilted by 12 degrees"},
                {"case_id": "b", "code": "metal", "severity": "warning", "message": "3 ml of metal"},
                {"case_id": "a", "code": "sheared", "severity": "fixed", "message": "tilted by 5 degrees"},
                {"case_id": "q", "code": "truncated", "severity": "error", "message": "stands in the quarantine"},
            ],
        ),
        explanations={"metal": ("Metal.", "Look at it.")},
    )
    remarks = found["remarks"]
    assert [(item["severity"], item["code"]) for item in remarks] == [("warning", "metal"), ("fixed", "sheared")]
    assert [[case["case_id"] for case in item["cases"]] for item in remarks] == [["b"], ["a", "b"]]
    assert found["remarks"][0]["remedy"] == "Look at it."
    assert found["verdict"]["headline"] == "All 2 scans are in use: 1 warning, 2 repairs."


def test_measured_distances_come_with_the_nearest_to_its_bound_first() -> None:
    measured = [{"feature": name, "split": "train", "value": value, "bound": bound}
                for name, value, bound in (("a", 0.1, 1.0), ("b", 0.3, 0.2), ("c", 0.2, 0.4))]  # fmt: skip
    comparison = {"references": [{"name": "the data before"}], "measurements": measured}
    found = content(listing(record("a")), comparison=comparison)
    assert [item["feature"] for item in found["measurements"]] == ["b", "c", "a"]
    assert found["references"] == [{"name": "the data before"}]
