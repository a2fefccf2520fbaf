"""Measures over patients, by slice, and the volumes: by hand and against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from components.evaluator.figures import MEASURES, TITLES, by_patient, figures
from components.imaging.agreement import bland_altman
from components.imaging.metrics import DEFINITIONS, summarise


def scan(dice: float, true_ml: float, predicted_ml: float) -> dict[str, float]:
    """A scan's measures by TFMA's names; those of no interest are the Dice."""
    values = {name: dice for name in MEASURES if name not in ("dice", "rvd")}
    volumes = {"true_volume_ml": true_ml, "predicted_volume_ml": predicted_ml}
    return {**values, "patient_dice": dice, **volumes}


CASES: dict[str, dict[str, Any]] = {
    "a1": {"patient_id": "a", "size_bin": "small", "spacing_mm": [5.0, 1.0, 1.0]},
    "a2": {"patient_id": "a", "size_bin": "large", "spacing_mm": [1.0, 1.0, 1.0]},
    "b": {"patient_id": "b", "size_bin": "none", "spacing_mm": [5.0, 1.0, 1.0]},
    "c": {"patient_id": "c", "size_bin": "none", "spacing_mm": [5.0, 1.0, 1.0]},
    "of another split": {"patient_id": "t", "size_bin": "small", "spacing_mm": [5.0, 1.0, 1.0]},
}
BY_CASE = {"a2": scan(0.8, 40, 30), "a1": scan(0.4, 4, 6), "b": scan(1.0, 0, 0), "c": scan(0.0, 0, 3)}


def test_scans_are_averaged_within_a_patient() -> None:
    found = by_patient(BY_CASE, CASES)
    assert list(found) == ["a", "b", "c"]
    assert found["a"]["dice"] == pytest.approx(0.6)
    assert (found["a"]["true_volume_ml"], found["a"]["predicted_volume_ml"]) == (22, 18)
    assert found["a"]["rvd"] == pytest.approx((0.5 + 0.25) / 2)
    assert found["b"]["rvd"] == 0.0


def test_an_undefined_measure_is_counted_and_left_out_of_the_mean() -> None:
    found = figures(BY_CASE, CASES)["overall"]
    assert by_patient(BY_CASE, CASES)["c"]["rvd"] is None
    assert (found["rvd"]["n"], found["rvd"]["undefined"]) == (2, 1)
    assert found["rvd"]["mean"] == pytest.approx((0.375 + 0) / 2)
    assert (found["dice"]["n"], found["dice"]["undefined"]) == (3, 0)


def test_described_as_everywhere_else() -> None:
    found = figures(BY_CASE, CASES)
    assert found["overall"]["dice"] == pytest.approx(summarise([0.6, 1.0, 0.0]).as_dict())
    assert found["overall"]["dice"]["sd"] == pytest.approx(np.std([0.6, 1.0, 0.0], ddof=1))
    assert found["volumes"] == bland_altman([22, 0, 0], [18, 0, 3]).as_dict()
    assert found["volumes"]["bias"] == pytest.approx(-1 / 3)


def test_slices_hold_their_own_scans_alone() -> None:
    found = figures(BY_CASE, CASES)["slices"]
    counts = {name: (item["patients"], item["scans"]) for name, item in found.items()}
    expected = {"small": (1, 1), "medium": (0, 0), "large": (1, 1), "no_bleed": (2, 2), "thick": (3, 3), "thin": (1, 1)}
    assert expected.items() <= counts.items()
    assert found["small"]["measures"]["dice"]["mean"] == 0.4
    assert found["thick"]["measures"]["dice"]["mean"] == pytest.approx((0.4 + 1.0 + 0.0) / 3)
    assert found["medium"]["measures"]["dice"] == summarise([]).as_dict()


def test_every_measure_has_a_heading_and_a_definition() -> None:
    assert set(TITLES) == set(MEASURES) <= set(DEFINITIONS)
