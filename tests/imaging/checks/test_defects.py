"""Every planted defect ends under its code; sound scans end under none that is an error."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.imaging.checks.case import CaseCheck, check_case
from components.imaging.checks.registry import CHECKS
from components.imaging.geometry import Orientation
from components.imaging.phantom import DEFECTS, CohortSummary, write_cohort
from tests.imaging.checks.data import data_section

# Code and severity that each defect alone must have; the data section where it is not the default.
EXPECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "truncated-gzip": ("truncated", {}),
    "bit-flipped-gzip": ("unreadable", {}),
    "not-nifti": ("not-nifti", {}),
    "empty-file": ("empty-file", {}),
    "short-body": ("truncated", {}),
    "huge-claim": ("too-large", {}),
    "four-dimensional": ("dimensions", {}),
    "one-frame": ("single-frame", {}),
    "one-slice": ("few-slices", {"min_slices": 2}),
    "nan-voxels": ("not-finite", {}),
    "inf-voxels": ("not-finite", {}),
    "constant": ("constant", {}),
    "complex-dtype": ("dtype", {}),
    "rgb-dtype": ("dtype", {}),
    "float64": ("wide-dtype", {}),
    "slope-zero": ("scale-unset", {}),
    "slope-nan": ("scale-unset", {}),
    "hu-shifted-1024": ("hu-shifted", {}),
    "hu-0-255": ("hu-8bit", {}),
    "hu-0-1": ("hu-normalised", {}),
    "hu-wrapped": ("hu-wrapped", {}),
    "hu-windowed": ("hu-windowed", {}),
    "hu-clipped": ("hu-clipped", {}),
    "mr-like": ("hu-foreign", {}),
    "no-head": ("no-head", {}),
    "no-skull": ("no-skull", {}),
    "motion": ("motion", {}),
    "metal": ("metal", {}),
    "unset-codes": ("codes-unset", {}),
    "sform-qform-disagree": ("forms-offset", {}),
    "sform-qform-mirrored": ("forms-disagree", {}),
    "zero-spacing": ("geometry", {}),
    "negative-spacing": ("negative-spacing", {}),
    "absurd-spacing": ("spacing", {}),
    "sheared-affine": ("sheared", {}),
    "sheared-plane": ("sheared-plane", {}),
    "non-axial": ("non-axial", {}),
    "missing-slice": ("slice-gap", {}),
    "duplicated-slice": ("slice-duplicated", {}),
    "reversed-slices": ("slices-reversed", {}),
    "mask-other-shape": ("mask-shape", {}),
    "mask-other-affine": ("mask-affine", {}),
    "mask-rounded-affine": ("mask-affine-rounded", {}),
    "labels-255": ("mask-255", {}),
    "float-mask": ("mask-soft", {}),
    "multi-class-mask": ("mask-classes", {}),
    "mask-equals-image": ("mask-is-image", {}),
    "mask-of-brain": ("mask-brain", {}),
    "empty-mask": ("mask-empty", {"expect_lesions": True}),
    "mask-outside-head": ("mask-outside", {}),
}

# In the pairing of files or the manifest; `test_cohort` and `tests/pipeline/test_check.py` have them.
BETWEEN_CASES = {"missing-mask", "mask-without-image", "duplicated-image", "same-patient-two-splits"}

# Handled by orientation, so nothing is said of it.
SILENT = {"mirrored"}

# What else a defect rightly shows.
ALSO = {
    "absurd-spacing": {"non-axial"},
    "non-axial": {"spacing"},
    "metal": {"slice-gap", "mask-stray"},
    "no-skull": {"slice-gap"},
    "unset-codes": {"spacing", "non-axial"},  # without codes, storage along another axis cannot be told
}


STATISTICAL = ("missing-slice", "reversed-slices", "motion", "metal", "no-skull", "mr-like", "hu-shifted-1024")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortSummary:
    """Sound patients, and a case a defect."""
    out = tmp_path_factory.mktemp("checks") / "cohort"
    return write_cohort(out, patients=12, seed=3, size="tiny", defects=["all"])


def _check(cohort: CohortSummary, case_id: str, **changes: Any) -> CaseCheck:
    record = next(record for record in cohort.cases if record.case_id == case_id)
    return check_case(cohort.out / record.image, cohort.out / record.mask, data_section(**changes))


def test_every_defect_is_expected_somewhere() -> None:
    assert set(EXPECTED) | BETWEEN_CASES | SILENT == set(DEFECTS)
    assert len(EXPECTED) >= 35


@pytest.mark.parametrize("defect", EXPECTED)
def test_a_defect_is_caught_with_its_code_and_little_else(cohort: CohortSummary, defect: str) -> None:
    code, changes = EXPECTED[defect]
    found = {finding.code: finding for finding in _check(cohort, defect, **changes).findings}
    assert code in found
    assert found[code].severity == CHECKS[code].severity
    assert defect in found[code].message  # the file is named
    assert set(found) <= {code} | ALSO.get(defect, set())


@pytest.mark.parametrize("defect", sorted(BETWEEN_CASES - {"missing-mask", "mask-without-image"} | SILENT))
def test_a_case_that_is_sound_alone_has_no_finding(cohort: CohortSummary, defect: str) -> None:
    assert _check(cohort, defect).findings == ()


def test_sound_patients_have_no_finding(cohort: CohortSummary) -> None:
    sound = [record for record in cohort.cases if not record.defect]
    assert len(sound) == 12
    for record in sound:
        assert [finding.code for finding in _check(cohort, record.case_id, min_slices=2).findings] in ([], ["sheared"])


@lru_cache(maxsize=1)
def _other_seed(folder: Path) -> CohortSummary:
    return write_cohort(folder, patients=1, seed=12, size="tiny", defects=STATISTICAL)


@pytest.mark.parametrize("defect", STATISTICAL)
def test_statistics_do_not_hang_on_one_patient(tmp_path_factory: pytest.TempPathFactory, defect: str) -> None:
    other = _other_seed(tmp_path_factory.getbasetemp() / "other-seed")
    assert EXPECTED[defect][0] in {finding.code for finding in _check(other, defect).findings}


def test_a_repaired_case_keeps_its_lesion(cohort: CohortSummary) -> None:
    """The lesion, brought to the scan's canonical grid, is where the scan is as bright as blood."""
    for defect in ("labels-255", "mask-rounded-affine", "one-frame", "float64", "slope-nan", "negative-spacing"):
        checked = _check(cohort, defect)
        assert checked.error is None and checked.volume is not None and checked.lesion is not None
        hu = Orientation.of(checked.volume.affine).to_canonical(checked.volume.data)
        assert 38 < np.median(hu[checked.lesion]) < 82
