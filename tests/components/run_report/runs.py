"""Verdicts, contracts and histories of runs that never were, as the stages leave them behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from components.evaluator.patient_metrics import Outlined
from components.evaluator.rules import decide
from components.evaluator.verdict import make_verdict
from components.imaging.calibration import calibration_counts, calibration_of
from components.imaging.geometry import Geometry
from components.run_report.strips import choose, draw
from tests.components.data_report.listings import listing, record
from tests.models import contract

GATE: dict[str, Any] = {"min_mean_dice": 0.3, "max_dice_drop": 0.02, "min_test_patients": 1}
NO_BASELINE = {"version": None, "used": False, "reason": "no model is in service yet"}


def scan(dice: float = 0.8, true_ml: float = 10.0, predicted_ml: float = 9.0, alarms: float = 1.0) -> dict[str, float]:
    """One scan's measures, as TFMA has them."""
    return {
        "patient_dice": dice, "nsd_0_42mm": dice, "nsd_1mm": dice, "nsd_2mm": dice, "hd95_mm": 10.0 * (1 - dice),
        "true_volume_ml": true_ml, "predicted_volume_ml": predicted_ml,
        "absolute_volume_error_ml": abs(true_ml - predicted_ml), "lesion_f1": dice,
        "false_positive_components": alarms, "missed_components": 0.0, "outside_brain_ml": 0.0,
        "undefined_pixels": 0.0, "patient_dice_sd": 0.0, "patients": 1.0, "scans": 1.0,
    }  # fmt: skip


def calibration(seed: int = 0) -> dict[str, Any]:
    """Of an overconfident model."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, 256, 4000).astype(np.uint8)
    truth = np.where(rng.random(4000) < (steps / 255) ** 2, 255, 0).astype(np.uint8)
    return calibration_of(calibration_counts(steps, truth)).as_dict()


def verdict(
    measures: Mapping[str, Mapping[str, float]],
    cases: Mapping[str, Mapping[str, Any]],
    served: Mapping[str, Mapping[str, float]] | None = None,
    **gate: Any,
) -> dict[str, Any]:
    """What the evaluator writes of these measures by case."""
    decision = decide({**GATE, **gate}, cases, measures, served)
    dice = [values["patient_dice"] for values in measures.values()]
    baseline: dict[str, Any] = dict(NO_BASELINE)
    if served is not None:
        mean = float(np.mean([values["patient_dice"] for values in served.values()]))
        baseline = {
            "version": "1600000000", "used": True, "reason": "compared on the same scans",
            "overall": {"patient_dice": mean}, "by_case": dict(served), "calibration": calibration(1),
        }  # fmt: skip
    results = {
        "overall": {"patient_dice": float(np.mean(dice)), "patient_dice_sd": float(np.std(dice))},
        "by_size": {}, "by_case": dict(measures), "calibration": calibration(), "baseline": baseline,
    }  # fmt: skip
    return make_verdict(results, decision)


def measured_cases(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The test split of a listing by case id."""
    return {case["case_id"]: case for case in found["cases"] if case["split"] == "test"}


def cohort(patients: int, seed: int = 0, prefix: str = "p") -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """A listing and measures of its test split; every tenth patient has no blood."""
    rng = np.random.default_rng(seed)
    records, measures = [record("train"), record("val", "val")], {}
    for number in range(patients):
        case = f"{prefix}{number:03d}"
        true = 0.0 if number % 10 == 9 else float(rng.lognormal(2.3, 1.0))
        records.append(record(case, "test", true, spacing_mm=[float(rng.choice([1.0, 5.0])), 0.5, 0.5]))
        predicted = max(true + float(rng.normal(-1, 3)), 0.0)
        dice = float(rng.beta(5, 2)) if true else float(predicted == 0)
        measures[case] = scan(dice, true, predicted, float(rng.poisson(1.2)))
    splits = {
        name: {"patients": n, "scans": n, "slices": 20 * n, "lesion_slices": 5 * n}
        for name, n in (("train", 1), ("val", 1), ("test", patients))
    }
    return listing(*records, splits=splits, spans=[3, 2]), measures


def trial(**changes: Any) -> dict[str, Any]:
    """One trial of the tuning."""
    settings = {
        "threshold": 0.5, "fill_holes": False, "core_threshold": 0.5, "min_component_ml": 0.0, "hu_range": None,
        "head_only": False, "dice": 0.7, "false_positive_components": 2.0,
    }  # fmt: skip
    return settings | changes


def tuning() -> dict[str, Any]:
    """Three thresholds, two sizes, with and without a range of HU and the skull."""
    chosen = trial(threshold=0.4, core_threshold=0.4, min_component_ml=0.5, dice=0.75, false_positive_components=0.5)
    curve = [
        trial(),
        trial(threshold=0.4, core_threshold=0.4),
        trial(threshold=0.3, core_threshold=0.3, min_component_ml=0.5, dice=0.74, false_positive_components=0.75),
        chosen,
        {**chosen, "threshold": 0.6, "core_threshold": 0.6, "dice": 0.72, "false_positive_components": 0.25},
        {**chosen, "hu_range": [20.0, 110.0], "dice": 0.7},
        {**chosen, "head_only": True, "dice": 0.745},
        {**chosen, "core_threshold": 0.9, "dice": 0.6, "false_positive_components": 0.0},
    ]
    return {"start": trial(), "chosen": chosen, "curve": curve}


def made_contract(**changes: Any) -> dict[str, Any]:
    """A tuned model's contract as JSON has it."""
    import json

    made = contract(
        threshold=0.4, min_component_ml=0.5, tuning=tuning(), versions={"tensorflow": "2.21.0"},
        metrics={"val_dice": 0.75, "epochs": 3.0, "best_epoch": 2.0}, **changes,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(made.to_json())
    return found


def history() -> dict[str, Any]:
    """Three epochs, validated in the last two."""
    rows = [(1, 0.9, None, 1e-3), (2, 0.5, 0.7, 5e-4), (3, 0.4, 0.65, 1e-4)]
    names = ("epoch", "loss", "val_dice", "learning_rate")
    epochs = [{**dict(zip(names, row, strict=True)), "minutes": float(row[0]), "slices_per_second": 9} for row in rows]
    return {"finished": "all epochs done", "epochs": epochs, "metrics": {"best_epoch": 2.0}}


def folds() -> dict[str, Any]:
    """Two folds of two epochs, the second one ended early."""
    rows = [
        {"fold": fold, "epoch": epoch, "loss": 1 / epoch, "val_dice": fold / 10 + epoch / 100, "learning_rate": 1e-3,
         "minutes": 1.0}
        for fold, last in ((1, 2), (2, 1)) for epoch in range(1, last + 1)
    ]  # fmt: skip
    table = [
        {"fold": fold, "finished": "all epochs done", "epochs": 2, "best_epoch": 2, "minutes": 1.0,
         "train_patients": 10, "val_patients": 5, "val_cases": 5, "val_dice": 0.7, "val_dice_sd": None}
        for fold in (1, 2)
    ]  # fmt: skip
    return {"finished": "fold 1: all epochs done; fold 2: stopped", "epochs": rows, "folds": table, "metrics": {}}


def ball(shape: tuple[int, int, int], center: tuple[float, float, float], radius: float) -> np.ndarray:
    """A round lesion; one slice counts as a tenth of the rows."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    away = ((z - center[0]) * shape[1] / 10) ** 2 + (y - center[1]) ** 2 + (x - center[2]) ** 2
    return np.asarray(away <= radius**2)


def strips(
    measures: Mapping[str, Any], cases: Mapping[str, Any], *, slices: int = 8, size: int = 48, noise: float = 3.0
) -> list[dict[str, Any]]:
    """What is drawn of the scans that `choose` takes: a disc of brain with a ball of blood, outlined a little aside.

    Args:
        measures: By case.
        cases: By case.
        slices: Of each scan.
        size: Pixels a side of the model grid; the scan's own grid has twice as many.
        noise: Standard deviation of its HU.
    """
    rng = np.random.default_rng(5)
    shape = (slices, 2 * size, 2 * size)
    geometry = Geometry(shape, (5.0, 0.5, 0.5), (size - 0.5, size - 0.5), size, 1.0)
    disc = np.hypot(*np.ogrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]) < 0.9
    made = []
    for number, (case, roles) in enumerate(choose(measures, cases).items()):
        truth = ball(shape, (slices / 2, 0.9 * size, 0.8 * size), size / 3)
        predicted = ball(shape, (slices / 2, (0.9 + 0.05 * number) * size, 0.82 * size), size / 3)
        hu = np.where(disc, 35, -1000) + 30 * truth[:, ::2, ::2] + rng.normal(0, noise, (slices, size, size))
        strip = draw(Outlined(geometry, truth, predicted, []), hu.astype(np.int16))
        made.append({"case_id": case, "roles": list(roles), **strip})
    return made
