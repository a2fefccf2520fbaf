"""Patients and splits: together, stable, in the shares asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from components.imaging.errors import UsageError
from components.nifti_example_gen.layout import Case
from components.nifti_example_gen.splits import deal, refuse_empty, split_of
from schema.features import SPLITS

SHARES = {"train": 70, "val": 20, "test": 10, "salt": ""}


def case(name: str, patient: str | None = None, split: str = "") -> Case:
    return Case(name, patient or name, Path(f"{name}.nii"), Path(f"{name}_m.nii"), split)


def test_shares_over_many_patients() -> None:
    counts = Counter(split_of(case(f"patient {number}"), SHARES) for number in range(10_000))
    # Five standard deviations of a draw of 10,000.
    assert counts["train"] == pytest.approx(7000, abs=230)
    assert counts["val"] == pytest.approx(2000, abs=200)
    assert counts["test"] == pytest.approx(1000, abs=150)


def test_a_patient_stays_where_it_is() -> None:
    """These are fixed for ever: another hash would move patients from one run's train to the next one's test."""
    assert [split_of(case(f"{number:03}"), SHARES) for number in range(12)] == [
        "val", "train", "train", "test", "val", "test", "val", "val", "train", "train", "train", "train",
    ]  # fmt: skip


def test_scans_of_a_patient_stay_together_whatever_the_case_is_called() -> None:
    for patient in range(50):
        scans = [case(f"scan {number} of {patient}", f"p{patient}") for number in range(5)]
        assert len({split_of(scan, SHARES) for scan in scans}) == 1


def test_another_salt_deals_anew() -> None:
    cases = [case(str(number)) for number in range(1000)]
    moved = sum(split_of(item, SHARES) != split_of(item, {**SHARES, "salt": "again"}) for item in cases)
    # Two independent draws differ with probability 1 - (0.7² + 0.2² + 0.1²).
    assert moved / 1000 == pytest.approx(0.46, abs=0.08)


def test_more_training_takes_from_the_others_only() -> None:
    cases = [case(str(number)) for number in range(1000)]
    before = {item.case_id for item in cases if split_of(item, SHARES) == "train"}
    after = {item.case_id for item in cases if split_of(item, {**SHARES, "train": 80, "val": 10}) == "train"}
    assert before < after


@pytest.mark.parametrize("split", SPLITS)
def test_the_manifest_wins(split: str) -> None:
    assert {split_of(case(str(number), split=split), SHARES) for number in range(50)} == {split}


def test_every_case_is_dealt_once_in_order() -> None:
    cases = [case(f"{number:03}", f"p{number // 2}") for number in range(100)]
    dealt = deal(cases, SHARES)
    assert list(dealt) == list(SPLITS)
    assert sorted(item for members in dealt.values() for item in members) == cases
    assert all(members == sorted(members) for members in dealt.values())
    patients = [{item.patient_id for item in members} for members in dealt.values()]
    assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])


def test_an_empty_split_is_refused_with_the_counts_of_patients() -> None:
    cases = [case("a", "p", "train"), case("b", "p", "train"), case("c", "q", "test")]
    with pytest.raises(UsageError, match=r"train 1, val 0, test 1, wanted at least one in each.*splits\.salt"):
        deal(cases, SHARES)
    with pytest.raises(UsageError, match="train 0, val 0, test 0"):
        deal([], SHARES)
    refuse_empty({"train": 1, "val": 1, "test": 1})
