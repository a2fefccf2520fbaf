"""What a user reads after a run, word for word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.last_run import LastRun
from pipeline.local_runner import PUSHED, REFUSED, Outcome
from pipeline.verdict_text import verdict_lines

OVERALL = {
    "patients": 6.0, "patient_dice": 0.7214, "patient_dice_sd": 0.1049, "false_positive_components": 1.25
}  # fmt: skip
MODEL = Path("out/serving/ich/1700000000")
TEST_LINE = "test split: 6 patients, Dice 0.721 ± 0.105, 1.2 false-positive components a scan"


def lines(code: int, model: Path | None = MODEL, **verdict: Any) -> list[str]:
    """The text of an outcome."""
    made = {"overall": OVERALL, "failures": [], "by_case": {}, "baseline": {}, **verdict}
    return list(verdict_lines(Outcome(code, made, model, Path("out/logs/1.log")), Path("out")))


def failure(metric: str, value: float, *, change: bool = False) -> dict[str, Any]:
    """A failure as the verdict lists it."""
    return {
        "metric": metric, "is_change": change, "value": value, "lower_bound": 8.0, "allowed_change": -0.02
    }  # fmt: skip


def test_a_first_model_is_pushed() -> None:
    baseline = {"version": None, "used": False, "reason": "no model is in service yet"}
    assert lines(PUSHED, baseline=baseline) == [
        TEST_LINE,
        "pushed:     out/serving/ich/1700000000",
        "outputs:    out",
        "log:        out/logs/1.log",
    ]


def test_the_model_in_service_is_named_where_it_was_measured() -> None:
    baseline = {"version": "1600000000", "used": True, "reason": "", "overall": {"patient_dice": 0.7}}
    assert "in service:  version 1600000000, Dice 0.700" in lines(PUSHED, baseline=baseline)
    unused = {"version": "1600000000", "used": False, "reason": "another grid"}
    assert not any("in service" in line for line in lines(PUSHED, baseline=unused))


def test_a_refusal_gives_every_reason_and_the_worst_scans() -> None:
    by_case = {name: {"patient_dice": dice} for name, dice in (("a", 0.9), ("b", 0.1), ("c", 0.0), ("d", 0.25))}
    failures = [failure("patients", 6.0), failure("patient_dice", -0.05, change=True)]
    assert lines(REFUSED, failures=failures, by_case=by_case) == [
        TEST_LINE,
        "refused by the gate:",
        "  number of test patients is 6.000, wanted at least 8.000",
        "  mean test Dice changed by -0.050, allowed is -0.020",
        "  worst scans: c (0.00), b (0.10), d (0.25)",
        "  out/serving/ich/1700000000 stays in service",
        "outputs:    out",
        "log:        out/logs/1.log",
    ]


HOLD = {
    "split": "train", "feature": "brain_hu_mean", "kind": "drift", "severity": "hold", "rule": "drift against x",
    "description": "differs from x: Jensen-Shannon divergence 0.900, allowed is 0.200", "value": 0.9, "bound": 0.2,
}  # fmt: skip


def test_what_holds_a_push_is_named_with_value_and_bound() -> None:
    verdict = {"overall": OVERALL, "failures": [], "by_case": {}, "baseline": {}}
    note = {**HOLD, "severity": "note", "feature": "orientation"}
    outcome = Outcome(REFUSED, verdict, MODEL, Path("out/logs/1.log"), findings=[HOLD, note])
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
    verdict = {"overall": OVERALL, "failures": [failure("patient_dice", 0.2)], "by_case": {}, "baseline": {}}
    text = list(verdict_lines(Outcome(REFUSED, verdict, MODEL, Path("l"), findings=[HOLD]), Path("out")))
    assert "refused by the gate:" in text and "held by what was found against the data:" in text


def test_nothing_new() -> None:
    last = LastRun("key", "20260102T030405", 0, "1700000000", False)
    outcome = Outcome(PUSHED, {}, MODEL, Path("l"), unchanged=last)
    assert list(verdict_lines(outcome, Path("out"))) == [f"in service: {MODEL}", "outputs:    out"]
    assert "the run of 2026-01-02 03:04 UTC, which pushed version 1700000000; nothing to do" in last.text()
    assert "was refused by the gate" in LastRun("key", "20260102T030405", 3, None, False).text()


def test_a_refused_first_model_leaves_nothing_in_service() -> None:
    assert "  no model is in service" in lines(REFUSED, None, failures=[failure("patient_dice", 0.2)])
