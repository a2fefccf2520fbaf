"""No real scan at hand is quarantined, and what is warned of is known."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.imaging.checks.case import check_case
from pipeline.check import check_folder
from pipeline.config import load_config

DATA = Path(os.environ.get("ICH_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}; set ICH_REAL_DATA")


@pytest.mark.parametrize("name", ["phe_sich", "ct_ich"])
def test_no_scan_of_a_cohort_is_quarantined_and_warnings_are_rare(name: str) -> None:
    report = check_folder(DATA / name, load_config(name))
    assert len(report.cases) >= 20 and report.quarantined == ()
    # Recovered from 8-bit windows, all of them: said once, of the source.
    (clipped,) = [item for item in report.codes() if item.trait]
    assert clipped.code == "hu-clipped"
    others = [finding for case in report.cases for finding in case.findings if finding.code != "hu-clipped"]
    assert len(others) <= 0.05 * len(report.cases)


@pytest.mark.parametrize("path", ["rsna_ich_volume.nii.gz", "negative/cq500_ct0.nii.gz"])
def test_a_scan_in_true_hu_has_no_finding(path: str) -> None:
    assert check_case(DATA / path, None, load_config("phe_sich").data.model_dump(mode="json")).findings == ()
