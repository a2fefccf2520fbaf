"""What cannot be blood: a skull of known ellipses, whole and open, clipped sources, and generated heads."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from components.imaging.phantom import generate_patient
from components.imaging.phantom.blood import Kind
from components.imaging.postprocess import count_marked
from components.imaging.scan import prepare_scan
from components.imaging.skull import inside_skull, is_bone, no_tissue
from tests.imaging.scans import HEAD_MM, ellipse_head, stored_as, volume

SPACING = (5.0, 0.9, 0.9)
SHAPE = (4, 256, 256)


def ellipse(depth_mm: float, spacing: float = 0.9, size: int = 256) -> np.ndarray:
    """What lies deeper than this under the skin of `ellipse_head`, bool of shape (size, size)."""
    places = (np.arange(size) - (size - 1) / 2) * spacing
    return np.hypot(places[:, np.newaxis] / (HEAD_MM[0] - depth_mm), places / (HEAD_MM[1] - depth_mm)) < 1


def head() -> np.ndarray:
    return ellipse_head(SHAPE, SPACING)


@pytest.mark.parametrize("spacing", [0.45, 0.9, 1.8, 3.6])
def test_the_skull_ends_where_the_scalp_begins(spacing: float) -> None:
    size = round(230 / spacing)
    found = inside_skull(ellipse_head((2, size, size), (5.0, spacing, spacing)), spacing)
    assert found.shape == (2, size, size) and found.dtype == bool
    margin = max(1.8, spacing)  # of a pixel of the pooled grid
    assert found[:, ellipse(5.0, spacing, size)].all()  # all bone, and all within
    assert not found[:, ~ellipse(5.0 - 1.5 * margin, spacing, size)].any()


@pytest.mark.parametrize("bone", [1000, 150, 98])
def test_a_source_clipped_at_the_window_has_the_same_skull(bone: int) -> None:
    """98 HU is all that is left of bone in a picture of the subdural window; -1000 what was below -18."""
    hu = head()
    clipped = np.where(hu == 1000, bone, hu)
    clipped[(hu == 20)] = -1000 if bone == 98 else 20  # fat of the scalp goes with it
    np.testing.assert_array_equal(is_bone(clipped), hu == 1000)
    np.testing.assert_array_equal(inside_skull(clipped, 0.9), inside_skull(hu, 0.9))


def test_acute_blood_is_no_bone_and_calcification_is() -> None:
    hu = head()
    hu[0, 100:120, 100:120] = 95
    hu[1, 100:120, 100:120] = 160
    assert is_bone(hu)[1, 100:120, 100:120].all()
    assert not is_bone(hu)[0, 100:120, 100:120].any()
    assert no_tissue(hu)[0, 0, 0] and not no_tissue(hu)[0, 128, 128]


def test_blood_at_the_inner_table_is_inside_and_blood_in_the_scalp_is_not() -> None:
    hu = head()
    subdural = ellipse(11.0) & ~ellipse(16.0)
    hu[:, subdural] = 70
    scalp = ~ellipse(2.4) & ellipse(0.2)
    hu[:, scalp] = 70
    found = inside_skull(hu, 0.9)
    assert found[:, subdural].all()
    assert not found[:, scalp].any()


@pytest.mark.parametrize(("gap", "closed"), [(2, True), (4, True), (60, False)])
def test_sutures_are_closed_and_an_open_skull_cuts_nothing(gap: int, closed: bool) -> None:
    """A gap of some pixels through bone in front; a craniectomy leaves the skin as the only limit."""
    hu = head()
    front = slice(128 - gap // 2, 128 + gap // 2)
    skull = hu[:, :128, front] == 1000
    hu[:, :128, front][skull] = 35
    found = inside_skull(hu, 0.9)
    assert found[:, ellipse(5.0)].all()
    assert found[:, ellipse(0.2)].all() is np.bool_(not closed)


def test_a_field_of_view_that_cuts_the_head_keeps_it_all() -> None:
    hu = head()[:, 60:188, 80:200]
    tissue = hu > -1000
    assert inside_skull(np.ascontiguousarray(hu[:, :120, :120]), 0.9)[tissue[:, :120, :120]].all()


def test_no_bone_at_all_leaves_what_is_within_the_skin() -> None:
    hu = head()
    hu[hu == 1000] = 35
    found = inside_skull(hu, 0.9)
    assert found[:, ellipse(0.0)].all()
    assert not found[:, ~ellipse(-4.0)].any()


@pytest.mark.parametrize("value", [-1000, 0, 1000])
def test_a_slice_of_one_value(value: int) -> None:
    found = inside_skull(np.full((1, 33, 33), value, np.int16), 3.6)  # no multiple of any pooling
    assert found.all() if value >= 0 else not found.any()


def test_each_slice_stands_for_itself() -> None:
    """The gate sees batches of slices, prediction sees whole scans."""
    hu = head()
    hu[1, :128, 100:160][hu[1, :128, 100:160] == 1000] = 35
    hu[2] = -1000
    whole = inside_skull(hu, 0.9)
    for index, plane in enumerate(hu):
        np.testing.assert_array_equal(inside_skull(plane[np.newaxis], 0.9)[0], whole[index])
    assert inside_skull(hu[:0], 0.9).shape == (0, 256, 256)


def test_mirroring_and_turning_turn_the_skull() -> None:
    """Up to the pooling, which starts at the first pixel: 256 is a multiple of it."""
    hu = ellipse_head(SHAPE, SPACING, (118.0, 140.5))
    hu[:, 30:50, 100:110] = 900
    whole = inside_skull(hu, 0.9)
    for turn in (lambda image: image[:, ::-1], lambda image: image[:, :, ::-1], lambda image: image.transpose(0, 2, 1)):
        np.testing.assert_array_equal(inside_skull(np.ascontiguousarray(turn(hu)), 0.9), turn(whole))


@pytest.mark.parametrize(("index", "kind"), [(1, "subdural"), (3, "epidural"), (4, "subarachnoid")])
def test_no_blood_of_a_generated_head_lies_outside(index: int, kind: Kind) -> None:
    patient = generate_patient(11, index, size="tiny", kinds=(kind,))
    stored, affine = stored_as(np.asarray(patient.hu), patient.affine, "LPS")
    mask, _ = stored_as(np.asarray(patient.mask), patient.affine, "LPS")
    scan = prepare_scan(volume(stored, affine), Path(kind), size=128, spacing_mm=1.8)
    truth = scan.orientation.to_canonical(mask) > 0
    assert truth.any()
    assert count_marked(~inside_skull(scan.hu, 1.8), truth, scan.geometry) == 0
    assert count_marked(np.ones_like(scan.hu, bool), truth, scan.geometry) == np.count_nonzero(truth)


def test_it_takes_milliseconds() -> None:
    hu = np.repeat(head(), 8, axis=0)
    inside_skull(hu, 0.9)
    began = time.process_time()
    for _ in range(5):
        inside_skull(hu, 0.9)
    assert (time.process_time() - began) / 5 < 0.1  # 8 ms where nothing else runs
