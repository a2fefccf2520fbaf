"""The measures of a predicted mask against the truth, per scan and on the scan's own voxel grid.

Every measure is defined for empty masks, so that none has to be dropped from a mean:

    ==============================  ==========  ===================  ===================
    measure                         both empty  only truth empty     only prediction empty
    ==============================  ==========  ===================  ===================
    Dice, NSD, lesion F1            1           0                    0
    HD95                            0           the scan's diagonal  the scan's diagonal
    RVD                             0           undefined (None)     1
    false-positive components       0           their count          0
    missed components               0           0                    their count
    ==============================  ==========  ===================  ===================

Surfaces need SciPy and components need cc3d: both are imported where they are used, so that `dice` costs neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

# Headers hold the spacing as float32: at a tolerance of exactly one voxel (0.42 mm is one for many scans of
# INSTANCE 2022) the rounding of the header would otherwise decide the surface Dice.
_TOLERANCE_SLACK_MM = 1e-5

DEFINITIONS: dict[str, str] = {
    "dice": "2TP / (2TP + FP + FN) over voxels; 1 when both masks are empty",
    "nsd_0_42mm": "surface Dice at 0.42 mm (the tolerance of INSTANCE 2022), weighted by surface area",
    "nsd_1mm": "surface Dice at 1 mm, weighted by surface area",
    "nsd_2mm": "surface Dice at 2 mm, weighted by surface area",
    "hd95_mm": "95th percentile of the surface distance weighted by surface area, the larger of the two directions; "
    "the scan's diagonal when one mask is empty",
    "true_volume_ml": "volume of the true mask",
    "predicted_volume_ml": "volume of the predicted mask",
    "absolute_volume_error_ml": "|predicted - true| volume",
    "rvd": "|predicted - true| / true volume; undefined when only the truth is empty",
    "lesion_f1": "TP / (TP + (FP + FN) / 2) over 26-connected components, overlap of one voxel counts (ISLES 2022)",
    "false_positive_components": "predicted components without a true voxel",
    "missed_components": "true components without a predicted voxel",
    "true_components": "26-connected components of the true mask",
    "predicted_components": "26-connected components of the predicted mask",
}
"""What each field of `ScanMetrics` means, in one line, for reports."""


@dataclass(frozen=True)
class ScanMetrics:
    """The measures of one scan; `DEFINITIONS` says what each is."""

    dice: float
    nsd_0_42mm: float
    nsd_1mm: float
    nsd_2mm: float
    hd95_mm: float
    true_volume_ml: float
    predicted_volume_ml: float
    absolute_volume_error_ml: float
    rvd: float | None
    lesion_f1: float
    false_positive_components: int
    missed_components: int
    true_components: int
    predicted_components: int

    def as_dict(self) -> dict[str, float | int | None]:
        """The measures by name, in the order of the fields."""
        return asdict(self)


METRIC_NAMES: tuple[str, ...] = tuple(field.name for field in fields(ScanMetrics))


def dice_from_counts(tp: float, fp: float, fn: float) -> float:
    """Dice from the numbers of true-positive, false-positive and false-negative voxels; 1 when all are zero.

    Raises:
        ValueError: A count is negative or not a number.
    """
    if not all(count >= 0 for count in (tp, fp, fn)):
        raise ValueError(f"counts must be 0 or more, got tp={tp}, fp={fp}, fn={fn}")
    denominator = 2 * tp + fp + fn
    return float(2 * tp / denominator) if denominator else 1.0


def dice(truth: Mask, prediction: Mask) -> float:
    """Dice of two boolean masks of one shape (of any number of axes); 1 when both are empty.

    Raises:
        ValueError: The shapes differ, or a mask is not boolean.
    """
    _check_pair(truth, prediction)
    tp = int(np.count_nonzero(truth & prediction))
    return dice_from_counts(tp, int(np.count_nonzero(prediction)) - tp, int(np.count_nonzero(truth)) - tp)


def scan_metrics(
    truth: Mask, prediction: Mask, spacing_mm: Spacing, *, voxel_volume_mm3: float | None = None
) -> ScanMetrics:
    """All measures of one scan.

    Args:
        truth: Boolean, three axes in any order.
        prediction: Boolean, on the same voxels.
        spacing_mm: Distance between voxel centres along each array axis, in mm.
        voxel_volume_mm3: Volume of a voxel where the axes are not at right angles (a tilted gantry); by default the
            product of the spacing.

    Raises:
        ValueError: The shapes differ, a mask is not boolean or not 3D, or a spacing or the voxel volume is not
            positive.
    """
    _check_pair(truth, prediction)
    if truth.ndim != 3:
        raise ValueError(f"masks must have 3 axes, got shape {truth.shape}")
    if len(spacing_mm) != 3 or not all(math.isfinite(step) and step > 0 for step in spacing_mm):
        raise ValueError(f"spacing_mm must be 3 positive numbers, got {tuple(spacing_mm)}")
    spacing = (float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2]))
    voxel_ml = (math.prod(spacing) if voxel_volume_mm3 is None else voxel_volume_mm3) / 1000
    if not (math.isfinite(voxel_ml) and voxel_ml > 0):
        raise ValueError(f"voxel_volume_mm3 must be positive, got {voxel_volume_mm3}")

    diagonal_mm = math.hypot(*(size * step for size, step in zip(truth.shape, spacing, strict=True)))
    box = _joint_box(truth, prediction)
    truth, prediction = truth[box], prediction[box]

    tp = int(np.count_nonzero(truth & prediction))
    true_voxels, predicted_voxels = int(np.count_nonzero(truth)), int(np.count_nonzero(prediction))
    nsd, hd95 = _surface_metrics(truth, prediction, spacing, diagonal_mm)
    components = _match_components(truth, prediction)
    return ScanMetrics(
        dice=dice_from_counts(tp, predicted_voxels - tp, true_voxels - tp),
        nsd_0_42mm=nsd[0],
        nsd_1mm=nsd[1],
        nsd_2mm=nsd[2],
        hd95_mm=hd95,
        true_volume_ml=true_voxels * voxel_ml,
        predicted_volume_ml=predicted_voxels * voxel_ml,
        absolute_volume_error_ml=abs(predicted_voxels - true_voxels) * voxel_ml,
        rvd=_relative_difference(true_voxels, predicted_voxels),
        lesion_f1=dice_from_counts(components.found, components.false_positive, components.missed),
        false_positive_components=components.false_positive,
        missed_components=components.missed,
        true_components=components.found + components.missed,
        predicted_components=components.predicted,
    )


@dataclass(frozen=True)
class Summary:
    """One measure over a cohort. All but the counts are None when no value is defined.

    Attributes:
        n: Patients with a defined value; everything below is over these.
        undefined: Patients whose value is undefined.
        mean: Arithmetic mean.
        sd: Standard deviation with n - 1 below the line: the patients are a sample of those to come, and with the
            few dozen of a test split dividing by n would flatter the spread. None for one patient.
        median: 50th percentile.
        q1: 25th percentile.
        q3: 75th percentile.
        ci95_low: Lower end of the 95 % bootstrap interval of the mean over patients; None for one patient.
        ci95_high: Upper end of it.
    """

    n: int
    undefined: int
    mean: float | None = None
    sd: float | None = None
    median: float | None = None
    q1: float | None = None
    q3: float | None = None
    ci95_low: float | None = None
    ci95_high: float | None = None

    def as_dict(self) -> dict[str, float | int | None]:
        """The numbers by name, in the order of the fields."""
        return asdict(self)


def summarise(values: Sequence[float | None], *, seed: int = 0, resamples: int = 2000) -> Summary:
    """Describe one measure over the patients of a cohort.

    The interval is the percentile bootstrap of the mean (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, chapter 13), patients being the unit that is resampled.

    Args:
        values: One value a patient; None or NaN means undefined, and is counted.
        seed: Seed of the resampling: equal seeds and values give equal intervals.
        resamples: Number of bootstrap samples.

    Raises:
        ValueError: A value is infinite, or `resamples` is less than 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be 1 or more, got {resamples}")
    numbers = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    if np.isinf(numbers).any():
        raise ValueError(f"a measure must be finite or undefined, got {numbers[np.isinf(numbers)][0]}")
    defined = numbers[~np.isnan(numbers)]
    n, undefined = int(defined.size), int(numbers.size - defined.size)
    if n == 0:
        return Summary(n=0, undefined=undefined)
    q1, median, q3 = (float(value) for value in np.percentile(defined, [25, 50, 75]))
    sd, low, high = None, None, None
    if n > 1:
        sd = float(defined.std(ddof=1))
        samples = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
        low, high = (float(value) for value in np.percentile(defined[samples].mean(axis=1), [2.5, 97.5]))
    return Summary(n, undefined, float(defined.mean()), sd, median, q1, q3, low, high)


def _check_pair(truth: Mask, prediction: Mask) -> None:
    for name, mask in (("truth", truth), ("prediction", prediction)):
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise ValueError(f"{name} must be a boolean array, got {getattr(mask, 'dtype', type(mask).__name__)}")
    if truth.shape != prediction.shape:
        raise ValueError(f"masks differ in shape: truth {truth.shape}, prediction {prediction.shape}")


def _joint_box(truth: Mask, prediction: Mask) -> tuple[slice, ...]:
    """The smallest box around both masks and one voxel more, cut at the scan's faces; empty if both masks are."""
    either = truth | prediction
    box = []
    for axis in range(either.ndim):
        others = tuple(other for other in range(either.ndim) if other != axis)
        hits = np.flatnonzero(either.any(axis=others))
        box.append(slice(max(int(hits[0]) - 1, 0), int(hits[-1]) + 2) if hits.size else slice(0, 0))
    return tuple(box)


def _surface_metrics(
    truth: Mask, prediction: Mask, spacing: Spacing, diagonal_mm: float
) -> tuple[tuple[float, float, float], float]:
    """NSD at 0.42, 1 and 2 mm, and HD95 in mm.

    Surface elements and their areas are those of Nikolov et al. (2018, arXiv 1809.04430) in their own
    implementation; the mask's surface is closed at the scan's faces. It cannot measure empty masks.
    """
    if not (truth.any() and prediction.any()):
        both_empty = not (truth.any() or prediction.any())
        nsd = 1.0 if both_empty else 0.0
        return (nsd, nsd, nsd), 0.0 if both_empty else diagonal_mm

    import surface_distance

    distances = surface_distance.compute_surface_distances(truth, prediction, spacing)

    def surface_dice(tolerance_mm: float) -> float:
        slack = tolerance_mm + _TOLERANCE_SLACK_MM
        return float(surface_distance.compute_surface_dice_at_tolerance(distances, slack))

    hd95 = float(surface_distance.compute_robust_hausdorff(distances, 95))
    return (surface_dice(0.42), surface_dice(1.0), surface_dice(2.0)), hd95


@dataclass(frozen=True)
class _Components:
    found: int
    missed: int
    predicted: int
    false_positive: int


def _match_components(truth: Mask, prediction: Mask) -> _Components:
    """Count 26-connected components; two masks' components match when they share a voxel (ISLES 2022)."""
    if truth.size == 0:
        return _Components(0, 0, 0, 0)
    import cc3d

    true_labels, true_count = cc3d.connected_components(truth, connectivity=26, return_N=True)
    labels, count = cc3d.connected_components(prediction, connectivity=26, return_N=True)
    # Labels run from 1 without gaps, so the distinct labels under the other mask are the components that match.
    found = np.unique(true_labels[truth & prediction]).size
    matched = np.unique(labels[truth & prediction]).size
    return _Components(found, true_count - found, count, count - matched)


def _relative_difference(true_voxels: int, predicted_voxels: int) -> float | None:
    if true_voxels == 0:
        return 0.0 if predicted_voxels == 0 else None
    return abs(predicted_voxels - true_voxels) / true_voxels
