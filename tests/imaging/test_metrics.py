"""The measures against hand-computed cases, analytic spheres, SimpleITK, SciPy and an uncropped second computation."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so
from scipy import ndimage, stats
from scipy.spatial import KDTree
from surface_distance import lookup_tables

from components.imaging.metrics import (
    DEFINITIONS,
    METRIC_NAMES,
    Mask,
    ScanMetrics,
    Spacing,
    dice,
    dice_from_counts,
    scan_metrics,
    summarise,
)

SPACING = (0.5, 0.8, 5.0)


def empty(shape: tuple[int, int, int] = (20, 24, 6)) -> Mask:
    return np.zeros(shape, dtype=bool)


def box(*slices: slice, shape: tuple[int, int, int] = (20, 24, 6)) -> Mask:
    mask = empty(shape)
    mask[slices] = True
    return mask


def ball(centre_mm: tuple[float, float, float], radius_mm: float, size: int = 64, step: float = 1.0) -> Mask:
    axes = np.ogrid[:size, :size, :size]
    square = sum((axis * step - c) ** 2 for axis, c in zip(axes, centre_mm, strict=True))
    return np.asarray(square <= radius_mm**2)


def blobs(seed: int, shape: tuple[int, int, int] = (40, 36, 8), share: float = 0.15) -> Mask:
    """Ragged lesions that reach the faces of the scan."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), (2, 2, 0.7))
    return np.asarray(field > np.quantile(field, 1 - share))


A_BOX = box(slice(2, 5), slice(3, 7), slice(1, 3))
TWO_BOXES = A_BOX | box(slice(10, 12), slice(10, 12), slice(4, 5))
DIAGONAL_MM = math.sqrt((20 * 0.5) ** 2 + (24 * 0.8) ** 2 + (6 * 5.0) ** 2)
BOX_ML = 24 * 0.5 * 0.8 * 5 / 1000
TWO_BOXES_ML = 28 * 0.5 * 0.8 * 5 / 1000


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        pytest.param(
            empty(),
            empty(),
            ScanMetrics(1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0),
            id="both-empty",
        ),
        pytest.param(
            empty(),
            TWO_BOXES,
            ScanMetrics(0, 0, 0, 0, DIAGONAL_MM, 0, TWO_BOXES_ML, TWO_BOXES_ML, None, 0, 2, 0, 0, 2),
            id="truth-empty",
        ),
        pytest.param(
            TWO_BOXES,
            empty(),
            ScanMetrics(0, 0, 0, 0, DIAGONAL_MM, TWO_BOXES_ML, 0, TWO_BOXES_ML, 1, 0, 0, 2, 2, 0),
            id="prediction-empty",
        ),
        pytest.param(
            TWO_BOXES,
            TWO_BOXES,
            ScanMetrics(1, 1, 1, 1, 0, TWO_BOXES_ML, TWO_BOXES_ML, 0, 0, 1, 0, 0, 2, 2),
            id="identical",
        ),
    ],
)
def test_empty_masks(truth: Mask, prediction: Mask, expected: ScanMetrics) -> None:
    found = scan_metrics(truth, prediction, SPACING).as_dict()
    for name, value in expected.as_dict().items():
        assert found[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name


def test_small_case_by_hand() -> None:
    """24 true voxels, 12 of them found, 6 false ones beside them, one separate false and one missed component."""
    truth = A_BOX | box(slice(15, 16), slice(20, 21), slice(0, 1))
    prediction = box(slice(2, 5), slice(5, 8), slice(1, 3)) | box(slice(10, 11), slice(12, 14), slice(5, 6))
    result = scan_metrics(truth, prediction, SPACING)
    assert result.dice == pytest.approx(2 * 12 / (25 + 20))
    assert result.rvd == pytest.approx(5 / 25)
    assert result.true_volume_ml == pytest.approx(25 * 2e-3)
    assert result.predicted_volume_ml == pytest.approx(20 * 2e-3)
    assert result.absolute_volume_error_ml == pytest.approx(5 * 2e-3)
    assert (result.true_components, result.predicted_components) == (2, 2)
    assert (result.missed_components, result.false_positive_components) == (1, 1)
    assert result.lesion_f1 == pytest.approx(1 / (1 + (1 + 1) / 2))


def test_disjoint_masks() -> None:
    other = box(slice(14, 18), slice(15, 20), slice(4, 6))
    result = scan_metrics(A_BOX, other, SPACING)
    assert (result.dice, result.nsd_2mm, result.lesion_f1) == (0, 0, 0)
    assert (result.missed_components, result.false_positive_components) == (1, 1)
    # Nearest faces are 10, 8 and 1 voxels apart, farthest corners 13, 13 and 3.
    assert math.hypot(9 * 0.5, 8 * 0.8, 5) < result.hd95_mm < math.hypot(13 * 0.5, 13 * 0.8, 15) < DIAGONAL_MM


def test_one_prediction_over_two_lesions_finds_both() -> None:
    truth = box(slice(2, 4), slice(2, 4), slice(1, 2)) | box(slice(8, 10), slice(2, 4), slice(1, 2))
    result = scan_metrics(truth, box(slice(3, 9), slice(2, 4), slice(1, 2)), SPACING)
    assert (result.true_components, result.predicted_components) == (2, 1)
    assert (result.missed_components, result.false_positive_components, result.lesion_f1) == (0, 0, 1)


def test_two_predictions_in_one_lesion_count_once() -> None:
    truth = box(slice(2, 10), slice(2, 4), slice(1, 2))
    prediction = box(slice(2, 4), slice(2, 4), slice(1, 2)) | box(slice(7, 9), slice(2, 4), slice(1, 2))
    result = scan_metrics(truth, prediction, SPACING)
    assert (result.predicted_components, result.false_positive_components, result.lesion_f1) == (2, 0, 1)


def test_voxels_that_share_a_corner_are_one_component() -> None:
    truth = box(slice(2, 3), slice(2, 3), slice(2, 3)) | box(slice(3, 4), slice(3, 4), slice(3, 4))
    assert scan_metrics(truth, truth, SPACING).true_components == 1


@pytest.mark.parametrize("seed", range(4))
def test_components_agree_with_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, prediction = (rng.random((2, 24, 20, 7)) < 0.06)[:]
    true_labels, true_count = ndimage.label(truth, np.ones((3, 3, 3)))
    labels, count = ndimage.label(prediction, np.ones((3, 3, 3)))
    missed = sum(not prediction[true_labels == k].any() for k in range(1, true_count + 1))
    false_positive = sum(not truth[labels == k].any() for k in range(1, count + 1))
    found = true_count - missed

    result = scan_metrics(truth, prediction, SPACING)
    assert found > 0 and missed > 0 and false_positive > 0
    assert (result.true_components, result.predicted_components) == (true_count, count)
    assert (result.missed_components, result.false_positive_components) == (missed, false_positive)
    assert result.lesion_f1 == pytest.approx(found / (found + (false_positive + missed) / 2))


@pytest.mark.parametrize("seed", range(4))
def test_dice_agrees_with_simpleitk(seed: int) -> None:
    truth, prediction = blobs(seed), blobs(seed) ^ blobs(seed + 100, share=0.03)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*(sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (truth, prediction)))
    expected = overlap.GetDiceCoefficient()
    assert 0.5 < expected < 0.95
    assert dice(truth, prediction) == pytest.approx(expected, abs=1e-12)
    assert scan_metrics(truth, prediction, SPACING).dice == pytest.approx(expected, abs=1e-12)


def itk(mask: Mask, spacing: Spacing) -> sitk.Image:
    """A mask as SimpleITK sees it."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8).transpose(2, 1, 0))
    image.SetSpacing(spacing)
    return image


@pytest.mark.parametrize("seed", range(4))
def test_components_and_volumes_agree_with_simpleitk(seed: int) -> None:
    """Components that touch at corners, found and counted by SimpleITK, whose labels are then compared by hand."""
    rng = np.random.default_rng(seed)
    truth, prediction = (rng.random((2, 22, 18, 6)) < 0.05)[:]
    shapes, labels = [], []
    for mask in (truth, prediction):
        image = sitk.ConnectedComponent(itk(mask, SPACING), True)
        statistics = sitk.LabelShapeStatisticsImageFilter()
        statistics.Execute(image)
        shapes.append([statistics.GetPhysicalSize(label) for label in statistics.GetLabels()])
        labels.append(sitk.GetArrayFromImage(image).transpose(2, 1, 0))
    found = set(np.unique(labels[0][prediction])) - {0}
    hit = set(np.unique(labels[1][truth])) - {0}
    missed, alarms = len(shapes[0]) - len(found), len(shapes[1]) - len(hit)
    assert found and missed and alarms

    result = scan_metrics(truth, prediction, SPACING)
    assert (result.missed_components, result.false_positive_components) == (missed, alarms)
    assert result.lesion_f1 == pytest.approx(len(found) / (len(found) + (missed + alarms) / 2))
    assert result.true_volume_ml == pytest.approx(sum(shapes[0]) / 1000)
    assert result.predicted_volume_ml == pytest.approx(sum(shapes[1]) / 1000)
    assert result.rvd == pytest.approx(abs(sum(shapes[1]) - sum(shapes[0])) / sum(shapes[0]))


def itk_surface_distances(truth: Mask, prediction: Mask, spacing: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """From each mask's outermost voxels to those of the other, in mm, by SimpleITK's Maurer distance maps."""
    contours = [sitk.LabelContour(itk(np.pad(mask, 1), spacing), True) for mask in (truth, prediction)]
    maps = [
        np.abs(sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(
            contour, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
        )))
        for contour in contours
    ]  # fmt: skip
    places = [sitk.GetArrayFromImage(contour) > 0 for contour in contours]
    return maps[1][places[0]], maps[0][places[1]]


@pytest.mark.parametrize("seed", range(4))
def test_surface_measures_agree_with_simpleitk_to_a_voxel(seed: int) -> None:
    """Another notion of a surface (voxels, not area between them), on random blobs of nearly cubic voxels.

    Distances of the two differ by a voxel at most; over a whole surface that evens out.
    """
    spacing = (1.0, 1.0, 1.1)
    noise = [np.random.default_rng(seed + more).standard_normal((44, 40, 36)) for more in (0, 50)]
    fields = [ndimage.gaussian_filter(field, 4) for field in noise]
    truth = np.asarray(fields[0] > np.quantile(fields[0], 0.85))
    other = fields[0] + 0.5 * fields[1]
    prediction = np.asarray(other > np.quantile(other, 0.85))
    there, back = itk_surface_distances(truth, prediction, spacing)
    result = scan_metrics(truth, prediction, spacing)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    assert hd95 > 2
    assert result.hd95_mm == pytest.approx(hd95, abs=1.1)
    both = np.concatenate([there, back])
    for name, tolerance in (("nsd_1mm", 1.0), ("nsd_2mm", 2.0)):
        assert result.as_dict()[name] == pytest.approx((both <= tolerance).mean(), abs=0.04), name
    assert result.nsd_0_42mm < result.nsd_1mm < result.nsd_2mm < 1


@pytest.mark.parametrize(("radius_mm", "gap_mm"), [(6.0, 4.0), (9.0, 10.0)])
def test_balls_apart_have_the_hausdorff_distance_of_simpleitk(radius_mm: float, gap_mm: float) -> None:
    """Two equal balls whose centres lie d apart: the farthest point is d off, and HD95 somewhat less."""
    apart = 2 * radius_mm + gap_mm
    truth, prediction = ball((16, 16, 12), radius_mm), ball((16, 16, 12 + apart), radius_mm)
    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(itk(truth, (1.0, 1.0, 1.0)), itk(prediction, (1.0, 1.0, 1.0)))
    assert hausdorff.GetHausdorffDistance() == pytest.approx(apart, abs=0.5)
    result = scan_metrics(truth, prediction, (1.0, 1.0, 1.0))
    # From a point at height h along the line of centres (uniform on a sphere) to the other ball.
    height = np.linspace(-radius_mm, radius_mm, 20001)
    distance = np.sqrt(radius_mm**2 - height**2 + (apart - height) ** 2) - radius_mm
    assert result.hd95_mm == pytest.approx(np.percentile(distance, 95), abs=0.6)
    assert result.hd95_mm < hausdorff.GetHausdorffDistance()
    assert (result.dice, result.nsd_2mm, result.lesion_f1) == (0, 0, 0)


@pytest.mark.parametrize(("axis", "voxels"), [(0, 3), (1, 4), (2, 2)])
def test_shifted_box_has_the_hausdorff_distance_of_simpleitk(axis: int, voxels: int) -> None:
    """The faces across the shift hold well over 5 % of the area, so HD95 is the full Hausdorff distance."""
    shape = (40, 40, 20)
    truth = box(slice(10, 20), slice(10, 20), slice(5, 10), shape=shape)
    prediction = np.roll(truth, voxels, axis)
    images = []
    for mask in (truth, prediction):
        image = sitk.GetImageFromArray(mask.astype(np.uint8).transpose(2, 1, 0))
        image.SetSpacing((1.0, 1.5, 3.0))
        images.append(image)
    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(*images)
    assert hausdorff.GetHausdorffDistance() == pytest.approx(voxels * (1.0, 1.5, 3.0)[axis])
    result = scan_metrics(truth, prediction, (1.0, 1.5, 3.0))
    assert result.hd95_mm == pytest.approx(hausdorff.GetHausdorffDistance())


def test_concentric_balls() -> None:
    """Surfaces 5 mm apart everywhere; voxels of 0.5 mm."""
    small, large = ball((16, 16, 16), 8, step=0.5), ball((16, 16, 16), 13, step=0.5)
    result = scan_metrics(small, large, (0.5, 0.5, 0.5))
    true_ml, predicted_ml = (4 / 3 * math.pi * radius**3 / 1000 for radius in (8, 13))
    assert result.true_volume_ml == pytest.approx(true_ml, rel=0.01)
    assert result.predicted_volume_ml == pytest.approx(predicted_ml, rel=0.01)
    assert result.rvd == pytest.approx(13**3 / 8**3 - 1, rel=0.02)
    assert result.hd95_mm == pytest.approx(5, abs=0.5)
    assert result.nsd_2mm == 0
    assert result.dice == pytest.approx(2 * 8**3 / (8**3 + 13**3), rel=0.01)


@pytest.mark.parametrize("shift_mm", [1.0, 1.5, 3.0])
def test_shifted_ball(shift_mm: float) -> None:
    """A point of the sphere at polar angle a is |sqrt(r² + d² - 2rd cos a) - r| off, and cos a is uniform."""
    radius, step = 12.0, 0.25
    truth = ball((16, 16, 16), radius, size=128, step=step)
    prediction = ball((16, 16, 16 + shift_mm), radius, size=128, step=step)
    cosine = np.linspace(-1, 1, 20001)
    distance = np.abs(np.sqrt(radius**2 + shift_mm**2 - 2 * radius * shift_mm * cosine) - radius)

    result = scan_metrics(truth, prediction, (step, step, step))
    assert result.hd95_mm == pytest.approx(np.percentile(distance, 95), abs=step)
    # The grid places a surface to within half a voxel, so the tolerance is uncertain by that much.
    for name, tolerance in (("nsd_0_42mm", 0.42), ("nsd_1mm", 1.0), ("nsd_2mm", 2.0)):
        low, high = ((distance <= tolerance + slack).mean() for slack in (-step / 2, step / 2))
        assert low - 0.02 <= result.as_dict()[name] <= high + 0.02, name
    lens = (1 - shift_mm / (2 * radius)) ** 2 * (1 + shift_mm / (4 * radius))
    assert result.dice == pytest.approx(lens, abs=0.005)


def uncropped_surface_metrics(truth: Mask, prediction: Mask, spacing: Spacing) -> dict[str, float]:
    """NSD and HD95 over the whole scan: surface corners by slicing, distances by a k-d tree, no bounding box."""
    areas = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
    found = []
    for mask in (truth, prediction):
        padded = np.pad(mask, 1).astype(int)
        size = np.array(padded.shape) - 1
        codes = np.zeros(size, dtype=int)
        for corner in itertools.product((0, 1), repeat=3):
            window = tuple(slice(start, start + length) for start, length in zip(corner, size, strict=True))
            codes += int(kernel[corner]) * padded[window]
        where = (codes > 0) & (codes < 255)
        found.append((np.argwhere(where) * spacing, areas[codes[where]]))
    directed = []
    for (points, area), (others, _) in (found, found[::-1]):
        directed.append((KDTree(others).query(points)[0], area))
    result = {"hd95_mm": max(weighted_percentile(distance, area) for distance, area in directed)}
    for name, tolerance in (("nsd_0_42mm", 0.42), ("nsd_1mm", 1.0), ("nsd_2mm", 2.0)):
        near = sum(area[distance <= tolerance + 1e-4].sum() for distance, area in directed)
        result[name] = near / sum(area.sum() for _, area in directed)
    return result


def weighted_percentile(distance: np.ndarray, area: np.ndarray) -> float:
    order = np.argsort(distance, kind="stable")
    return float(distance[order][np.searchsorted(np.cumsum(area[order]) / area.sum(), 0.95)])


@pytest.mark.parametrize(
    ("truth", "prediction", "spacing"),
    [
        pytest.param(blobs(0), blobs(1), (0.45, 0.45, 5.0), id="ragged-to-the-faces"),
        pytest.param(A_BOX, TWO_BOXES, SPACING, id="small-inside"),
        pytest.param(box(slice(0, 2), slice(0, 3), slice(0, 1)), box(slice(17, 20), slice(20, 24), slice(5, 6)),
                     SPACING, id="opposite-corners"),
        pytest.param(blobs(2, (40, 36, 1)), blobs(3, (40, 36, 1)), (0.45, 0.45, 5.0), id="single-slice"),
        pytest.param(np.ones((4, 5, 3), bool), np.ones((4, 5, 3), bool), SPACING, id="all-foreground"),
        pytest.param(np.ones((1, 1, 1), bool), np.ones((1, 1, 1), bool), SPACING, id="one-voxel"),
    ],
)  # fmt: skip
def test_cropping_changes_nothing(truth: Mask, prediction: Mask, spacing: Spacing) -> None:
    result = scan_metrics(truth, prediction, spacing).as_dict()
    for name, expected in uncropped_surface_metrics(truth, prediction, spacing).items():
        assert result[name] == pytest.approx(expected, abs=1e-9), name


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_axis_order_does_not_matter(order: tuple[int, int, int]) -> None:
    truth, prediction = blobs(4), blobs(4) ^ blobs(5, share=0.02)
    expected = scan_metrics(truth, prediction, SPACING).as_dict()
    spacing = (SPACING[order[0]], SPACING[order[1]], SPACING[order[2]])
    result = scan_metrics(truth.transpose(order), prediction.transpose(order), spacing).as_dict()
    assert result == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("axis", range(3))
def test_mirroring_does_not_matter(axis: int) -> None:
    truth, prediction = blobs(6), blobs(6) ^ blobs(7, share=0.02)
    expected = scan_metrics(truth, prediction, SPACING).as_dict()
    result = scan_metrics(np.flip(truth, axis), np.flip(prediction, axis), SPACING).as_dict()
    assert result == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("factor", [1 - 1e-7, 1, 1 + 1e-7])
def test_tolerance_of_one_voxel_survives_the_rounding_of_a_header(factor: float) -> None:
    truth = box(slice(4, 12), slice(4, 12), slice(1, 4))
    step = 0.42 * factor
    assert scan_metrics(truth, np.roll(truth, 1, 0), (step, step, 5.0)).nsd_0_42mm == 1


def test_volume_of_a_sheared_voxel_is_taken_as_given() -> None:
    result = scan_metrics(A_BOX, A_BOX, SPACING, voxel_volume_mm3=1.5)
    assert result.true_volume_ml == pytest.approx(24 * 1.5 / 1000)


def test_input_is_left_as_it_was() -> None:
    truth, prediction = blobs(8), blobs(9)
    kept = truth.copy(), prediction.copy()
    scan_metrics(truth, prediction, SPACING)
    assert np.array_equal(truth, kept[0]) and np.array_equal(prediction, kept[1])


@pytest.mark.parametrize(
    ("truth", "prediction", "spacing", "words"),
    [
        pytest.param(empty(), empty((20, 24, 5)), SPACING, "differ in shape", id="shape"),
        pytest.param(
            empty().astype(np.uint8), empty(), SPACING, "truth must be a boolean array, got uint8", id="dtype"
        ),
        pytest.param(empty(), empty().tolist(), SPACING, "prediction must be a boolean array, got list", id="list"),
        pytest.param(empty()[0], empty()[0], SPACING, "3 axes", id="2d"),
        pytest.param(empty()[None], empty()[None], SPACING, "3 axes", id="4d"),
        pytest.param(empty(), empty(), (0.5, 0.0, 5.0), "3 positive numbers", id="zero-spacing"),
        pytest.param(empty(), empty(), (0.5, -1.0, 5.0), "3 positive numbers", id="negative-spacing"),
        pytest.param(empty(), empty(), (0.5, math.nan, 5.0), "3 positive numbers", id="nan-spacing"),
        pytest.param(empty(), empty(), (0.5, 0.5), "3 positive numbers", id="two-spacings"),
    ],
)
def test_refused_input(truth: Any, prediction: Any, spacing: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        scan_metrics(truth, prediction, spacing)


@pytest.mark.parametrize("volume", [0.0, -1.0, math.inf, math.nan])
def test_refused_voxel_volume(volume: float) -> None:
    with pytest.raises(ValueError, match="voxel_volume_mm3 must be positive"):
        scan_metrics(A_BOX, A_BOX, SPACING, voxel_volume_mm3=volume)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((0, 0, 0), 1), ((0, 5, 0), 0), ((0, 0, 5), 0), ((3, 1, 1), 0.75), ((7, 0, 0), 1)],
)
def test_dice_from_counts(counts: tuple[float, float, float], expected: float) -> None:
    assert dice_from_counts(*counts) == expected


@pytest.mark.parametrize("counts", [(-1, 0, 0), (1, math.nan, 0)])
def test_dice_from_counts_refuses(counts: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        dice_from_counts(*counts)


def test_dice_takes_any_number_of_axes() -> None:
    truth = np.array([True, True, False, False])
    prediction = np.array([True, False, True, False])
    for shape in [(4,), (2, 2), (1, 2, 2, 1)]:
        assert dice(truth.reshape(shape), prediction.reshape(shape)) == 0.5


def test_every_measure_is_defined_in_words() -> None:
    assert tuple(DEFINITIONS) == METRIC_NAMES == tuple(scan_metrics(A_BOX, A_BOX, SPACING).as_dict())


def test_dice_imports_neither_scipy_nor_cc3d() -> None:
    code = (
        "import sys, numpy as np; from components.imaging.metrics import dice; "
        "dice(np.ones(3, bool), np.ones(3, bool)); "
        "sys.exit(bool({'scipy', 'cc3d', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_summary_by_hand() -> None:
    summary = summarise([0.2, 0.4, None, 0.6, 0.8, math.nan])
    assert (summary.n, summary.undefined) == (4, 2)
    assert summary.mean == pytest.approx(0.5)
    assert summary.sd == pytest.approx(math.sqrt((0.09 + 0.01 + 0.01 + 0.09) / 3))
    assert (summary.q1, summary.median, summary.q3) == pytest.approx((0.35, 0.5, 0.65))
    assert summary.ci95_low is not None and summary.ci95_high is not None
    assert 0.2 <= summary.ci95_low < 0.5 < summary.ci95_high <= 0.8


def test_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).beta(5, 2, size=40)
    reference = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    summary = summarise(values.tolist(), seed=2, resamples=20000)
    assert (summary.ci95_low, summary.ci95_high) == pytest.approx((reference.low, reference.high), abs=2e-3)


def test_interval_is_repeatable_and_depends_on_the_seed() -> None:
    values = [0.1, 0.5, 0.7, 0.72, 0.9]
    assert summarise(values, seed=3) == summarise(values, seed=3)
    assert summarise(values, seed=3) != summarise(values, seed=4)


@pytest.mark.parametrize("values", [[], [None], [None, math.nan]])
def test_summary_of_nothing(values: list[float | None]) -> None:
    summary = summarise(values)
    assert (summary.n, summary.undefined) == (0, len(values))
    assert all(value is None for name, value in summary.as_dict().items() if name not in ("n", "undefined"))


def test_summary_of_one() -> None:
    summary = summarise([0.7, None])
    assert (summary.n, summary.undefined, summary.mean, summary.median, summary.q1) == (1, 1, 0.7, 0.7, 0.7)
    assert (summary.sd, summary.ci95_low, summary.ci95_high) == (None, None, None)


def test_summary_of_equal_values_has_no_spread() -> None:
    summary = summarise([0.5] * 8)
    assert (summary.sd, summary.ci95_low, summary.ci95_high) == (0.0, 0.5, 0.5)


def test_summary_refuses() -> None:
    with pytest.raises(ValueError, match="finite or undefined, got inf"):
        summarise([0.5, math.inf])
    with pytest.raises(ValueError, match="resamples must be 1 or more"):
        summarise([0.5], resamples=0)
