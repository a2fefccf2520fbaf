"""What a report says, of runs whose figures are known."""

from __future__ import annotations

import json
from typing import Any

import pytest

from components.imaging.agreement import bland_altman
from components.imaging.metrics import summarise
from components.run_report.content import collect, conclusion
from tests.components.data_report.listings import finding, listing, record
from tests.components.run_report.runs import cohort, history, made_contract, measured_cases, scan, tuning, verdict

CONFIG = {"name": "demo", "training": {"seed": 7}}


def collected(measures: Any, found: Any, served: Any = None, findings: Any = (), **gate: Any) -> dict[str, Any]:
    """The content of a run, through JSON."""
    result = verdict(measures, measured_cases(found), served, **gate)
    content = collect(
        result, found, made_contract(), name="demo", config=CONFIG, history=history(), findings=findings,
        created="2000-01-01", code="c0de",
    )  # fmt: skip
    again: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
    assert again == content
    return again


def test_figures_are_those_of_the_scans() -> None:
    found, measures = cohort(20)
    content = collected(measures, found)
    dice = [measures[case]["patient_dice"] for case in sorted(measures)]
    assert content["overall"]["dice"] == summarise(dice).as_dict()
    true, predicted = ([measures[case][f"{kind}_volume_ml"] for case in sorted(measures)]
                       for kind in ("true", "predicted"))  # fmt: skip
    assert content["volumes"]["bias"] == pytest.approx(bland_altman(true, predicted).bias)
    assert [row["dice"] for row in content["patients"]] == sorted(dice, reverse=True)
    assert [row["dice"] for row in content["scans"]] == sorted(dice)
    assert sum(content["false_positives"]["scans"]) == 20
    zero = sum(values["false_positive_components"] == 0 for values in measures.values())
    assert content["false_positives"]["scans"][0] == zero > 0
    assert content["data"]["spans"] == [3, 2]
    assert content["config"] == CONFIG and content["code"] == "c0de"
    assert content["training"]["best_epoch"] == 2 and len(content["training"]["epochs"]) == 3
    assert len(content["tuning"]["curve"]) == len(tuning()["curve"])
    assert content["postprocess"]["threshold"] == 0.4


def test_a_model_that_passed() -> None:
    found, measures = cohort(5)
    content = collected(measures, found)
    assert content["verdict"]["status"] == "passed" and content["verdict"]["reasons"] == []
    assert all(rule["passed"] for rule in content["rules"])
    assert content["served"] == {
        "version": None, "reason": "no model is in service yet", "difference": None, "overall": None,
        "calibration": None,
    }  # fmt: skip


def test_a_refusal_comes_first_with_reason_value_bound_and_worst_scans() -> None:
    found, measures = cohort(12)
    served = {case: {**values, "patient_dice": 0.99} for case, values in measures.items()}
    content = collected(measures, found, served, min_mean_dice=0.999, slices={"no_bleed": 0.0})
    assert content["verdict"]["status"] == "refused" and "2 rules" in content["verdict"]["headline"]
    assert len(content["verdict"]["reasons"]) == 2
    broken = [rule for rule in content["rules"] if not rule["passed"]]
    assert content["rules"][:2] == broken
    assert [rule["rule"] for rule in broken] == ["min_mean_dice", "max_dice_drop"]
    assert broken[0]["bound"] == 0.999 and broken[0]["value"] == pytest.approx(content["overall"]["dice"]["mean"])
    assert len(broken[0]["worst"]) == 3 and broken[0]["message"]
    assert content["served"]["overall"]["dice"]["mean"] == pytest.approx(0.99)
    assert content["served"]["difference"]["mean"] == pytest.approx(content["overall"]["dice"]["mean"] - 0.99)
    bounds = {name: item["bound"] for name, item in content["slices"].items()}
    assert bounds["no_bleed"] == 0.0 and bounds["small"] is None


def test_what_the_data_holds_is_no_verdict_of_the_gate() -> None:
    found, measures = cohort(5)
    content = collected(measures, found, findings=[finding("hold"), finding("note", feature="x")])
    assert content["verdict"]["status"] == "held"
    assert content["verdict"]["reasons"] == ["train: brain_hu_mean: differs from the data before"]
    assert len(content["held"]) == 1
    refused = {"blessed": False, "failures": [{"message": "too bad"}]}
    assert conclusion(refused, [finding("hold")])["status"] == "refused"


def test_one_patient_with_two_scans_without_blood() -> None:
    records = [record(case, "test", 0.0, patient_id="p") for case in ("a", "b")]
    content = collected({"a": scan(1.0, 0, 0, 0), "b": scan(0.0, 0, 5, 30)}, listing(*records))
    (patient,) = content["patients"]
    assert (patient["patient_id"], patient["scans"], patient["dice"], patient["rvd"]) == ("p", 2, 0.5, 0.0)
    assert content["overall"]["dice"]["ci95_low"] is None
    assert content["volumes"]["low"] is None
    assert len(content["false_positives"]["scans"]) == 21 and content["false_positives"]["open"]


@pytest.mark.parametrize("kept", [None, {}, {"epochs": []}, {"epochs": 12}])
def test_without_a_history_nor_tuning_there_is_a_report(kept: Any) -> None:
    found, measures = cohort(3)
    result = verdict(measures, measured_cases(found))
    content = collect(result, found, {**made_contract(), "tuning": {}}, name="n", config={}, history=kept)
    assert content["training"] is None and content["tuning"] is None
