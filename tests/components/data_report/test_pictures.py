"""Pictures and outlines: grey levels and contours by hand, thumbnails of files that show something and of others."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.data_report.pictures import data_uri, in_window, outline_path, thumbnail, thumbnails
from tests.imaging.scans import ellipse_head, lps_affine, save, to_lps

SPACING = (5.0, 2.0, 4.0)


def decoded(uri: str | None) -> np.ndarray:
    """Grey levels of a data URI."""
    assert uri is not None
    kind, _, data = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L")).astype(int)


def test_the_brain_window() -> None:
    assert in_window(np.array([-1000, 0, 40, 80, 3000])).tolist() == [0, 0, 127, 255, 255]
    assert in_window(np.array([5.0, 5.0]), 5.0, 5.0).tolist() == [0, 0]


def test_a_picture_is_what_was_drawn() -> None:
    grey = np.zeros((40, 60), np.uint8)
    grey[10:30, 20:50] = 200
    shown = decoded(data_uri(grey, (30, 20)))
    assert shown.shape == (20, 30)
    assert shown[10, 17] == pytest.approx(200, abs=6) and shown[2, 2] == pytest.approx(0, abs=6)


def area(path: str) -> float:
    """Area within the closed lines of an SVG path; those that run the other way are holes."""
    total = 0.0
    for line in path.split("Z")[:-1]:
        points = np.array([[float(value) for value in pair] for pair in re.findall(r"([-\d.]+) ([-\d.]+)", line)])
        x, y = points.T
        total += float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    return abs(total)


def test_an_outline_follows_the_mask_to_the_edges_of_the_picture() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[4:14, 20:30] = 255
    path = outline_path(mask)
    xs, ys = zip(*((float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path)), strict=True)
    # From edge to edge of the covered pixels, in pixels from the corner of the picture; the far edge is its border.
    assert (min(xs), max(xs), min(ys), max(ys)) == (20.0, 30.0, 4.0, 14.0)
    assert area(path) == pytest.approx(100, rel=0.05)
    assert path.count("M") == path.count("Z") == 1


def test_an_outline_has_holes_parts_and_shows_lesions_below_half_a_pixel() -> None:
    mask = np.zeros((30, 30), np.uint8)
    mask[2:14, 2:14] = 255
    mask[6:10, 6:10] = 0
    mask[20:24, 20:24] = 255
    assert outline_path(mask).count("M") == 3
    assert area(outline_path(mask)) == pytest.approx(144 - 16 + 16, rel=0.05)
    faint = np.zeros((9, 9), np.uint8)
    faint[4, 4] = 30
    assert outline_path(faint).count("Z") == 1
    assert outline_path(np.zeros((9, 9), np.uint8)) == ""


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
