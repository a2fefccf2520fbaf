"""Dealing patients out to folds."""

from __future__ import annotations

from collections import Counter

import pytest

from components.imaging.errors import UsageError
from components.trainer.folds import PatientSlices, deal_folds, others


def cohort(bleeding: int, sound: int, prefix: str = "") -> dict[str, PatientSlices]:
    """Patients whose lesions are small, medium and large in turn, and patients without any."""
    ill = {f"{prefix}{n:03d}": PatientSlices(30, 5, (2.0, 12.0, 40.0)[n % 3]) for n in range(bleeding)}
    return ill | {f"{prefix}{n:03d}": PatientSlices(30, 0, 0.0) for n in range(bleeding, bleeding + sound)}


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
@pytest.mark.parametrize(("bleeding", "sound"), [(10, 0), (31, 17), (12, 50)])
def test_everyone_is_in_one_fold_and_folds_are_alike(folds: int, bleeding: int, sound: int) -> None:
    patients = cohort(bleeding, sound)
    dealt = deal_folds(patients, folds, "0")
    assert sorted(patient for fold in dealt for patient in fold) == sorted(patients)
    for wanted in (
        lambda found: True,
        lambda found: found.lesion > 0,
        lambda found: found.volume_ml == 40.0,
    ):
        sizes = [sum(wanted(patients[patient]) for patient in fold) for fold in dealt]
        assert max(sizes) - min(sizes) <= 1
    assert all(any(patients[patient].lesion for patient in fold) for fold in dealt)


def test_sources_are_spread() -> None:
    patients = cohort(11, 0, "phe_sich_") | cohort(7, 6, "ct_ich_")
    for fold in deal_folds(patients, 5, "0"):
        found = Counter(patient.rpartition("_")[0] for patient in fold)
        assert found["phe_sich"] in (2, 3)
        # 7 with lesion and 6 without are dealt one after the other.
        assert found["ct_ich"] in (2, 3, 4)


def test_the_deal_hangs_on_ids_and_salt_alone() -> None:
    patients = cohort(20, 5)
    shuffled = dict(reversed(patients.items()))
    assert deal_folds(patients, 4, "0") == deal_folds(shuffled, 4, "0")
    assert deal_folds(patients, 4, "0") != deal_folds(patients, 4, "1")


def test_a_network_trains_on_all_folds_but_one() -> None:
    assert others([["d", "a"], ["b"], ["c", "e"]], 1) == ["a", "c", "d", "e"]


@pytest.mark.parametrize(("bleeding", "remedy"), [(3, "3 or less"), (1, "to 1"), (0, "to 1")])
def test_more_folds_than_patients_with_lesion_are_refused(bleeding: int, remedy: str) -> None:
    patients = cohort(bleeding, 9)
    with pytest.raises(UsageError) as caught:
        deal_folds(patients, 4, "0")
    text = str(caught.value)
    assert f"training.folds: found 4, but {bleeding} of the {bleeding + 9} patients" in text
    assert f"set training.folds {remedy}" in text or f"set training.folds to {remedy}" in text
    if bleeding > 1:
        assert len(deal_folds(patients, bleeding, "0")) == bleeding
