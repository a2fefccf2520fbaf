"""TFMA's results and the decision on them as one plain JSON object."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import tensorflow_model_analysis as tfma

from components.evaluator.patient_metrics import CALIBRATION, KEYS
from components.evaluator.rules import Decision
from components.imaging.calibration import calibration_of
from schema import features as f

FILE_NAME = "verdict.json"


def read_results(uri: str) -> dict[str, Any]:
    """What TFMA measured.

    Args:
        uri: Folder of an evaluation.

    Returns:
        `overall` metrics of the candidate, `by_size`, `by_case` and `calibration`, and `baseline` with `overall`,
        `by_case` and `calibration` of the model in service where there was one.
    """
    models, calibrations = {}, {}
    for name in ("candidate", "baseline"):
        try:
            result = tfma.load_eval_result(uri, model_name=name)
        except (ValueError, KeyError, OSError):
            continue
        if result is not None and result.slicing_metrics:
            models[name] = _by_slice(result.slicing_metrics)
            calibrations[name] = _calibration(result.slicing_metrics)
    if "candidate" not in models:
        alone = tfma.load_eval_result(uri).slicing_metrics
        models["candidate"], calibrations["candidate"] = _by_slice(alone), _calibration(alone)
    candidate = models["candidate"]
    served = models.get("baseline")
    return {
        "overall": candidate.get((), {}),
        "by_size": _of(candidate, f.SIZE_BIN),
        "by_case": _of(candidate, f.CASE_ID),
        "calibration": calibrations["candidate"],
        "baseline": (
            {
                "overall": served.get((), {}),
                "by_case": _of(served, f.CASE_ID),
                "calibration": calibrations["baseline"],
            }
            if served
            else {}
        ),
    }


def make_verdict(results: dict[str, Any], decision: Decision) -> dict[str, Any]:
    """The content of `verdict.json`.

    Args:
        results: What `read_results` returned.
        decision: The gate's.

    Returns:
        The results, and `blessed`, `failures` (rule, metric, slice, value, bound, message, worst scans), `rules`
        (every rule with value, bound and whether it passed), `interval` (mean, low and high end of the Dice),
        `slices` (patients, scans and Dice of each) and `notes`; `baseline` gains `difference`.
    """
    baseline = results["baseline"]
    if decision.difference is not None:
        baseline = {**baseline, "difference": asdict(decision.difference)}
    return {
        "blessed": decision.blessed,
        "failures": [rule.as_failure() for rule in decision.failures],
        "rules": [rule.as_dict() for rule in decision.rules],
        "interval": asdict(decision.interval),
        "slices": decision.slices,
        "notes": list(decision.notes),
        **results,
        "baseline": baseline,
    }


def _by_slice(slicing_metrics: Any) -> dict[tuple[str, ...], dict[str, float]]:
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for slice_key, outputs in slicing_metrics:
        values = outputs[""][""]
        flat = () if not slice_key else (str(slice_key[0][0]), str(slice_key[0][1]))
        # TFMA adds the differences to the baseline as metrics named `<metric>_diff`; both sides are there already.
        found[flat] = {name: float(values[name]["doubleValue"]) for name in KEYS if name in values}
    return found


def _calibration(slicing_metrics: Any) -> dict[str, Any]:
    """Of all slices together, as `calibration.Calibration.as_dict` has it."""
    whole = next(outputs[""][""] for slice_key, outputs in slicing_metrics if not slice_key)
    return calibration_of(np.asarray(whole[CALIBRATION]["arrayValue"]["float64Values"])).as_dict()


def _of(model: dict[tuple[str, ...], dict[str, float]], feature: str) -> dict[str, dict[str, float]]:
    return {key[1]: values for key, values in model.items() if key and key[0] == feature}
