"""How a mask's values and grid are read: labels, fractions, rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.imaging.checks.mask import Lesion, lesion_findings, read_lesion
from components.imaging.errors import ScanError
from components.imaging.nifti import Volume
from tests.imaging.scans import AXIS_CODES, ellipse_head, lps_affine, stored_as, to_lps, volume

SHAPE, SPACING_MM = (5, 48, 48), (5.0, 4.0, 4.0)
AFFINE = lps_affine(SPACING_MM)
HEAD = to_lps(ellipse_head(SHAPE, SPACING_MM))
BLEED = (slice(20, 26), slice(22, 30), slice(1, 4))


def image() -> Volume:
    return volume(HEAD, AFFINE)


def labelled(*labels: float, dtype: str = "uint8") -> np.ndarray:
    """Equal thirds or halves of the bleed under the labels, along the first axis."""
    mask = np.zeros(HEAD.shape, dtype)
    rows = np.array_split(np.arange(BLEED[0].start, BLEED[0].stop), len(labels))
    for label, part in zip(labels, rows, strict=True):
        mask[part[0] : part[-1] + 1, BLEED[1], BLEED[2]] = label
    return mask


def lesion(mask: np.ndarray, affine: np.ndarray = AFFINE, **data: Any) -> Lesion:
    return read_lesion(Path("mask"), volume(mask, affine), Path("image"), image(), data)


def codes(found: Lesion) -> list[str]:
    return [finding.code for finding in found.findings]


@pytest.mark.parametrize(
    ("mask", "labels", "expected", "share"),
    [
        (labelled(1), None, [], 1.0),
        (labelled(1), [1], [], 1.0),
        (labelled(0), None, [], 0.0),
        (labelled(7), None, [], 1.0),
        (labelled(1, 2, 3), None, ["mask-classes"], 1.0),
        (labelled(1, 2, 3), [1, 3], [], 2 / 3),
        (labelled(1, 2, 3), [2], [], 1 / 3),
        (labelled(2), [1], [], 0.0),
        (labelled(255), None, ["mask-255"], 1.0),
        (labelled(255), [1], ["mask-255"], 1.0),
        (labelled(255), [2], ["mask-255"], 0.0),
        (labelled(1, dtype="float32"), None, ["mask-float"], 1.0),
        (labelled(1, 2, dtype="float32"), [2], ["mask-float"], 1 / 2),
        (labelled(1, 0.999999, 1e-5, dtype="float32"), None, ["mask-float"], 2 / 3),
        (labelled(1, 0.75, 0.25, dtype="float32"), None, ["mask-soft"], 2 / 3),
    ],
)
def test_labels(mask: np.ndarray, labels: list[int] | None, expected: list[str], share: float) -> None:
    found = lesion(mask, lesion_labels=labels)
    assert codes(found) == expected
    assert found.voxels.dtype == bool and found.voxels.shape == mask.shape
    assert found.voxels.sum() == pytest.approx(share * labelled(1).sum())


@pytest.mark.parametrize(
    "mask", [labelled(-1, dtype="int16"), labelled(256, dtype="int16"), labelled(1.5, 3.0, dtype="float32")]
)
def test_values_that_are_no_labels_are_refused(mask: np.ndarray) -> None:
    with pytest.raises(ScanError) as caught:
        lesion(mask)
    assert caught.value.code == "mask-values"


@pytest.mark.parametrize("codes_", AXIS_CODES[::5])
def test_a_mask_stored_in_another_order_is_matched_voxel_by_voxel(codes_: str) -> None:
    turned, affine = stored_as(labelled(1), AFFINE, codes_)
    found = lesion(turned, affine)
    assert codes(found) == []
    assert np.array_equal(found.voxels, labelled(1) > 0)


def _moved(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += mm
    return affine


@pytest.mark.parametrize(
    ("mm", "resample", "expected"),
    [
        (0.00001, False, []),
        (0.9, False, ["mask-affine-rounded"]),  # a quarter of the 4 mm pixel is 1 mm
        (1.1, False, "mask-affine"),
        (1.1, True, ["mask-resampled"]),
        (25.0, True, "mask-affine"),
    ],
)
def test_a_mask_beside_its_place(mm: float, resample: bool, expected: list[str] | str) -> None:
    if isinstance(expected, str):
        with pytest.raises(ScanError) as caught:
            lesion(labelled(1), _moved(mm), resample_masks=resample)
        assert caught.value.code == expected
        return
    found = lesion(labelled(1), _moved(mm), resample_masks=resample)
    assert codes(found) == expected
    assert np.array_equal(found.voxels, labelled(1) > 0)


def test_a_mask_short_of_a_row_is_resampled_only_on_request() -> None:
    short = labelled(1)[:-1]
    with pytest.raises(ScanError) as caught:
        lesion(short)
    assert caught.value.code == "mask-shape"
    found = lesion(short, resample_masks=True)
    assert codes(found) == ["mask-resampled"]
    assert np.array_equal(found.voxels, labelled(1) > 0)


def test_a_copy_of_the_scan_is_no_mask_but_an_empty_pair_is() -> None:
    assert codes(lesion(HEAD.copy())) == ["mask-is-image"]
    blank = volume(np.zeros_like(HEAD), AFFINE)
    assert read_lesion(Path("mask"), blank, Path("image"), blank, {}).findings == ()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [((20, 26), []), ((0, 4), ["mask-outside"]), ((5, 24), ["mask-stray"])],
)
def test_where_the_lesion_lies(rows: tuple[int, int], expected: list[str]) -> None:
    mask = np.zeros(HEAD.shape, bool)
    mask[slice(*rows), 24:26, 2] = True
    share = (HEAD[mask] < -200).mean()
    found = lesion_findings(Path("mask"), mask, image(), expected=True)
    assert [finding.code for finding in found] == expected
    assert not found or found[0].value == pytest.approx(share, abs=1e-4)


def test_an_empty_mask_matters_where_lesions_are_expected() -> None:
    empty = np.zeros(HEAD.shape, bool)
    assert lesion_findings(Path("mask"), empty, image(), expected=False) == []
    assert [item.code for item in lesion_findings(Path("mask"), empty, image(), expected=True)] == ["mask-empty"]


def test_the_volume_is_in_ml() -> None:
    mask = HEAD == 35
    (found,) = lesion_findings(Path("mask"), mask, image(), expected=False)
    assert found.code == "mask-large"
    assert found.value == pytest.approx(mask.sum() * 5 * 4 * 4 / 1000)


def test_a_mask_of_half_the_skull_is_no_lesion() -> None:
    larger = volume(HEAD, AFFINE @ np.diag([2, 2, 2, 1]))
    (found,) = lesion_findings(Path("mask"), HEAD == 35, larger, expected=False)
    assert (found.code, found.severity) == ("mask-brain", "error")
    assert found.value == pytest.approx((HEAD == 35).sum() * 10 * 8 * 8 / 1000)
