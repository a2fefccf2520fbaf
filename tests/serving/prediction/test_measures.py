"""Measures of a mask by hand, in any orientation of the file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from serving.prediction.measures import measures
from tests.imaging.scans import AXIS_CODES, stored_as

# LPS file of 0.5 x 0.5 x 4 mm; the first voxel lies at (60, 50, -20) in RAS.
AFFINE = np.array([[-0.5, 0, 0, 60], [0, -0.5, 0, 50], [0, 0, 4, -20], [0, 0, 0, 1]], float)
VOXEL_ML = 0.5 * 0.5 * 4 / 1000


def mask() -> np.ndarray:
    """A block of 6 x 8 pixels in slices 2 and 3, and one voxel of slice 5."""
    found = np.zeros((40, 50, 8), bool)
    found[10:16, 20:28, 2:4] = True
    found[30, 5, 5] = True
    return found


def test_by_hand() -> None:
    found = measures(mask(), AFFINE)
    block, single = found["components"]
    assert found["volume_ml"] == round(97 * VOXEL_ML, 3)
    assert (found["component_count"], found["shape"], found["orientation"]) == (2, [40, 50, 8], "LPS")
    assert found["spacing_mm"] == [0.5, 0.5, 4.0]
    assert block["volume_ml"] == round(96 * VOXEL_ML, 3)
    assert block["centroid_mm"] == [60 - 12.5 * 0.5, 50 - 23.5 * 0.5, -20 + 2.5 * 4]
    assert block["slices"] == [2, 3]
    assert block["largest_diameter_mm"] == pytest.approx(np.hypot(3, 4), abs=0.005)  # not across slices
    assert single["slices"] == [5, 5]
    assert single["largest_diameter_mm"] == pytest.approx(np.hypot(0.5, 0.5), abs=0.005)
    json.dumps(found)


@pytest.mark.parametrize("codes", AXIS_CODES)
def test_the_same_places_in_every_orientation(codes: str) -> None:
    stored, affine = stored_as(mask().astype(np.uint8), AFFINE, codes)
    found, wanted = measures(stored > 0, affine), measures(mask(), AFFINE)
    assert found["orientation"] == codes
    for mine, theirs in zip(found["components"], wanted["components"], strict=True):
        flipped = "I" in codes
        assert mine.pop("slices") == ([7 - index for index in theirs["slices"][::-1]] if flipped else theirs["slices"])
        assert mine == {key: value for key, value in theirs.items() if key != "slices"}


def test_nothing_and_a_line() -> None:
    nothing = measures(np.zeros((4, 4, 4), bool), AFFINE)
    assert (nothing["volume_ml"], nothing["component_count"], nothing["components"]) == (0.0, 0, [])
    line = np.zeros((4, 30, 2), bool)
    line[1, :, 0] = True
    assert measures(line, AFFINE)["components"][0]["largest_diameter_mm"] == pytest.approx(np.hypot(15, 0.5), abs=0.005)
