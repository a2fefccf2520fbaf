"""The listing of a cohort: counts by split, order, and the fingerprint of its content."""

from __future__ import annotations

import dataclasses
import json

from components.nifti_example_gen.cases import summarise_cases
from components.nifti_example_gen.examples import CaseRecord
from components.nifti_example_gen.layout import Quarantined


def record(
    case: str, patient: str, split: str, slices: int, lesion_slices: int, ml: float, size_bin: str, digest: str
) -> CaseRecord:
    """A record whose geometry and HU do not matter."""
    return CaseRecord(
        case, patient, split, slices, lesion_slices, ml, size_bin, digest,
        spacing_mm=[5.0, 0.5, 0.5], native_shape=[slices, 512, 512], orientation="LPS",
        brain_hu_mean=33.0, brain_hu_sd=None, head_hu={"head_hu_p50": 34.0},
    )  # fmt: skip


RECORDS = [
    record("b", "p1", "train", 20, 3, 12.5, "medium", "00ff"),
    record("a", "p1", "train", 30, 0, 0.0, "none", "11ff"),
    record("c", "p2", "test", 10, 1, 0.5, "small", "22ff"),
]


def fingerprint(*records: CaseRecord) -> str:
    return str(summarise_cases(records, [])["fingerprint"])


def test_counts_by_split() -> None:
    summary = summarise_cases(RECORDS, [Quarantined("z", "dtype", "why"), Quarantined("y", "no-head", "why")])
    assert summary["splits"] == {
        "train": {"patients": 1, "scans": 2, "slices": 50, "lesion_slices": 3},
        "val": {"patients": 0, "scans": 0, "slices": 0, "lesion_slices": 0},
        "test": {"patients": 1, "scans": 1, "slices": 10, "lesion_slices": 1},
    }
    assert [case["case_id"] for case in summary["cases"]] == ["a", "b", "c"]
    assert [item["case_id"] for item in summary["quarantined"]] == ["y", "z"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_the_fingerprint_is_of_content_and_splits_in_no_order() -> None:
    whole = fingerprint(*RECORDS)
    assert fingerprint(*RECORDS[::-1]) == whole
    assert summarise_cases(RECORDS, [Quarantined("z", "dtype", "why")])["fingerprint"] == whole
    for changed in (
        RECORDS[:2],
        [],
        [*RECORDS[:2], dataclasses.replace(RECORDS[2], digest="33ff")],
        [*RECORDS[:2], dataclasses.replace(RECORDS[2], split="val")],
        [*RECORDS[:2], dataclasses.replace(RECORDS[2], case_id="d")],
    ):
        assert fingerprint(*changed) != whole
