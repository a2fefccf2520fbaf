"""The gate from end to end: TFX's Evaluator with our metrics, against NumPy on the same model."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow.core.example.example_pb2 import Example

from components.evaluator.patient_metrics import KEYS, MEANS, OF_PREDICTION
from components.imaging.metrics import scan_metrics
from components.imaging.postprocess import outline, quantise
from tests.cases import SPACING_MM, Sample, cuboid
from tests.components.evaluator.runs import Result, evaluate, listed
from tests.models import Arithmetic, export, postprocess

SAMPLES = [
    # Found as it is: 13 ml.
    Sample("a1", [cuboid((1, 3), (26, 38), (26, 38))], [cuboid((1, 3), (26, 38), (26, 38))], patient_id="a"),
    # The same patient's second scan, found in half; 26 ml.
    Sample("a2", [cuboid((1, 3), (20, 38), (26, 34))], [cuboid((1, 3), (20, 38), (26, 42))], patient_id="a"),
    # Small; in part beside it, and false alarms in another corner.
    Sample(
        "b",
        [cuboid((2, 4), (30, 36), (24, 32)), cuboid((0, 1), (40, 44), (40, 44))],
        [cuboid((2, 4), (30, 36), (28, 36))],
    ),
    # No blood, nothing found.
    Sample("c"),
    # No blood, a speck found.
    Sample("d", [cuboid((3, 4), (28, 32), (28, 32))]),
    # Missed.
    Sample("007", [], [cuboid((0, 2), (24, 32), (30, 40))]),
]
LISTED = listed(SAMPLES)
"""What ingestion writes of them to `cases.json`."""
PATIENTS = {"a": ["a1", "a2"], "b": ["b"], "c": ["c"], "d": ["d"], "007": ["007"]}
BINS = {"none": ["c", "d"], "small": ["b"], "medium": ["a1", "007"], "large": ["a2"]}

NAMES = (*MEANS, *OF_PREDICTION)

CANDIDATE = Arithmetic()
SERVED = Arithmetic(level=60.0)
"""The model in service; exported with a post-processing of its own."""
SERVED_POSTPROCESS: dict[str, Any] = {
    "threshold": 0.3, "min_component_ml": 2.0, "core_threshold": 0.8, "fill_holes": True, "hu_range": [50.0, 75.0],
}  # fmt: skip


def reference(network: Arithmetic, **settings: Any) -> dict[str, dict[str, float]]:
    """Measures by case as NumPy computes them."""
    found = {}
    for sample in SAMPLES:
        scan = sample.scan()
        quantised = quantise(network.numpy(scan.examples(0)))
        mask = outline(quantised, scan.geometry, postprocess(**settings), scan.hu)
        measured = scan_metrics(sample.mask, mask, SPACING_MM).as_dict()
        found[sample.case_id] = {
            **{name: float(measured[name] or 0.0) for name in MEANS},
            # All that these models outline lies well within the brain.
            **dict.fromkeys(OF_PREDICTION, 0.0),
        }
    return found


def reference_calibration(network: Arithmetic) -> dict[str, Any]:
    """Of all pixels at once, in floating point."""
    probability, truth = [], []
    for sample in SAMPLES:
        probability.append(quantise(network.numpy(sample.scan().examples(0))).ravel() / 255)
        examples = [Example.FromString(record).features.feature for record in sample.examples()]
        truth += [np.frombuffer(example["mask"].bytes_list.value[0], np.uint8) / 255 for example in examples]
    p, t = np.concatenate(probability), np.concatenate(truth)
    counted = (p >= 0.01) | (t > 0)
    bins, apart = [], 0.0
    for place in range(10):
        inside = counted & (p >= place / 10) & ((p < (place + 1) / 10) | (place == 9))
        if inside.any():
            bins.append((int(inside.sum()), p[inside].mean(), t[inside].mean()))
            apart += inside.sum() * abs(p[inside].mean() - t[inside].mean())
        else:
            bins.append((0, None, None))
    return {
        "bins": bins, "pixels": int(counted.sum()), "ece": apart / counted.sum(), "all_pixels": len(p),
        "brier": np.mean((p - t)[counted] ** 2), "brier_all_pixels": np.mean((p - t) ** 2),
    }  # fmt: skip


def means(by_case: dict[str, dict[str, float]], patients: dict[str, list[str]]) -> dict[str, float]:
    """Scans averaged within a patient, then patients; in the names of the verdict."""
    rows = [[np.mean([by_case[case][name] for case in cases]) for name in NAMES] for cases in patients.values()]
    table = np.array(rows)
    result = dict(zip(KEYS, table.mean(axis=0).tolist(), strict=False))
    result["patient_dice_sd"] = float(np.std(table[:, 0], ddof=1)) if len(rows) > 1 else 0.0
    result["patients"] = float(len(patients))
    result["scans"] = float(sum(map(len, patients.values())))
    return result


@cache
def expected(which: str) -> dict[str, float]:
    """Overall measures of candidate or baseline."""
    by_case = reference(CANDIDATE) if which == "candidate" else reference(SERVED, **SERVED_POSTPROCESS)
    return means(by_case, PATIENTS)


@dataclass(frozen=True)
class Models:
    """Folders of Model artifacts: a candidate, a model in service, and the place where none is."""

    candidate: Path
    served: Path
    none: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    root = tmp_path_factory.mktemp("models")
    export(root / "candidate" / "Format-Serving", CANDIDATE)
    export(root / "served" / "Format-Serving", SERVED, **SERVED_POSTPROCESS)
    (root / "none").mkdir()
    note = {"version": "17", "used": True, "reason": "compared on the same scans"}
    (root / "served" / "baseline.json").write_text(json.dumps(note))
    note = {"version": None, "used": False, "reason": "no model is in service yet"}
    (root / "none" / "baseline.json").write_text(json.dumps(note))
    return Models(root / "candidate", root / "served", root / "none")


def in_order() -> list[list[bytes]]:
    """All slices, case by case, in one shard."""
    return [[record for sample in SAMPLES for record in sample.examples()]]


def shuffled() -> list[list[bytes]]:
    """The same slices, dealt out to three shards at random: no shard holds a whole scan."""
    records = in_order()[0]
    random.Random(5).shuffle(records)
    return [records[::3], records[1::3], records[2::3]]


@pytest.fixture(scope="module")
def first(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Nothing in service, rules that hold, slices in disorder."""
    return evaluate(
        tmp_path_factory.mktemp("first"), LISTED, shuffled(), models.candidate, models.none,
        slices={"no_bleed": 0.5, "thin": 0.5}, max_false_positives=1.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def against_served(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A model in service that is better by more than is allowed; slices in order."""
    return evaluate(tmp_path_factory.mktemp("second"), LISTED, in_order(), models.candidate, models.served)


@pytest.fixture(scope="module")
def out_of_bounds(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Several bounds missed, while the drop is allowed."""
    return evaluate(
        tmp_path_factory.mktemp("third"), LISTED, in_order(), models.candidate, models.served,
        min_mean_dice=0.99, min_test_patients=6, max_dice_drop=0.9, slices={"small": 0.9, "large": 0.5},
    )  # fmt: skip


ACROSS = Arithmetic(level=45.0, across=True)
"""A model of whole scans, which looks at the next slice too."""


@pytest.mark.parametrize(
    ("candidate", "served"), [("across", "none"), ("across", "candidate"), ("candidate", "across")]
)
def test_models_of_slices_and_of_scans_are_measured_side_by_side(
    models: Models, tmp_path: Path, candidate: str, served: str
) -> None:
    """Slices lie in disorder in several shards, and yet each model sees what it needs."""
    settings: dict[str, Any] = {"hu_range": [30.0, 90.0], "threshold": 0.4}
    export(tmp_path / "across" / "Format-Serving", ACROSS, **settings)
    (tmp_path / "across" / "baseline.json").write_text(json.dumps({"version": "3", "used": True, "reason": ""}))
    folders = {"across": tmp_path / "across", "candidate": tmp_path / "slices", "none": models.none}
    export(tmp_path / "slices" / "Format-Serving", SERVED, **SERVED_POSTPROCESS)
    (tmp_path / "slices" / "baseline.json").write_text(json.dumps({"version": "4", "used": True, "reason": ""}))
    found = evaluate(tmp_path, LISTED, shuffled(), folders[candidate], folders[served]).verdict
    wanted = {
        "across": means(reference(ACROSS, **settings), PATIENTS),
        "candidate": means(reference(SERVED, **SERVED_POSTPROCESS), PATIENTS),
    }
    assert wanted["across"]["patient_dice"] > 0.3
    assert wanted["across"]["patient_dice"] != pytest.approx(wanted["candidate"]["patient_dice"], abs=0.02)
    assert found["overall"] == pytest.approx(wanted[candidate], abs=1e-9)
    networks = {"across": ACROSS, "candidate": SERVED}
    brier = reference_calibration(networks[candidate])["brier"]
    assert found["calibration"]["brier"] == pytest.approx(brier, rel=1e-9)
    if served != "none":
        assert found["baseline"]["overall"] == pytest.approx(wanted[served], abs=1e-9)
        brier = reference_calibration(networks[served])["brier"]
        assert found["baseline"]["calibration"]["brier"] == pytest.approx(brier, rel=1e-9)


def test_the_cohort_is_worth_testing() -> None:
    """By hand: what is exact, missed, halved and false gives known measures."""
    by_case = reference(CANDIDATE)
    assert by_case["a1"]["dice"] == 1
    assert by_case["c"]["dice"] == 1
    assert by_case["d"]["dice"] == 0
    assert by_case["007"]["dice"] == 0
    assert by_case["a2"]["dice"] == pytest.approx(2 / 3, abs=0.01)  # half of it: 2 * 0.5 / 1.5
    assert by_case["b"]["dice"] == pytest.approx(0.5, abs=0.1)
    assert by_case["b"]["false_positive_components"] == 1
    assert by_case["007"]["missed_components"] == 1
    assert by_case["a1"]["true_volume_ml"] == pytest.approx(2 * 12 * 12 * 0.045)
    wanted = (np.mean([1, by_case["a2"]["dice"]]) + by_case["b"]["dice"] + 1) / 5
    assert expected("candidate")["patient_dice"] == pytest.approx(wanted)
    served = reference(SERVED, **SERVED_POSTPROCESS)
    assert served["d"]["dice"] == 1  # its smallest component swallows the speck
    assert expected("baseline")["patient_dice"] > expected("candidate")["patient_dice"] + 0.1


@pytest.mark.parametrize("name", KEYS)
def test_overall_measures_are_those_of_numpy(first: Result, name: str) -> None:
    assert first.verdict["overall"][name] == pytest.approx(expected("candidate")[name], abs=1e-9)


def test_two_scans_of_a_patient_count_as_one_patient(first: Result) -> None:
    overall = first.verdict["overall"]
    assert (overall["patients"], overall["scans"]) == (5, 6)
    per_scan = np.mean([case["dice"] for case in reference(CANDIDATE).values()])
    assert overall["patient_dice"] != pytest.approx(float(per_scan), abs=0.01)


def test_calibration_of_both_models_is_that_of_numpy(first: Result, against_served: Result) -> None:
    """Over every pixel of the grid, of which but a few reach the grouping by scan."""
    verdict = against_served.verdict
    assert verdict["calibration"] == first.verdict["calibration"]  # to the last bit, in whatever order slices came
    for found, network in ((verdict["calibration"], CANDIDATE), (verdict["baseline"]["calibration"], SERVED)):
        wanted = reference_calibration(network)
        for name in ("pixels", "all_pixels", "brier", "ece", "brier_all_pixels"):
            assert found[name] == pytest.approx(wanted[name], rel=1e-9), name
        assert wanted["all_pixels"] == 6 * 5 * 32 * 32 > 4 * wanted["pixels"]
        assert sum(pixels > 0 for pixels, _, _ in wanted["bins"]) > 1
        for bin_, (pixels, mean, share) in zip(found["bins"], wanted["bins"], strict=True):
            assert bin_["pixels"] == pixels
            assert (bin_["mean_probability"], bin_["true_share"]) == pytest.approx((mean, share))
    assert verdict["calibration"]["brier"] != verdict["baseline"]["calibration"]["brier"]


@pytest.mark.parametrize(("size_bin", "cases"), BINS.items())
def test_by_size_bin(first: Result, size_bin: str, cases: list[str]) -> None:
    wanted = means(reference(CANDIDATE), {case: [case] for case in cases})
    assert first.verdict["by_size"][size_bin] == pytest.approx(wanted, abs=1e-9)
    assert set(first.verdict["by_size"]) == set(BINS)


def test_by_case(first: Result) -> None:
    by_case = reference(CANDIDATE)
    assert set(first.verdict["by_case"]) == set(by_case)
    for case, values in first.verdict["by_case"].items():
        assert values == pytest.approx(means(by_case, {case: [case]}), abs=1e-9)


def test_the_first_model_is_blessed_when_it_reaches_the_bounds(first: Result) -> None:
    assert first.blessed
    assert first.verdict["blessed"] is True
    assert first.verdict["failures"] == []
    assert first.verdict["baseline"] == {"version": None, "used": False, "reason": "no model is in service yet"}


def test_order_shards_and_a_second_model_change_no_measure(first: Result, against_served: Result) -> None:
    for part in ("overall", "by_size", "by_case"):
        assert against_served.verdict[part] == first.verdict[part]


def test_the_model_in_service_is_measured_with_its_own_post_processing(against_served: Result) -> None:
    baseline = against_served.verdict["baseline"]
    assert (baseline["version"], baseline["used"]) == ("17", True)
    assert baseline["overall"] == pytest.approx(expected("baseline"), abs=1e-9)


def test_a_drop_against_the_model_in_service_is_refused(against_served: Result) -> None:
    assert not against_served.blessed
    assert against_served.verdict["blessed"] is False
    (failure,) = against_served.verdict["failures"]
    drop = expected("candidate")["patient_dice"] - expected("baseline")["patient_dice"]
    assert (failure["rule"], failure["metric"]) == ("max_dice_drop", "dice_change")
    assert failure["value"] == pytest.approx(drop, abs=1e-9)
    assert failure["bound"] == pytest.approx(-0.02)
    assert failure["worst"][0] == {"case_id": "d", "patient_id": "d", "dice": 0.0, "served_dice": 1.0}
    difference = against_served.verdict["baseline"]["difference"]
    assert difference["mean"] == failure["value"]
    assert difference["low"] < difference["mean"] < difference["high"] == 0  # no patient is better than in service


def test_every_broken_rule_is_listed_by_name(out_of_bounds: Result) -> None:
    assert not out_of_bounds.blessed
    failures = {failure["rule"]: failure for failure in out_of_bounds.verdict["failures"]}
    assert set(failures) == {"min_mean_dice", "min_test_patients", "slices"}
    assert failures["min_mean_dice"]["value"] == pytest.approx(expected("candidate")["patient_dice"], abs=1e-9)
    assert failures["min_mean_dice"]["bound"] == 0.99
    assert [case["case_id"] for case in failures["min_mean_dice"]["worst"]] == ["007", "d", "b"]
    assert failures["min_test_patients"]["value"] == 5
    assert failures["min_test_patients"]["bound"] == 6
    assert failures["slices"]["slice"] == "small"
    assert [case["case_id"] for case in failures["slices"]["worst"]] == ["b"]
    rules = {(rule["rule"], rule["slice"]): rule["passed"] for rule in out_of_bounds.verdict["rules"]}
    assert rules == {
        ("min_test_patients", ""): False, ("min_mean_dice", ""): False, ("slices", "small"): False,
        ("slices", "large"): True, ("max_dice_drop", ""): True, ("not_a_number", ""): True,
        ("outlines_nothing", "bleed"): True, ("outlines_everything", "bleed"): True,
        ("outlines_skull", "bleed"): True, ("outlines_without_blood", "no_bleed"): True,
    }  # fmt: skip


def test_the_rules_see_the_scans_that_tfma_measured(first: Result) -> None:
    verdict = first.verdict
    assert verdict["interval"]["mean"] == pytest.approx(verdict["overall"]["patient_dice"], abs=1e-12)
    assert 0 <= verdict["interval"]["low"] < verdict["interval"]["mean"] < verdict["interval"]["high"] <= 1
    for name, size in (("small", "small"), ("medium", "medium"), ("large", "large"), ("no_bleed", "none")):
        found, measured = verdict["slices"][name], verdict["by_size"][size]
        assert (found["patients"], found["scans"]) == (measured["patients"], measured["scans"])
        assert found["mean"] == pytest.approx(measured["patient_dice"], abs=1e-12)
    assert verdict["slices"]["thick"]["scans"] == 6  # slices are 5 mm apart
    assert verdict["notes"] == [
        "gate.slices.thin was not looked at: no scans with slices up to 4 mm apart in the test split"
    ]


def test_the_blessing_is_marked_as_tfx_marks_it(first: Result, against_served: Result, models: Models) -> None:
    for result, served in ((first, None), (against_served, models.served)):
        assert result.blessing.get_int_custom_property("blessed") == int(result.blessed)
        assert result.blessing.get_string_custom_property("current_model") == str(models.candidate)
        assert result.blessing.get_string_custom_property("baseline_model") == (str(served) if served else "")


def test_a_scan_that_was_not_measured_is_an_error_and_no_verdict(models: Models, tmp_path: Path) -> None:
    short = [[record for sample in SAMPLES[:-1] for record in sample.examples()]]
    with pytest.raises(ValueError, match="measured on 5 scans, wanted the 6 of the split; missing: 007"):
        evaluate(tmp_path, LISTED, short, models.candidate, models.none)
    assert not (tmp_path / "evaluation" / "verdict.json").exists()
    assert not any((tmp_path / "blessing").iterdir())
