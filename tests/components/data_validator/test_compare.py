"""What the training split is compared with, and which severity follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.data_validator.compare import Comparison, compare
from components.data_validator.store import entries, remember
from pipeline.config import ValidationConfig
from schema import features as f
from tests.components.data_validator.data import listing, patients, schema, statistics
from tests.models import unloadable

COUNT = 40
COUNTS = {"train": COUNT, "val": COUNT, "test": COUNT}


def cohort(seed: int, **shifts: float) -> dict[str, Any]:
    """Statistics by split."""
    return {split: statistics(patients(COUNT, 10 * seed + i, **shifts)) for i, split in enumerate(COUNTS)}


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return cohort(1)


@pytest.fixture(scope="module")
def shifted() -> dict[str, Any]:
    return cohort(2, brain_hu_mean=15)


def look(
    folder: Path, found: dict[str, Any], fingerprint: str = "now", *, span: int = 0, cases: int = 9, bad: int = 0,
    **validation: Any,
) -> Comparison:  # fmt: skip
    """Compares with what the folder remembers and serves."""
    return compare(
        listing(fingerprint, COUNTS, span=span, cases=cases, quarantined=bad),
        found,
        schema(),
        ValidationConfig(**validation).model_dump(),
        entries(str(folder / "statistics")),
        str(folder / "serving"),
        most_quarantined=0.5,
    )


def known(folder: Path, fingerprint: str, found: dict[str, Any], *, span: int = 0) -> None:
    remember(str(folder / "statistics"), listing(fingerprint, COUNTS, span=span), found)


def fired(result: Comparison) -> set[tuple[str, str, str, str]]:
    return {(item.kind, item.severity, item.split, item.feature) for item in result.findings}


HELD = {("drift", "hold", "train", f.BRAIN_HU_MEAN)}


def test_the_first_data_has_nothing_to_drift_from(tmp_path: Path, plain: dict[str, Any]) -> None:
    result = look(tmp_path, plain)
    assert (result.findings, result.references, result.previous) == ([], [], None)
    assert {item.kind for item in result.measurements} == {"skew"}


def test_drift_from_the_data_before_holds(tmp_path: Path, plain: dict[str, Any], shifted: dict[str, Any]) -> None:
    known(tmp_path, "old", plain, span=3)
    result = look(tmp_path, shifted, span=4)
    assert fired(result) == HELD
    assert result.previous is not None and result.previous.fingerprint == "old"
    assert [item["fingerprint"] for item in result.references] == ["old"]
    assert result.findings[0].rule == "drift against the data before (span 3)"
    assert fired(look(tmp_path, shifted, span=4, drift="note")) == {("drift", "note", "train", f.BRAIN_HU_MEAN)}
    assert fired(look(tmp_path, cohort(3), span=4)) == set()


def test_the_very_same_data_is_not_compared_with_itself(tmp_path: Path, plain: dict[str, Any]) -> None:
    known(tmp_path, "now", plain)
    unloadable(tmp_path / "serving" / "7", data_fingerprint="now")
    assert look(tmp_path, plain).references == []


def test_what_the_model_in_service_was_trained_on_still_counts_when_the_drift_goes_on(
    tmp_path: Path, plain: dict[str, Any], shifted: dict[str, Any]
) -> None:
    """A span that drifted and was held is the span before the next one, which looks just like it."""
    known(tmp_path, "first", plain, span=1)
    unloadable(tmp_path / "serving" / "6", data_fingerprint="unknown")
    unloadable(tmp_path / "serving" / "7", data_fingerprint="first")
    known(tmp_path, "second", shifted, span=2)
    result = look(tmp_path, cohort(4, brain_hu_mean=15), span=3)
    assert [item["fingerprint"] for item in result.references] == ["second", "first"]
    assert fired(result) == HELD
    assert {item.rule for item in result.findings} == {"drift against the training data of version 7 in service"}


def test_one_reference_in_both_roles_is_compared_once(
    tmp_path: Path, plain: dict[str, Any], shifted: dict[str, Any]
) -> None:
    known(tmp_path, "old", plain)
    unloadable(tmp_path / "serving" / "7", data_fingerprint="old")
    result = look(tmp_path, shifted)
    assert [item["fingerprint"] for item in result.references] == ["old"]
    assert "version 7 in service, which is the data before (of 20" in result.findings[0].rule
    assert len([item for item in result.measurements if item.kind == "drift"]) == 2 + len(f.FLOAT_FEATURES)


@pytest.mark.parametrize("broken", [False, True])
def test_a_model_whose_data_is_not_known_is_noted(tmp_path: Path, plain: dict[str, Any], broken: bool) -> None:
    unloadable(tmp_path / "serving" / "7", data_fingerprint="lost")
    if broken:
        (tmp_path / "serving" / "7" / "assets.extra" / "contract.json").write_text("{")
    (note,) = look(tmp_path, plain).findings
    assert (note.kind, note.severity) == ("drift", "note")
    assert ("contract" if broken else "lost") in note.description


def test_skew_of_val_and_test_against_train_is_noted(
    tmp_path: Path, plain: dict[str, Any], shifted: dict[str, Any]
) -> None:
    mixed = {**plain, "test": shifted["test"]}
    assert fired(look(tmp_path, mixed)) == {("skew", "note", "test", f.BRAIN_HU_MEAN)}
    assert fired(look(tmp_path, mixed, skew="hold")) == {("skew", "hold", "test", f.BRAIN_HU_MEAN)}


def test_anomalies_and_quarantine(tmp_path: Path, plain: dict[str, Any]) -> None:
    wild = {**plain, "val": statistics(patients(4, 1, brain_hu_mean=1000))}
    result = look(tmp_path, wild, cases=8, bad=2)
    assert {("anomalies", "stop", "val", f.BRAIN_HU_MEAN), ("quarantined", "hold", "", "(scans)")} <= fired(result)
    result = look(tmp_path, wild, cases=8, bad=2, anomalies="hold", quarantined="stop", max_quarantined=0.19)
    assert {("anomalies", "hold", "val", f.BRAIN_HU_MEAN), ("quarantined", "stop", "", "(scans)")} <= fired(result)


def test_too_few_scans_left_stop_the_run_whatever_the_severity(tmp_path: Path, plain: dict[str, Any]) -> None:
    held, stopped = (look(tmp_path, plain, cases=10, bad=bad, quarantined="note") for bad in (10, 11))
    assert [(item.severity, item.rule) for item in held.findings] == [("note", "share of quarantined scans")]
    assert [(item.severity, item.rule) for item in stopped.findings] == [("stop", "data.max_quarantined")]
    assert "11 of 21 scans are quarantined (truncated 11)" in stopped.findings[0].description
