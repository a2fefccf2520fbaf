"""What a user reads after a run, word for word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.evaluator.rules import decide
from components.servability.rules import judge
from pipeline.last_run import LastRun
from pipeline.local_runner import PUSHED, REFUSED, Outcome
from pipeline.verdict_text import verdict_lines

OVERALL = {
    "patients": 6.0, "patient_dice": 0.7214, "patient_dice_sd": 0.1049, "false_positive_components": 1.25
}  # fmt: skip
MODEL = Path("out/serving/ich/1700000000")
INTERVAL = {"mean": 0.7214, "low": 0.6461, "high": 0.7984}
TEST_LINE = (
    "test split: 6 patients, Dice 0.721 ± 0.105 (95 % interval 0.65 to 0.80), 1.2 false-positive components a scan"
)
VERDICT: dict[str, Any] = {
    "overall": OVERALL, "interval": INTERVAL, "failures": [], "notes": [], "by_case": {}, "baseline": {}
}  # fmt: skip


def lines(code: int, model: Path | None = MODEL, **verdict: Any) -> list[str]:
    """The text of an outcome."""
    return list(verdict_lines(Outcome(code, {**VERDICT, **verdict}, model, Path("out/logs/1.log")), Path("out")))


CASES = {name: {"patient_id": patient, "size_bin": "small", "spacing_mm": [5.0, 0.5, 0.5]}
         for name, patient in (("a1", "a"), ("a2", "a"), ("b", "b"), ("c", "c"))}  # fmt: skip


def measures(**dice: float) -> dict[str, dict[str, float]]:
    """By case, with 5 of 10 ml outlined and two false alarms."""
    return {
        case: {
            "patient_dice": dice[case], "true_volume_ml": 10.0, "predicted_volume_ml": 5.0,
            "false_positive_components": 2.0, "outside_brain_ml": 1.0, "undefined_pixels": 0.0,
        }
        for case in CASES
    }  # fmt: skip


def refusal(gate: dict[str, Any], served: dict[str, dict[str, float]] | None = None) -> list[dict[str, Any]]:
    """What the gate says of a middling model."""
    whole = {"min_mean_dice": 0.0, "max_dice_drop": 0.02, "min_test_patients": 1, **gate}
    found = decide(whole, CASES, measures(a1=0.7, a2=0.1, b=0.25, c=0.9), served)
    return [rule.as_failure() for rule in found.failures]


def test_a_first_model_is_pushed() -> None:
    baseline = {"version": None, "used": False, "reason": "no model is in service yet"}
    assert lines(PUSHED, baseline=baseline) == [
        TEST_LINE,
        "pushed:     out/serving/ich/1700000000",
        "outputs:    out",
        "log:        out/logs/1.log",
    ]


def test_the_card_of_a_pushed_model_is_named_where_it_has_one(tmp_path: Path) -> None:
    (tmp_path / "assets.extra").mkdir()
    assert not any(line.startswith("model card") for line in lines(PUSHED, tmp_path))
    card = tmp_path / "assets.extra" / "model_card.md"
    card.touch()
    assert lines(PUSHED, tmp_path)[1:3] == [f"pushed:     {tmp_path}", f"model card: {card}"]
    refused = lines(REFUSED, tmp_path, failures=refusal({"min_mean_dice": 0.6}))
    assert not any(line.startswith("model card") for line in refused)


def test_the_report_is_named_where_it_was_written(tmp_path: Path) -> None:
    outcome = Outcome(PUSHED, VERDICT, MODEL, tmp_path / "logs" / "1.log")
    page = tmp_path / "reports" / "1" / "index.html"
    assert not any(line.startswith("report") for line in verdict_lines(outcome, tmp_path))
    page.parent.mkdir(parents=True)
    page.touch()
    assert list(verdict_lines(outcome, tmp_path))[-3] == f"report:     {page}"


def test_the_model_in_service_is_named_where_it_was_measured() -> None:
    baseline = {"version": "1600000000", "used": True, "reason": "", "overall": {"patient_dice": 0.7}}
    assert "in service:  version 1600000000, Dice 0.700" in lines(PUSHED, baseline=baseline)
    unused = {"version": "1600000000", "used": False, "reason": "another grid"}
    assert "in service:  version 1600000000, not compared: another grid" in lines(PUSHED, baseline=unused)


def test_a_refusal_gives_every_rule_with_value_bound_and_the_worst_scans() -> None:
    gate = {"min_test_patients": 8, "min_mean_dice": 0.6, "max_false_positives": 1.5, "slices": {"thick": 0.5167}}
    assert lines(REFUSED, failures=refusal(gate, measures(a1=0.7, a2=0.2, b=0.9, c=0.9))) == [
        TEST_LINE,
        "refused by the gate:",
        "  min_test_patients: 3 test patients, wanted at least 8",
        "  min_mean_dice: mean test Dice is 0.517, wanted at least 0.600",
        "    worst: a2 of patient a (Dice 0.10); b (Dice 0.25); a1 of patient a (Dice 0.70)",
        "  max_false_positives: 2.0 false-positive components a scan, wanted at most 1.5",
        "    worst: a2 of patient a (Dice 0.10, 2 false-positive components); b (Dice 0.25, 2 false-positive "
        "components); a1 of patient a (Dice 0.70, 2 false-positive components)",
        "  slices.thick: mean Dice on scans with slices more than 4 mm apart (3 patients) is 0.51667, wanted at least "
        "0.51670",
        "    worst: a2 of patient a (Dice 0.10); b (Dice 0.25); a1 of patient a (Dice 0.70)",
        "  max_dice_drop: mean test Dice changed by -0.233 against the model in service, allowed is -0.020",
        "    worst: b (Dice 0.25, in service 0.90); a2 of patient a (Dice 0.10, in service 0.20); "
        "a1 of patient a (Dice 0.70, in service 0.70)",
        "  look at the worst in the report; the bounds are in the section gate (docs/GATE.md)",
        "  out/serving/ich/1700000000 stays in service",
        "outputs:    out",
        "log:        out/logs/1.log",
    ]


def test_a_model_that_cannot_be_served_is_told_by_which_rule_value_and_bound() -> None:
    bounds = {"max_load_seconds": 60.0, "max_seconds_per_scan": 30.0, "max_memory_mib": None}
    report = {
        "finished": True, "problems": {"batches": "a request of 3 slices: 1 of 9 probabilities are no numbers"},
        "measures": {"load_seconds": 1.0, "seconds_per_scan": 41.26, "peak_mib": 5000.0},
    }  # fmt: skip
    outcome = Outcome(REFUSED, VERDICT, MODEL, Path("l"), servability=judge(report, "", bounds))
    assert list(verdict_lines(outcome, Path("out")))[1:-3] == [
        "refused as not servable:",
        "  servability.batches: a request of 3 slices: 1 of 9 probabilities are no numbers",
        "  servability.max_seconds_per_scan: a scan takes 41.3 s, wanted at most 30 s",
        "  if it may be served all the same, run again with --set servability.max_seconds_per_scan=null, or a wider "
        "bound",
    ]


def test_the_same_worst_scans_are_named_once() -> None:
    text = lines(REFUSED, failures=refusal({"min_mean_dice": 0.6, "slices": {"thick": 0.6, "small": 0.6}}))
    assert sum("worst:" in line for line in text) == 1
    assert sum("slices." in line for line in text) == 2


def test_a_single_patient_has_no_interval() -> None:
    assert lines(PUSHED, interval={"mean": 0.7, "low": None, "high": None})[0] == (
        "test split: 6 patients, Dice 0.721 ± 0.105, 1.2 false-positive components a scan"
    )


def test_notes_and_the_difference_to_the_model_in_service() -> None:
    baseline = {
        "version": "1600000000", "used": True, "overall": {"patient_dice": 0.7},
        "difference": {"mean": 0.0214, "low": -0.004, "high": 0.0461},
    }  # fmt: skip
    text = lines(PUSHED, baseline=baseline, notes=["gate.slices.small was not looked at: why"])
    assert text[1:3] == [
        "in service:  version 1600000000, Dice 0.700, the candidate +0.021 (95 % interval -0.004 to 0.046)",
        "note:       gate.slices.small was not looked at: why",
    ]


HOLD = {
    "split": "train", "feature": "brain_hu_mean", "kind": "drift", "severity": "hold", "rule": "drift against x",
    "description": "differs from x: Jensen-Shannon divergence 0.900, allowed is 0.200", "value": 0.9, "bound": 0.2,
}  # fmt: skip


def test_what_holds_a_push_is_named_with_value_and_bound() -> None:
    note = {**HOLD, "severity": "note", "feature": "orientation"}
    outcome = Outcome(REFUSED, VERDICT, MODEL, Path("out/logs/1.log"), findings=[HOLD, note])
    assert list(verdict_lines(outcome, Path("out"))) == [
        TEST_LINE,
        "held by what was found against the data:",
        "  train, brain_hu_mean: differs from x: Jensen-Shannon divergence 0.900, allowed is 0.200",
        "  look at the data; if it is as it should be, run again with --set validation.drift=note",
        "  out/serving/ich/1700000000 stays in service",
        "outputs:    out",
        "log:        out/logs/1.log",
    ]


def test_a_gate_and_a_finding_can_both_refuse() -> None:
    verdict = {**VERDICT, "failures": refusal({"min_mean_dice": 0.6})}
    text = list(verdict_lines(Outcome(REFUSED, verdict, MODEL, Path("l"), findings=[HOLD]), Path("out")))
    assert "refused by the gate:" in text and "held by what was found against the data:" in text


def test_nothing_new() -> None:
    last = LastRun("key", "20260102T030405", 0, "1700000000", False)
    outcome = Outcome(PUSHED, {}, MODEL, Path("l"), unchanged=last)
    assert list(verdict_lines(outcome, Path("out"))) == [f"in service: {MODEL}", "outputs:    out"]
    assert "the run of 2026-01-02 03:04 UTC, which pushed version 1700000000; nothing to do" in last.text()
    assert "was refused by the gate" in LastRun("key", "20260102T030405", 3, None, False).text()


def test_a_refused_first_model_leaves_nothing_in_service() -> None:
    assert "  no model is in service" in lines(REFUSED, None, failures=refusal({"min_mean_dice": 0.6}))
