"""The test scans that are looked at slice by slice: which ones, which of their slices, and what is drawn of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from components.evaluator.figures import by_patient
from components.evaluator.patient_metrics import Outlined
from components.imaging.geometry import Geometry
from components.imaging.metrics import dice
from components.pages.pictures import data_uri, in_window, outline_path, pixels_path

ROLES = {
    "best": "the best patient",
    "median": "the median patient",
    "worst": "the worst patient",
    "false_positives": "the most false-positive components",
}
"""What a scan is shown for, in this order."""

MOST_SLICES = 40
_PIXELS = 256


def choose(
    measures: Mapping[str, Mapping[str, float]], cases: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[str, ...]]:
    """The scans to look at, and what for.

    Best, median and worst are by the Dice of the patients with blood; of an even number of patients, the median is the
    worse of the two in the middle. Of a patient's scans with blood the one nearest to the patient's Dice is taken.

    Args:
        measures: `by_case` of the verdict.
        cases: By case id `patient_id`, as in `cases.json`.

    Returns:
        Keys of `ROLES` by case id, in the order of `ROLES`; a scan that has several roles comes once.
    """
    patients = {name: values for name, values in by_patient(measures, cases).items() if values["true_volume_ml"]}
    ranked = sorted(patients, key=lambda name: (-(patients[name]["dice"] or 0.0), name))
    found: dict[str, list[str]] = {}
    if ranked:
        for role, patient in (("best", ranked[0]), ("median", ranked[len(ranked) // 2]), ("worst", ranked[-1])):
            found.setdefault(_scan_of(patient, patients[patient]["dice"] or 0.0, measures, cases), []).append(role)
    if measures:
        alarms = {case: values["false_positive_components"] for case, values in measures.items()}
        most = min(alarms, key=lambda case: (-alarms[case], case))
        if alarms[most] > 0:
            found.setdefault(most, []).append("false_positives")
    return {case: tuple(roles) for case, roles in found.items()}


def _scan_of(
    patient: str, mean: float, measures: Mapping[str, Mapping[str, float]], cases: Mapping[str, Mapping[str, Any]]
) -> str:
    own = [
        case
        for case, values in measures.items()
        if str(cases[case]["patient_id"]) == patient and values["true_volume_ml"] > 0
    ]
    return min(own, key=lambda case: (abs(measures[case]["patient_dice"] - mean), case))


def shown_slices(lesion: np.ndarray, most: int = MOST_SLICES) -> list[int]:
    """The slices that are drawn: all of a short scan, else those around the lesion, spread evenly if it is longer.

    Args:
        lesion: Whether a slice has blood, true or outlined; bool of shape (slices,).
        most: At most so many.

    Returns:
        Indices in order.
    """
    count = len(lesion)
    with_lesion = np.flatnonzero(lesion)
    low, high = (int(with_lesion[0]), int(with_lesion[-1]) + 1) if with_lesion.size else (0, count)
    if high - low > most:
        return sorted({round(float(place)) for place in np.linspace(low, high - 1, most)})
    length = min(most, count)
    start = min(max(low - (length - (high - low)) // 2, 0), count - length)
    return list(range(start, start + length))


def draw(scan: Outlined, hu: np.ndarray) -> dict[str, Any]:
    """A scan as a strip of slices: each a picture of its HU, with the masks as paths on the scan's own grid.

    Args:
        scan: Truth and prediction as the gate measured them.
        hu: HU on the model grid, int16 of shape (slices, size, size).

    Returns:
        `dice` of the two masks, `slices_in_scan`, `size` (pixels a side of the model grid), `transform` (SVG, from the
        scan's own pixels to the model grid's), `start` (the place in the list of the slice with the largest lesion),
        and `slices`: `slice` (from 1), `image` (a data URI in the brain window), the paths `truth`, `prediction`,
        `false_positive` and `missed`, and the area of each in cm².
    """
    geometry, size = scan.geometry, scan.geometry.grid_size
    pixel_cm2 = geometry.spacing_mm[1] * geometry.spacing_mm[2] / 100
    side = min(size, _PIXELS)
    slices, areas = [], []
    for index in shown_slices((scan.truth | scan.predicted).any(axis=(1, 2))):
        true, predicted = scan.truth[index], scan.predicted[index]
        masks = {
            "truth": true, "prediction": predicted, "false_positive": predicted & ~true, "missed": true & ~predicted
        }  # fmt: skip
        slices.append(
            {
                "slice": index + 1,
                "image": data_uri(in_window(hu[index]), (side, side)),
                **{
                    name: outline_path(mask.astype(np.uint8)) if name in ("truth", "prediction") else pixels_path(mask)
                    for name, mask in masks.items()
                },
                "cm2": {name: round(np.count_nonzero(mask) * pixel_cm2, 3) for name, mask in masks.items()},
            }
        )
        areas.append((np.count_nonzero(true), np.count_nonzero(predicted)))
    return {
        "dice": dice(scan.truth, scan.predicted),
        "slices_in_scan": len(scan.truth),
        "size": size,
        "transform": _to_grid(geometry),
        "start": areas.index(max(areas)) if any(map(any, areas)) else len(areas) // 2,
        "slices": slices,
    }


def _to_grid(geometry: Geometry) -> str:
    """From the scan's own pixels to the model grid's, both from the upper left corner of the picture, as SVG has it."""
    steps = [spacing / geometry.grid_spacing_mm for spacing in geometry.spacing_mm[1:]]
    # A pixel's centre lies half a pixel from its corner, and the grid's centre on `grid_center`.
    shifts = [
        geometry.grid_size / 2 - (center + 0.5) * step for center, step in zip(geometry.grid_center, steps, strict=True)
    ]
    return f"translate({shifts[1]:.4f} {shifts[0]:.4f}) scale({steps[1]:.6f} {steps[0]:.6f})"
