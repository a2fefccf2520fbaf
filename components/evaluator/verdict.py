"""TFMA's results as one plain JSON object."""

from __future__ import annotations

from typing import Any

import tensorflow_model_analysis as tfma

from components.evaluator.patient_metrics import KEYS
from schema import features as f

FILE_NAME = "verdict.json"


def read_verdict(uri: str) -> dict[str, Any]:
    """What TFMA found.

    Args:
        uri: Folder of an evaluation.

    Returns:
        `blessed`, `failures` (metric, rule, value, bound), `overall` metrics of the candidate, `by_size` and
        `by_case`, and `baseline` with the metrics of the model in service where there was one.
    """
    validation = tfma.load_validation_result(uri)
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
    return {
        "blessed": bool(validation.validation_ok),
        "failures": _failures(validation),
        "overall": candidate.get((), {}),
        "by_size": {key[1]: value for key, value in candidate.items() if key and key[0] == f.SIZE_BIN},
        "by_case": {key[1]: value for key, value in candidate.items() if key and key[0] == f.CASE_ID},
        "baseline": {"overall": models["baseline"].get((), {})} if "baseline" in models else {},
    }


def _by_slice(slicing_metrics: Any) -> dict[tuple[str, ...], dict[str, float]]:
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for slice_key, outputs in slicing_metrics:
        values = outputs[""][""]
        flat = () if not slice_key else (str(slice_key[0][0]), str(slice_key[0][1]))
        # TFMA adds the differences to the baseline as metrics named `<metric>_diff`; both sides are there already.
        found[flat] = {name: float(values[name]["doubleValue"]) for name in KEYS if name in values}
    return found


def _failures(validation: Any) -> list[dict[str, Any]]:
    failures = []
    for part in validation.metric_validations_per_slice:
        for failure in part.failures:
            threshold = failure.metric_threshold
            rule = "bound" if threshold.HasField("value_threshold") else "change"
            if threshold.HasField("value_threshold") and threshold.HasField("change_threshold"):
                rule = "bound or change"
            value = failure.metric_value.double_value.value
            failures.append(
                {
                    "metric": failure.metric_key.name,
                    "is_change": bool(failure.metric_key.is_diff),
                    "rule": rule,
                    "value": float(value),
                    "lower_bound": threshold.value_threshold.lower_bound.value,
                    "allowed_change": threshold.change_threshold.absolute.value,
                    "message": failure.message,
                }
            )
    return failures
