"""TFMA's results and the decision on them as one plain JSON object."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import tensorflow_model_analysis as tfma

from components.evaluator.patient_metrics import KEYS
from components.evaluator.rules import Decision
from schema import features as f

FILE_NAME = "verdict.json"


def read_results(uri: str) -> dict[str, Any]:
    """What TFMA measured.

    Args:
        uri: Folder of an evaluation.

    Returns:
        `overall` metrics of the candidate, `by_size` and `by_case`, and `baseline` with `overall` and `by_case` of the
        model in service where there was one.
    """
    models = {}
    for name in ("candidate", "baseline"):
        try:
            result = tfma.load_eval_result(uri, model_name=name)
        except (ValueError, KeyError, OSError):
            continue
        if result is not None and result.slicing_metrics:
            models[name] = _by_slice(result.slicing_metrics)
    if "candidate" not in models:
        models["candidate"] = _by_slice(tfma.load_eval_result(uri).slicing_metrics)
    candidate = models["candidate"]
    served = models.get("baseline")
    return {
        "overall": candidate.get((), {}),
        "by_size": _of(candidate, f.SIZE_BIN),
        "by_case": _of(candidate, f.CASE_ID),
        "baseline": {"overall": served.get((), {}), "by_case": _of(served, f.CASE_ID)} if served else {},
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


def _of(model: dict[tuple[str, ...], dict[str, float]], feature: str) -> dict[str, dict[str, float]]:
    return {key[1]: values for key, values in model.items() if key and key[0] == feature}
