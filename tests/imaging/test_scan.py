"""One preparation for training and prediction: the same pixels however the file stores them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from components.imaging.errors import ScanError
from components.imaging.geometry import AIR_HU, Orientation
from components.imaging.nifti import read_volume, write_mask
from components.imaging.phantom import generate_patient
from components.imaging.postprocess import outline, quantise
from components.imaging.scan import AIR_BELOW_HU, Scan, prepare_scan
from tests.imaging.scans import (
    AXIS_CODES,
    HEAD_MM,
    dice,
    ellipse_head,
    load,
    lps_affine,
    patient,
    rotated,
    save,
    stored_as,
    to_lps,
    volume,
)
from tests.models import postprocess

GRID = {"size": 64, "spacing_mm": 3.6}
NOWHERE = Path("scan.nii.gz")


def prepared(hu: np.ndarray, affine: np.ndarray, **grid: float) -> Scan:
    return prepare_scan(volume(hu, affine), NOWHERE, **{**GRID, **grid})  # type: ignore[arg-type]


def probabilities(scan: Scan) -> np.ndarray:
    """What a network might say: neither symmetric nor smooth, with lesions at both ends of the scan."""
    noise = np.random.default_rng(0).standard_normal(scan.hu.shape)
    field = ndimage.gaussian_filter(noise, (0.5, 1.5, 1.5))
    return np.asarray(1 / (1 + np.exp(-20 * (field - np.quantile(field, 0.9)))), np.float32)


@pytest.mark.parametrize(
    ("degrees", "tilt"), [((0, 0, 0), 0), ((12, -20, 30), 0), ((0, 0, 0), 22)], ids=["straight", "oblique", "tilted"]
)
def test_48_storage_orders_give_one_scan_and_one_mask(
    tmp_path: Path, degrees: tuple[float, float, float], tilt: float
) -> None:
    """Through files, voxel for voxel: what is prepared, and the written mask once nibabel has turned it back."""
    hu = to_lps(ellipse_head((4, 84, 70), (5.0, 2.4, 2.9), (38.2, 36.9)))
    hu[20:34, 30:44, 1:3] = 65  # blood on one side
    hu[5:9, 60:80, :3] = 90  # a table's corner
    affine = rotated(lps_affine((5.0, 2.4, 2.9), tilt_degrees=tilt), degrees)
    reference = load(save(tmp_path / "reference.nii", hu, affine))
    original = "".join(nib.aff2axcodes(reference.affine))
    first: Scan | None = None
    for codes in AXIS_CODES:
        path = save(tmp_path / f"{codes}.nii", *stored_as(hu, affine, codes))
        read = read_volume(path)
        scan = prepare_scan(read, path, size=48, spacing_mm=4.5)
        first = first or scan
        assert scan.orientation.codes == codes
        np.testing.assert_array_equal(scan.hu, first.hu, codes)
        assert scan.geometry == first.geometry, codes
        assert scan.head.center == first.head.center, codes
        assert (scan.head.brain_mean, scan.head.brain_sd) == (first.head.brain_mean, first.head.brain_sd), codes
        np.testing.assert_array_equal(scan.head.percentiles, first.head.percentiles, codes)

        canonical = outline(quantise(probabilities(first)), scan.geometry, postprocess(min_component_ml=0.2))
        write_mask(tmp_path / "mask.nii", scan.orientation.to_stored(canonical), read)
        written = load(tmp_path / "mask.nii")
        np.testing.assert_array_equal(written.affine, load(path).affine, codes)
        back, back_affine = stored_as(np.asarray(written.dataobj), written.affine, original)
        np.testing.assert_allclose(back_affine, reference.affine, atol=1e-3)
        np.testing.assert_array_equal(back, to_lps(canonical), codes)
    assert first is not None
    assert canonical.sum() > 500


@pytest.mark.parametrize("index", range(3))
def test_a_generated_patient_in_any_storage_order(index: int) -> None:
    phantom = generate_patient(3, index, size="tiny")
    scans = []
    for codes in ("LPS", "RAS", "PIR", "SLA"):
        hu, affine = stored_as(phantom.hu, phantom.affine, codes)
        scans.append(prepared(hu, affine))
    for scan in scans[1:]:
        np.testing.assert_array_equal(scan.hu, scans[0].hu)
        assert scan.geometry == scans[0].geometry


def test_what_a_prepared_scan_looks_like() -> None:
    phantom = patient()
    scan = prepared(phantom.hu, phantom.affine)
    count = scan.geometry.native_shape[0]
    assert scan.hu.dtype == np.dtype("<i2")
    assert scan.hu.shape == (count, 64, 64)
    assert scan.hu.flags.c_contiguous
    assert scan.hu.min() == AIR_HU
    assert scan.hu.max() <= 3071
    # Air is one value: nothing lies between it and what counts.
    assert not ((scan.hu > AIR_HU) & (scan.hu < AIR_BELOW_HU)).any()
    assert (scan.hu == AIR_HU).mean() > 0.2
    np.testing.assert_array_equal(scan.affine, phantom.affine)
    # Rounded to the nearest HU, so that the mean stays what it was.
    exact = scan.geometry.to_grid(scan.orientation.to_canonical(phantom.hu), outside=AIR_HU)
    kept = (scan.hu > AIR_HU) & (scan.hu < 3071)
    assert kept.mean() > 0.1
    np.testing.assert_allclose(scan.hu[kept], exact[kept], atol=0.501)
    assert float((scan.hu[kept] - exact[kept]).mean()) == pytest.approx(0, abs=0.01)


def test_the_skull_comes_to_the_middle_of_the_grid() -> None:
    hu = np.pad(ellipse_head((3, 230, 200), (5, 0.9, 0.9)), ((0, 0), (70, 0), (0, 50)), constant_values=-1000)
    bone = prepared(to_lps(hu), lps_affine((5, 0.9, 0.9)), size=128, spacing_mm=1.8).hu > 400
    for axes in ((0, 2), (0, 1)):
        hit = np.flatnonzero(bone.any(axis=axes))
        assert (hit[0] + hit[-1]) / 2 == pytest.approx(63.5, abs=1.5)


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [((5.0, 0.5, 1.0), (2, 430, 190)), ((0.6, 0.8, 0.6), (34, 260, 280)), ((10.0, 2.2, 1.7), (1, 100, 110)),
     ((5.0, 0.43, 0.43), (2, 512, 400))],
)  # fmt: skip
def test_millimetres_are_the_same_in_every_scan(
    spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    """Not square, not isotropic, coarser than the grid, one slice, thin and thick ones: the head keeps its size."""
    scan = prepared(to_lps(ellipse_head(shape, spacing)), lps_affine(spacing), size=128, spacing_mm=1.7)
    assert scan.geometry.native_shape == shape
    assert scan.geometry.spacing_mm == pytest.approx(spacing)
    head = scan.hu[shape[0] // 2] > -200
    rows, columns = (np.flatnonzero(head.any(axis=axis)) for axis in (1, 0))
    assert np.ptp(rows) * 1.7 == pytest.approx(2 * HEAD_MM[0], abs=4)
    assert np.ptp(columns) * 1.7 == pytest.approx(2 * HEAD_MM[1], abs=4)
    assert scan.hu[0, 64, 64] == 35


@pytest.mark.parametrize(("size", "spacing_mm"), [(32, 2.0), (256, 2.0)], ids=["cut", "surrounded by air"])
def test_grids_smaller_and_larger_than_the_image(size: int, spacing_mm: float) -> None:
    scan = prepared(to_lps(ellipse_head((3, 100, 90), (5, 2, 2))), lps_affine((5, 2, 2)), size=size,
                    spacing_mm=spacing_mm)  # fmt: skip
    assert scan.hu.shape == (3, size, size)
    border = np.concatenate([scan.hu[:, 0].ravel(), scan.hu[:, -1].ravel()])
    assert (border == (35 if size == 32 else AIR_HU)).mean() > 0.95


def test_context_repeats_the_outermost_slices() -> None:
    phantom = patient()
    scan = prepared(phantom.hu, phantom.affine)
    last = len(scan.hu) - 1
    context = scan.examples(2)
    assert context.shape == (last + 1, 5, 64, 64)
    for index, slices in {0: [0, 0, 0, 1, 2], 1: [0, 0, 1, 2, 3], 5: [3, 4, 5, 6, 7],
                          last: [last - 2, last - 1, last, last, last]}.items():  # fmt: skip
        np.testing.assert_array_equal(context[index], scan.hu[slices])
    assert scan.examples(0).shape == (last + 1, 1, 64, 64)
    np.testing.assert_array_equal(scan.examples(0)[:, 0], scan.hu)


def test_context_of_a_single_slice_is_that_slice() -> None:
    scan = prepared(to_lps(ellipse_head((1, 100, 90), (5, 2, 2))), lps_affine((5, 2, 2)))
    assert (scan.examples(3) == scan.hu[0]).all()


@pytest.mark.parametrize(
    "hu",
    [np.full((60, 60, 5), -1000), np.random.default_rng(0).normal(-1000, 50, (60, 60, 5)), np.full((3, 3, 1), 40)],
    ids=["constant", "noise", "tiny"],
)
def test_no_head_is_said_with_the_values_found(hu: np.ndarray) -> None:
    data = hu.astype(np.int16)
    with pytest.raises(ScanError, match=f"scan.nii.gz.*{data.min()} to {data.max()}") as caught:
        prepared(data, lps_affine((5, 1, 1)))
    assert caught.value.code == "no-head"


def test_values_beyond_the_scale_of_hu_are_cut_not_wrapped() -> None:
    hu = ellipse_head((3, 100, 90), (5, 2, 2)).astype(np.int32)
    hu[:, 48:54, 40:50] = 70_000
    hu[:, :20] = -40_000
    scan = prepared(to_lps(hu), lps_affine((5, 2, 2)), size=100, spacing_mm=2.0)
    assert (scan.hu.min(), scan.hu.max()) == (AIR_HU, 3071)


def test_a_perfect_network_gives_nearly_the_true_mask() -> None:
    phantom = patient()
    scan = prepared(phantom.hu, phantom.affine, size=128, spacing_mm=1.8)
    truth = scan.orientation.to_canonical(phantom.mask) > 0
    coverage = scan.geometry.to_grid(truth, outside=0)
    assert dice(outline(quantise(coverage), scan.geometry, postprocess()), truth) > 0.95


def test_the_prepared_scan_shows_the_patient_the_right_way_round() -> None:
    """Blood put at a known place in the world turns up on that side, at that end, of the grid."""
    hu = to_lps(ellipse_head((6, 100, 90), (5, 2, 2)))
    affine = lps_affine((5, 2, 2))
    middle = affine @ [44.5, 49.5, 2.5, 1]
    # 30 mm to the left, 40 mm to the front and 10 mm up, in RAS.
    index = np.rint(np.linalg.inv(affine) @ np.add(middle, [-30, 40, 10, 0])).astype(int)[:3]
    hu[index[0] - 3 : index[0] + 4, index[1] - 3 : index[1] + 4, index[2]] = 80
    for codes in ("RAS", "IPR", "ASL"):
        scan = prepared(*stored_as(hu, affine, codes), size=128, spacing_mm=2.0)
        place = np.argwhere(scan.hu == 80).mean(axis=0)
        assert place == pytest.approx([4, 63.5 - 20, 63.5 + 15], abs=1.1)
        assert Orientation.of(scan.affine).codes == codes
