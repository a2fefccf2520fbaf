"""Thumbnails of files that show something and of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.data_report.pictures import thumbnail, thumbnails
from tests.components.pages.test_pictures import decoded
from tests.imaging.scans import ellipse_head, lps_affine, save, to_lps

SPACING = (5.0, 2.0, 4.0)


def test_a_thumbnail_is_three_slices_in_proportion(tmp_path: Path) -> None:
    head = ellipse_head((5, 100, 50), SPACING)
    head[:2], head[3:] = -1000, -1000
    shown = decoded(thumbnail(save(tmp_path / "a.nii.gz", to_lps(head), lps_affine(SPACING)), max_voxels=10**6))
    assert shown.shape == (96, 288)
    assert shown[48, 144] == pytest.approx((35 + 60) / 200 * 255, abs=12)
    assert shown[48, 48] < 12 and shown[48, 240] < 12 and shown[2, 144] < 12
    wide = ellipse_head((5, 100, 100), SPACING)
    shown = decoded(thumbnail(save(tmp_path / "b.nii.gz", to_lps(wide), lps_affine(SPACING)), max_voxels=10**6))
    rows, columns = (np.flatnonzero((shown[:, 96:192] > 60).any(axis=axis)) for axis in (1, 0))
    # As many mm high and wide as the head: 96 pixels are the 400 mm of the wider side.
    native = [np.flatnonzero((wide[2] > 0).any(axis=axis)) for axis in (1, 0)]
    for found, true, spacing in zip((rows, columns), native, SPACING[1:], strict=True):
        assert len(found) * 400 / 96 == pytest.approx(len(true) * spacing, abs=10)


def test_values_that_are_no_hu_are_stretched(tmp_path: Path) -> None:
    head = np.clip(ellipse_head((3, 64, 64), (5.0, 3.0, 3.0)), -100, 100).astype(np.float32) / 200 + 0.5
    shown = decoded(thumbnail(save(tmp_path / "a.nii.gz", to_lps(head), lps_affine((5.0, 3.0, 3.0))), max_voxels=10**6))
    assert shown.min() < 12 and shown.max() > 243


def test_what_shows_nothing_gives_no_thumbnail(tmp_path: Path) -> None:
    (tmp_path / "text.nii.gz").write_text("no NIfTI")
    spacing = (5.0, 3.0, 3.0)
    good = save(tmp_path / "good.nii.gz", to_lps(ellipse_head((3, 64, 64), spacing)), lps_affine(spacing))
    (tmp_path / "cut.nii.gz").write_bytes(good.read_bytes()[:-200])
    flat = save(tmp_path / "nan.nii", np.full((9, 9, 3), np.nan, np.float32), np.eye(4))
    images = {name: str(tmp_path / f"{name}.nii.gz") for name in ("text", "cut", "good", "absent")}
    found = thumbnails({**images, "nan": str(flat), "none": ""}, max_voxels=10**6, most=9)
    assert "good" in found and not {"text", "cut", "absent", "none"} & set(found)
    assert thumbnails(images, max_voxels=10**6, most=2) == {}
    assert thumbnail(good, max_voxels=100) is None
