"""A real DICOM series with a tilted gantry and identifiers that are no UIDs, against its NIfTI."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from components.imaging.dicom.choose import choose_series
from components.imaging.dicom.read import read_series
from components.imaging.dicom.series import find_series
from components.imaging.geometry import Orientation

DATA = Path(os.environ.get("ICH_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}; set ICH_REAL_DATA")


def test_the_series_is_the_nifti_but_for_the_tilt() -> None:
    found = find_series(DATA / "rsna_dicom")
    series, reason = choose_series(found.series)
    scan = read_series(series)
    nifti = nib.Nifti1Image.from_filename(DATA / "rsna_ich_volume.nii.gz")
    assert "36 slices every 5 mm" in reason and "8 degrees off axial" in reason
    assert found.skipped == 0 and found.findings == () and scan.findings == ()

    # The NIfTI cut what lies outside the scanner's circle to -1024; the files have it at -2048 and so on.
    assert scan.volume.data.shape == nifti.shape
    assert np.array_equal(np.maximum(scan.volume.data, -1024), np.asarray(nifti.dataobj))

    # Both begin at the same place and go upwards by the same step. The NIfTI has its rows level; in the files they
    # rise by the tilt, so the two drift apart along a row's way back: 8 degrees over 512 rows are 35 mm.
    mine, theirs = scan.volume.affine, nifti.affine
    assert mine[:3, 3] == pytest.approx(theirs[:3, 3], abs=1e-3)
    assert mine[:3, 2] == pytest.approx(theirs[:3, 2], abs=1e-3)
    assert np.linalg.norm(mine[:3, :2], axis=0) == pytest.approx(np.linalg.norm(theirs[:3, :2], axis=0), abs=1e-4)
    tilt = np.degrees(np.arctan2(mine[2, 1], mine[1, 1]))
    assert min(abs(tilt), 180 - abs(tilt)) == pytest.approx(8.0, abs=0.05)
    # Across slices, which is what volumes count, the step is shorter by the cosine.
    across = Orientation.of(mine).spacing_mm[0]
    assert across == pytest.approx(mine[2, 2] * np.cos(np.radians(8.0)), abs=1e-3)
    assert across == pytest.approx(5.0, abs=1e-3)
