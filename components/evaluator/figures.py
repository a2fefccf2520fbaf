"""What reports tell of an evaluation: each measure described over patients, overall and by slice, and the volumes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from components.evaluator.rules import SLICES, in_slice
from components.imaging.agreement import bland_altman
from components.imaging.metrics import summarise

Scan = Mapping[str, float]
Value = float | None


def _relative_difference(scan: Scan) -> Value:
    """RVD from the volumes; None where only the truth is empty."""
    true, predicted = scan["true_volume_ml"], scan["predicted_volume_ml"]
    if true == 0:
        return 0.0 if predicted == 0 else None
    return abs(predicted - true) / true


def _named(name: str) -> Callable[[Scan], Value]:
    return lambda scan: scan[name]


MEASURES: dict[str, Callable[[Scan], Value]] = {
    "dice": _named("patient_dice"),
    **{
        name: _named(name)
        for name in (
            "nsd_0_42mm", "nsd_1mm", "nsd_2mm", "hd95_mm", "lesion_f1", "false_positive_components",
            "missed_components", "true_volume_ml", "predicted_volume_ml", "absolute_volume_error_ml",
        )
    },
    "rvd": _relative_difference,
}  # fmt: skip
"""Names of `imaging.metrics.DEFINITIONS`, and how each is taken from a scan in `by_case` of the verdict."""


TITLES = {
    "dice": "Dice",
    "nsd_0_42mm": "NSD at 0.42 mm",
    "nsd_1mm": "NSD at 1 mm",
    "nsd_2mm": "NSD at 2 mm",
    "hd95_mm": "HD95, mm",
    "lesion_f1": "Lesion F1",
    "false_positive_components": "False-positive components",
    "missed_components": "Missed components",
    "true_volume_ml": "True volume, ml",
    "predicted_volume_ml": "Predicted volume, ml",
    "absolute_volume_error_ml": "Volume error, ml",
    "rvd": "Relative volume error",
}
"""The measures as headings."""


def by_patient(measures: Mapping[str, Scan], cases: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Value]]:
    """Each patient's measures: the mean of those scans for which the measure is defined.

    Args:
        measures: `by_case` of the verdict.
        cases: By case id `patient_id`, as in `cases.json`; others than those measured may be there.

    Returns:
        By patient, in the order of their ids, the `MEASURES`; None where no scan defines one.
    """
    scans: dict[str, list[Scan]] = {}
    for case in sorted(measures):
        scans.setdefault(str(cases[case]["patient_id"]), []).append(measures[case])
    return {
        patient: {name: _mean([value(scan) for scan in scans[patient]]) for name, value in MEASURES.items()}
        for patient in sorted(scans)
    }


def _mean(values: Sequence[Value]) -> Value:
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None


def figures(measures: Mapping[str, Scan], cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Describes an evaluation.

    Args:
        measures: `by_case` of the verdict.
        cases: By case id `patient_id`, `size_bin` and `spacing_mm`, as in `cases.json`.

    Returns:
        `overall`: of each of `MEASURES` what `summarise` says over patients; `slices`: by slice of `rules.SLICES` its
        `patients`, `scans` and `measures`, likewise; `volumes`: `bland_altman` of true and predicted volumes in ml.
    """
    slices = {}
    for name in SLICES:
        members = {case: values for case, values in measures.items() if in_slice(name, cases[case])}
        patients = by_patient(members, cases)
        slices[name] = {"patients": len(patients), "scans": len(members), "measures": _summaries(patients)}
    everyone = by_patient(measures, cases)
    true = [float(values["true_volume_ml"] or 0.0) for values in everyone.values()]
    predicted = [float(values["predicted_volume_ml"] or 0.0) for values in everyone.values()]
    return {
        "overall": _summaries(everyone),
        "slices": slices,
        "volumes": bland_altman(true, predicted).as_dict(),
    }


def _summaries(patients: Mapping[str, Mapping[str, Value]]) -> dict[str, dict[str, Any]]:
    return {name: summarise([values[name] for values in patients.values()]).as_dict() for name in MEASURES}
