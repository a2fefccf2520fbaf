"""What the checks keep of a scan, and statistics on hand-made ones."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from components.imaging.checks.anatomy import anatomy_findings, edge_width_mm
from components.imaging.checks.geometry import geometry_findings
from components.imaging.checks.intensity import intensity_findings
from components.imaging.checks.sample import Sample, thin_out
from components.imaging.checks.slices import largest_step, slice_findings
from components.imaging.errors import ScanError
from components.imaging.nifti import Volume
from tests.imaging.scans import AXIS_CODES, ellipse_head, lps_affine, patient, rotated, stored_as, to_lps, volume

SHAPE, SPACING_MM = (16, 96, 96), (6.0, 2.4, 2.4)
PATH = Path("scan")


def sample_of(canonical: np.ndarray, spacing_mm: tuple[float, float, float] = SPACING_MM) -> Sample:
    return thin_out(volume(to_lps(canonical), lps_affine(spacing_mm)), PATH)


def head(seed: int = 0) -> np.ndarray:
    """A head of ellipses with noise, so that no two slices are equal."""
    noise = np.random.default_rng(seed).normal(0, 4, SHAPE)
    return np.rint(ellipse_head(SHAPE, SPACING_MM) + noise).astype(np.int16)


@pytest.mark.parametrize("codes", AXIS_CODES[::7])
def test_the_digest_is_of_the_content_not_of_its_storage(codes: str) -> None:
    phantom = patient()
    affine = np.asarray(phantom.affine)
    wanted = thin_out(volume(phantom.hu, affine), PATH).digest()
    stored, turned = stored_as(phantom.hu, affine, codes)
    assert thin_out(volume(stored, turned), PATH).digest() == wanted
    assert thin_out(volume(stored.astype(np.float32), turned), PATH).digest() == wanted


def test_another_content_has_another_digest() -> None:
    assert sample_of(head(0)).digest() != sample_of(head(1)).digest()


def test_thinning_keeps_every_second_of_fine_pixels() -> None:
    fine = ellipse_head((3, 200, 200), (5.0, 1.25, 1.25))
    thin = sample_of(fine, (5.0, 1.25, 1.25))
    assert thin.hu.shape == (3, 100, 100)
    assert thin.spacing_mm == (5.0, 2.5, 2.5)
    assert np.array_equal(thin.hu, fine[:, 0::2, 0::2])
    # One pixel kept is eroded all around: 2.5 mm of half axes of 92 and 74 mm.
    assert thin.tissue.sum() * thin.voxel_ml == pytest.approx(np.pi * 89.5 * 71.5 * 15 / 1000, rel=0.01)


@pytest.mark.parametrize("angles", [(0, 0, 0), (14, 8, 11), (-20, 0, 0)])
def test_an_oblique_scan_is_no_finding(angles: tuple[float, float, float]) -> None:
    stored = volume(to_lps(head()), rotated(lps_affine(SPACING_MM), angles))
    assert [item.code for item in geometry_findings(PATH, stored)] == []


def test_a_tilted_gantry_is_measured_in_degrees() -> None:
    (found,) = geometry_findings(PATH, volume(to_lps(head()), lps_affine(SPACING_MM, tilt_degrees=14)))
    assert (found.code, found.severity) == ("sheared", "fixed")
    assert found.value == pytest.approx(14, abs=0.01)


def test_the_position_of_a_qform_may_be_off_by_half_a_pixel() -> None:
    for shift, expected in ((1.0, []), (3.0, ["forms-offset"])):
        stored = volume(to_lps(head()), lps_affine(SPACING_MM))
        moved = stored.affine.copy()
        moved[1, 3] += shift
        stored.header.set_sform(stored.affine, 1)
        stored.header.set_qform(moved, 1)
        assert [item.code for item in geometry_findings(PATH, stored)] == expected


def test_every_reading_of_a_head_as_something_else() -> None:
    hu = head().astype(np.float32)
    rising = np.linspace(0, 1, hu.size, dtype=np.float32).reshape(hu.shape)
    table = {
        "hu-normalised": [(hu - hu.min()) / np.ptp(hu), (hu - hu.mean()) / hu.std(), rising],
        "hu-shifted": [hu + 1024, hu + 1000],
        "hu-wrapped": [np.where(hu < 0, hu + 65536, hu)],
        "hu-8bit": [np.rint(np.clip((hu + 20) / 100, 0, 1) * 255)],
        "hu-windowed": [np.clip(hu, 0, 80), np.clip(hu, -100, 200)],
        "hu-foreign": [np.abs(hu) * 0.3 + 20, rising * 1000],
        "constant": [np.zeros_like(hu)],
    }
    for code, changed in table.items():
        for index, values in enumerate(changed):
            found = [item.code for item in intensity_findings(PATH, sample_of(values))]
            assert found == [code], (code, index, found)


def test_padding_below_air_and_a_scan_cut_inside_the_head_are_hu() -> None:
    padded = np.where(head() < -900, -3024, head())
    assert [item.code for item in intensity_findings(PATH, sample_of(padded)) if item.severity == "error"] == []
    inside = np.random.default_rng(0).normal(30, 60, SHAPE)
    assert list(intensity_findings(PATH, sample_of(inside))) == []


def test_clipped_values_are_those_without_partial_volume() -> None:
    sharp = sample_of(ellipse_head(SHAPE, SPACING_MM))
    (found,) = intensity_findings(PATH, sharp)
    assert (found.code, found.severity) == ("hu-clipped", "warning")
    phantom = patient()
    assert list(intensity_findings(PATH, thin_out(volume(phantom.hu, phantom.affine), PATH))) == []


def test_the_width_of_the_outline_is_in_mm() -> None:
    """A rim of 4.8 mm (two pixels) at -500 HU around the head."""
    hu = ellipse_head(SHAPE, SPACING_MM)
    rows, columns = ((np.arange(96) - 47.5) * 2.4 for _ in range(2))
    outside = np.hypot(rows[:, None] / (92.0 + 4.8), columns[None] / (74.0 + 4.8)) < 1
    hu[(hu == -1000) & outside] = -500
    sample = sample_of(hu)
    # Tissue was eroded by a pixel and grows by one again, so the rim is counted whole.
    assert edge_width_mm(sample) == pytest.approx(4.8, rel=0.2)
    assert "motion" in [item.code for item in anatomy_findings(PATH, sample)]
    assert edge_width_mm(sample_of(ellipse_head(SHAPE, SPACING_MM))) == 0


def test_bone_brain_and_metal_are_measured() -> None:
    hu = head()
    assert [item.code for item in anatomy_findings(PATH, sample_of(hu))] == []
    soft = np.where(hu > 300, 40, hu)
    assert [item.code for item in anatomy_findings(PATH, sample_of(soft))] == ["no-skull"]
    bright = np.where((hu > 0) & (hu < 70), hu + 25, hu)
    (found,) = anatomy_findings(PATH, sample_of(bright))
    assert (found.code, found.value) == ("brain-hu", pytest.approx(60, abs=2))
    clip = hu.copy()
    clip[8, 40:44, 40:44] = 3071
    (found,) = anatomy_findings(PATH, sample_of(clip))
    assert (found.code, found.value) == ("metal", pytest.approx(16 * 6 * 2.4**2 / 1000, abs=1e-4))


def test_a_trunk_is_no_head() -> None:
    """The same voxels at 1.8 times the spacing: 3.24 times the area."""
    twice = sample_of(head(), (6.0, 4.32, 4.32))
    area = float(twice.head.area_cm2.max())
    assert area > 600 and float(sample_of(head()).head.area_cm2.max()) < 450
    (found,) = [item for item in anatomy_findings(PATH, twice) if item.code in ("body-size", "head-size")]
    assert (found.code, found.severity, found.value) == ("body-size", "error", pytest.approx(area, abs=1e-3))


def _growing() -> np.ndarray:
    """A cuboid of tissue in which a bright column moves by a pixel a slice: every step is alike."""
    hu = np.full((20, 60, 60), -1000, np.int16)
    hu[:, 8:52, 8:52] = 35
    for index in range(len(hu)):
        hu[index, 20:30, 12 + index : 20 + index] = 75
    return hu


def test_a_jump_between_slices_is_found_where_it_is() -> None:
    whole = _growing()
    assert largest_step(sample_of(whole))[0] == pytest.approx(1.0, abs=1e-3)
    ratio, place = largest_step(sample_of(np.delete(whole, (9, 10), axis=0)))
    assert ratio == pytest.approx(3.0, abs=1e-3) and place == 8
    repeated = whole.copy()
    repeated[9] = repeated[8]
    codes = [item.code for item in slice_findings(PATH, sample_of(repeated))]
    assert "slice-duplicated" in codes


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_few_slices_have_no_steps_to_compare(count: int) -> None:
    assert largest_step(sample_of(_growing()[:count])) == (0.0, 0)
    assert [item.code for item in slice_findings(PATH, sample_of(_growing()[:count]))] == []


def test_upside_down_is_the_head_that_narrows_downwards() -> None:
    hu = np.full((16, 96, 96), -1000, np.int16)
    for index in range(16):
        half = 34 - index
        hu[index, 48 - half : 48 + half, 48 - half : 48 + half] = 35 + index % 2
    assert "slices-reversed" not in [item.code for item in slice_findings(PATH, sample_of(hu))]
    assert "slices-reversed" in [item.code for item in slice_findings(PATH, sample_of(hu[::-1]))]


def test_air_slices_above_the_head_repeat_without_a_finding() -> None:
    hu = head()
    hu[-4:] = -1000
    assert [item.code for item in slice_findings(PATH, sample_of(hu))] == []


def test_a_grid_that_no_head_fills_is_refused_before_it_is_sampled() -> None:
    vast = np.broadcast_to(np.int16(0), (8000, 8100, 2))
    with pytest.raises(ScanError) as caught:
        thin_out(Volume(vast, lps_affine((5.0, 4.0, 4.0)), nib.Nifti1Header()), PATH)
    assert caught.value.code == "geometry"
